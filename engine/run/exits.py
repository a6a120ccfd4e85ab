"""How a run that can't go on ends: one line and an exit code, never a traceback for what the user can mend."""
import errno
import time
from contextlib import contextmanager

import torch

from engine.run.interrupts import Interrupts, Stopped, Terminated
from utils.distributed import OtherRankFailed, is_main, leave_group
from utils.errors import UserError
from utils.launch import RANK0_REPORTS_FIRST_SECONDS
from utils.logging import logger, start_log, stop_log

# What the system says where files can't be written, whatever the program does.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def reported_errors():
    """Log from here on; what the user can mend becomes one line on stderr and exit code 2; a Ctrl-C ends with 130, a
    SIGTERM with 143.

    Besides UserError that is FloatingPointError (weights or gradients that are not finite), a full GPU, a disk that is
    full or can't be written, and a process of the loader's that was killed. Of several processes the one with the error
    says so; what all have, such as a wrong flag, rank 0 says alone. In the end this process leaves the others.
    """
    start_log()
    interrupts = Interrupts()
    try:
        with interrupts:
            yield
        leave_group()  # not after an error: it could wait for ranks that wait for this one
    except (UserError, FloatingPointError, RuntimeError, OSError) as error:
        if _is_ours(error):
            raise
        if interrupts.signum and "DataLoader worker" in str(error):  # the signal came to that process too
            raise SystemExit(128 + interrupts.signum) from None
        if not is_main():
            time.sleep(RANK0_REPORTS_FIRST_SECONDS)
        logger.error("error: %s", _own_words(error))
        raise SystemExit(2) from error
    except OtherRankFailed as error:
        logger.info("%s", error)
        time.sleep(3 * RANK0_REPORTS_FIRST_SECONDS)  # the other rank reports first, see there
        raise SystemExit(2) from None
    except Stopped as stopped:
        raise SystemExit(128 + stopped.signum) from None
    except KeyboardInterrupt as interrupt:
        raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None
    finally:
        stop_log()


def _is_ours(error: Exception) -> bool:
    """Whether this is a defect of the program, which wants a traceback."""
    if isinstance(error, OSError):
        return error.errno not in UNWRITABLE
    told = isinstance(error, torch.OutOfMemoryError) or str(error).startswith("DataLoader worker (pid")
    return isinstance(error, RuntimeError) and not told


def _own_words(error: Exception) -> str:
    """The message, or for what is the system's the remedy."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: raise --accumulate, add --amp, or lower --batch_size, --crop_size or " \
            "--val_batch_size"
    if isinstance(error, OSError):
        return f"{error.filename or 'writing'}: {error.strerror}: make room there, or choose another --output_dir"
    return str(error).strip()
