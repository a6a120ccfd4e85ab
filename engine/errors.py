"""How a run that can't go on ends: one line and an exit code, never a traceback for what the user can mend."""
import time
from contextlib import contextmanager

import torch

from utils.distributed import ElsewhereError, is_main, stop, world_size
from utils.errors import UserError
from utils.logging import logger, start_log, stop_log

TURN = 5.0  # seconds in which rank 0, where it says the same, has ended, and torchrun with it all others


@contextmanager
def reported_errors():
    """Log from here on; what the user can mend becomes one line on stderr and exit code 2, a Ctrl-C exit code 130.

    Besides UserError that is FloatingPointError (weights or gradients that are not finite) and a full GPU. Of several
    processes the one with the error says so; what all have, such as a wrong flag, rank 0 says alone. In the end this
    process leaves the others.
    """
    start_log()
    try:
        yield
        stop()  # not after an error: it could wait for ranks that wait for this one
    except (UserError, FloatingPointError, torch.OutOfMemoryError) as error:
        if not is_main():
            time.sleep(TURN)
        logger.error("error: %s", _own_words(error))
        raise SystemExit(2) from error
    except ElsewhereError as error:
        logger.info("%s", error)
        time.sleep(3 * TURN)  # torchrun ends all when the first ends, and the other has something to say
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        stop_log()


def refuse_ranks(flag: str):
    """UserError where torchrun started several processes, for a `flag` with work for one."""
    if world_size() > 1:
        raise UserError(f"{flag} runs in one process: start it with python main.py")


def _own_words(error: Exception) -> str:
    """The message; one from a DataLoader's worker process comes as the last line of that process's traceback."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: raise --accumulate, add --amp, or lower --batch_size, --crop_size or " \
            "--val_batch_size"
    return text.splitlines()[-1].removeprefix("utils.errors.UserError: ") if "DataLoader worker" in text else text
