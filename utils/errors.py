"""The one exception that is meant for the user."""


class UserError(Exception):
    """A request that cannot be carried out: one line that says what is wrong, where, and what to do.

    main prints it without a traceback and exits with code 2.
    """
