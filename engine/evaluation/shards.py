"""Share an evaluation: among processes, each of which scores every n-th batch, or among calls (--shard)."""
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from datasets import ImageSet, list_batches, select_batches, with_indices
from engine.records.shards import read_shard, write_list
from utils.distributed import fail_together, gather_to_main, in_group, is_main, rank, world_size


def take_shard(loader: DataLoader, dataset, shard: str, *, folder: Path) -> tuple[DataLoader, str]:
    """Return a loader of every n-th batch, from the i-th on, for shard `i/n`, and the digest of all images.

    Writes to `folder` which images they are.
    """
    images, loader = ImageSet(dataset), with_indices(loader, dataset)
    batches, (number, count) = list_batches(loader), read_shard(shard)
    own = batches[number - 1::count]
    with fail_together():
        if own and is_main():
            write_list(folder, **{key: [images.name(index) for batch in some for index in batch]
                                  for key, some in (("every", batches), ("own", own))})
    return select_batches(loader, own), images.digest(loader)


def take_share(loader: DataLoader, batches: list[list[int]] | None = None) -> DataLoader:
    """Return a loader of this process's share of `batches` (default: all of the loader's): every n-th of them."""
    this, processes = _find_place()
    batches = list_batches(loader) if batches is None else batches
    return select_batches(loader, batches[this::processes])


def hand_over(found: Iterator, total: int, take: Callable):
    """Call take(item) on rank 0 for `total` items that n processes find, in the order of a single process.

    found: this process's items, every n-th. Each process waits until all have handed over an item before it begins the
    next, so rank 0 takes them without gaps. An error in found or take, which use no collectives, ends all processes.
    """
    this, processes = _find_place()
    for taken in range(0, total, processes):
        item = None
        with fail_together():
            if taken + this < total:
                item = next(found)
        items = gather_to_main(item)
        with fail_together():
            for item in (items or [])[:total - taken]:
                take(item)
    next(found, None)  # it is exhausted: this lets its progress bar finish


def _find_place() -> tuple[int, int]:
    """Return (rank, number of processes): (0, 1) before this process has joined the others."""
    return (rank(), world_size()) if in_group() else (0, 1)
