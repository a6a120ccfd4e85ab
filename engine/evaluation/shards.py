"""How several processes share an evaluation: whole batches in turn, and what comes of them in rank 0's hands."""
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader

from datasets import batches_of, restricted
from utils.distributed import gather, grouped, rank, together, world_size


def share_of(loader: DataLoader, batches: list[list[int]] | None = None) -> DataLoader:
    """A loader of every n-th of `batches` (else of all it has), from this one of n processes on."""
    this, processes = _place()
    batches = batches_of(loader) if batches is None else batches
    return restricted(loader, batches[this::processes])


def hand_over(found: Iterator, total: int, take: Callable):
    """Call take(item) on rank 0 for `total` items that n processes find in turn, in the order of a single one.

    found: every n-th item, from this process on. None of them begins its next item before all have handed over this
    one, so what was taken has no gaps. An error in finding or in taking an item ends all. No collectives in either.
    """
    this, processes = _place()
    for taken in range(0, total, processes):
        item = None
        with together():
            if taken + this < total:
                item = next(found)
        items = gather(item)
        with together():
            for item in (items or [])[:total - taken]:
                take(item)
    next(found, None)  # there is none: a progress bar behind it reaches its end


def _place() -> tuple[int, int]:
    """(rank, how many there are); a process that has not joined the others is alone."""
    return (rank(), world_size()) if grouped() else (0, 1)
