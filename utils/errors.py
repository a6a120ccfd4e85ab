"""The one exception that is meant for the user."""


class UserError(Exception):
    """A request that can't be carried out: one line that names the thing and the remedy.

    main prints it without a traceback and exits with code 2.
    """
