"""Which of several processes this is; without torch, so that a wrong flag is answered at once."""
import sys

from utils import launch


class OtherRankFailed(Exception):
    """Another rank failed and reports its error itself; this rank only ends."""


def in_group() -> bool:
    """Return whether this process belongs to a process group; without one, collectives do nothing."""
    dist = sys.modules.get("torch.distributed")  # there is no group before it is imported
    return dist is not None and dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number, 0 to world_size() - 1."""
    return sys.modules["torch.distributed"].get_rank() if in_group() else launch.rank()


def world_size() -> int:
    """Return the number of processes."""
    return sys.modules["torch.distributed"].get_world_size() if in_group() else launch.world_size()


def is_main() -> bool:
    """Return whether this is rank 0, the only one that writes files and logs."""
    return rank() == 0
