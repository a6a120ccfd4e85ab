"""How a run that can't go on ends: one line and an exit code, never a traceback for what the user can mend."""
from contextlib import contextmanager

import torch

from utils.errors import UserError
from utils.logging import logger, start_log, stop_log


@contextmanager
def reported_errors():
    """Log from here on; what the user can mend becomes one line on stderr and exit code 2, a Ctrl-C exit code 130.

    Besides UserError that is FloatingPointError (weights or gradients that are not finite) and a full GPU.
    """
    start_log()
    try:
        yield
    except (UserError, FloatingPointError, torch.OutOfMemoryError) as error:
        logger.error("error: %s", _own_words(error))
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        stop_log()


def _own_words(error: Exception) -> str:
    """The message; one from a DataLoader's worker process comes as the last line of that process's traceback."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: lower --batch_size, --crop_size or --val_batch_size"
    return text.splitlines()[-1].removeprefix("utils.errors.UserError: ") if "DataLoader worker" in text else text
