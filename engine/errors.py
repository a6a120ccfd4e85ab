"""How a run that can't go on ends: one line and an exit code, never a traceback for what the user can mend."""
from contextlib import contextmanager

from utils.errors import UserError
from utils.logging import logger, start_log, stop_log


@contextmanager
def reported_errors():
    """Log from here on; what the user can mend becomes one line on stderr and exit code 2, a Ctrl-C exit code 130.

    A FloatingPointError is of that kind: weights or gradients that are not finite.
    """
    start_log()
    try:
        yield
    except (UserError, FloatingPointError) as error:
        logger.error("main.py: error: %s", _own_words(error))
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        stop_log()


def _own_words(error: Exception) -> str:
    """The message; one from a DataLoader's worker process comes as the last line of that process's traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].removeprefix("utils.errors.UserError: ") if "DataLoader worker" in text else text
