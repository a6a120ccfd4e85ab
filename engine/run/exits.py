"""How a run ends after an error: one line and an exit code; a traceback only for defects of the program."""
import errno
import sys
import time
from contextlib import contextmanager

from engine.run.interrupts import Interrupts, Stopped, Terminated
from utils.errors import UserError
from utils.launch import RANK0_REPORTS_FIRST_SECONDS
from utils.logging import logger, start_log, stop_log
from utils.memory import is_out_of_memory
from utils.ranks import OtherRankFailed, in_group, is_main

# Errors of a disk that is full or can't be written, which only the user can fix.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def reported_errors():
    """Log inside this context; an error that the user can fix becomes one line on stderr and exit code 2.

    Such errors are UserError, too little memory of the GPU or the machine, a disk that is full or can't be written, and
    a killed process of the loader. FloatingPointError (a network that has diverged) is one line too, with exit code 1.
    Ctrl-C exits with 130, SIGTERM with 143. Of several processes the failing one reports its error; an error of all,
    such as a wrong flag, only rank 0 reports.
    """
    start_log()
    interrupts = Interrupts()
    try:
        with interrupts:
            yield
        if in_group():  # not after an error: it could wait forever for ranks that wait for this one
            sys.modules["utils.distributed"].leave_group()
    except (UserError, FloatingPointError, RuntimeError, OSError, MemoryError) as error:
        if _is_program_error(error):
            raise
        if interrupts.signum and "DataLoader worker" in str(error):  # the signal also killed the loader's process
            raise SystemExit(128 + interrupts.signum) from None
        if not is_main():
            time.sleep(RANK0_REPORTS_FIRST_SECONDS)
        logger.error("error: %s", _describe(error))
        raise SystemExit(1 if isinstance(error, FloatingPointError) else 2) from error
    except OtherRankFailed as error:
        logger.info("%s", error)
        time.sleep(3 * RANK0_REPORTS_FIRST_SECONDS)  # the failing rank reports first
        raise SystemExit(2) from None
    except Stopped as stopped:
        raise SystemExit(128 + stopped.signum) from None
    except KeyboardInterrupt as interrupt:
        raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None
    finally:
        if loaders := sys.modules.get("datasets.loaders"):  # not if the error came before torch was imported
            loaders.end_workers()
        stop_log()


def _is_program_error(error: Exception) -> bool:
    """Return whether this is a defect of the program, to be shown with its traceback."""
    if isinstance(error, OSError):
        return error.errno not in UNWRITABLE
    reported = is_out_of_memory(error) or str(error).startswith("DataLoader worker (pid")
    return isinstance(error, RuntimeError) and not reported


def _describe(error: Exception) -> str:
    """Return the error's message; for an error of the system one with the remedy."""
    if is_out_of_memory(error):
        whose = "machine's" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else "GPU's"
        return (f"the {whose} memory is full: raise --accumulate, add --amp, or lower --batch_size or --crop_size "
                "(docs/training.md#memory-and-bfloat16); if images were being scored, give --window 512, or lower "
                "--val_batch_size (docs/evaluation.md#windows)")
    if isinstance(error, OSError):
        return (f"{error.filename or 'writing'}: {error.strerror}: make room there, or choose another --output_dir "
                "(docs/resume.md#checkpoints)")
    return str(error).strip()
