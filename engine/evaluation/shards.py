"""How several processes share an evaluation: whole batches in turn, and rank 0 takes what they find."""
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader

from datasets import list_batches, select_batches
from utils.distributed import fail_together, gather_to_main, in_group, rank, world_size


def share_of(loader: DataLoader, batches: list[list[int]] | None = None) -> DataLoader:
    """Return a loader of this process's share of `batches` (default: all the loader has): every n-th of n processes."""
    this, processes = _place()
    batches = list_batches(loader) if batches is None else batches
    return select_batches(loader, batches[this::processes])


def hand_over(found: Iterator, total: int, take: Callable):
    """Call take(item) on rank 0 for `total` items that n processes find in turn, in the order of a single process.

    found: this process's items, every n-th. No process begins its next item before all have handed over this one, so
    what was taken has no gaps. An error in finding or taking an item ends all processes. Both use no collectives.
    """
    this, processes = _place()
    for taken in range(0, total, processes):
        item = None
        with fail_together():
            if taken + this < total:
                item = next(found)
        items = gather_to_main(item)
        with fail_together():
            for item in (items or [])[:total - taken]:
                take(item)
    next(found, None)  # empty: a progress bar behind it reaches its end


def _place() -> tuple[int, int]:
    """Return (rank, number of processes); a process that has not joined the others is alone."""
    return (rank(), world_size()) if in_group() else (0, 1)
