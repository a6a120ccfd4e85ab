"""Who this process is, as torchrun's environment says; importing this takes no torch."""
import os
from pathlib import Path

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder wherever NVIDIA's driver has a GPU
# A rank with the same error as rank 0 waits so long before it ends: torchrun ends all ranks when one ends.
RANK0_REPORTS_FIRST_SECONDS = 5.0


def launched() -> bool:
    """Return whether torchrun, or something that sets its environment, started this process."""
    return all(name in os.environ for name in TORCHRUN)


def rank() -> int:
    """Return this process's number, 0 to world_size() - 1."""
    return _environment("RANK", 0)


def world_size() -> int:
    """Return the number of processes."""
    return _environment("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its GPU."""
    return _environment("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return _environment("LOCAL_WORLD_SIZE", 1)


def _environment(name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if launched() else default
