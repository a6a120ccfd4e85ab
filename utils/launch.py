"""What torchrun tells a process through its environment; without torch, so that options are checked quickly."""
import os
import socket
from pathlib import Path

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder wherever NVIDIA's driver has a GPU
# A rank with the same error as rank 0 waits so long before it ends: torchrun ends all ranks when one ends.
RANK0_REPORTS_FIRST_SECONDS = 5.0


def launched() -> bool:
    """Return whether torchrun, or a program that sets the same variables, started this process."""
    return all(name in os.environ for name in TORCHRUN)


def rank() -> int:
    """Return this process's number, 0 to world_size() - 1."""
    return _read_int("RANK", 0)


def world_size() -> int:
    """Return the number of processes."""
    return _read_int("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return this process's number on its machine, which is also the number of its GPU."""
    return _read_int("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return _read_int("LOCAL_WORLD_SIZE", 1)


def count_restarts() -> int:
    """Return how often torchrun has started the processes again after a failure (--max-restarts)."""
    return _read_int("TORCHELASTIC_RESTART_COUNT", 0)


def name_job() -> str | None:
    """Return what tells this call of torchrun from others; None if it doesn't restart processes."""
    if not _read_int("TORCHELASTIC_MAX_RESTARTS", 0):
        return None
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return job if job != "none" else f"{socket.gethostname()} {os.getppid()}"  # without --standalone or --rdzv-id


def _read_int(name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if launched() else default
