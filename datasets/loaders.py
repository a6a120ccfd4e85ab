"""Batches of a training and a validation set; the same seed gives the same batches."""
import os
import signal
import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count

import torch
from torch.utils.data import DataLoader, Dataset

from utils import distributed
from utils.errors import UserError
from utils.logging import logger
from utils.seed import make_generator, seeded_by
from utils.text import count_of

from .bad_images import HINT
from .base import SegmentationDataset
from .transforms import collate


class IndexedDataset(Dataset):
    """A data set whose items are (image, label, index), because validation records results by image."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        image, label, *_ = self.dataset[i]  # what else an item holds is not for us
        return image, label, i


class SeededDataset(Dataset):
    """A training set whose item (epoch, index) takes its random numbers from (seed, epoch, index) alone."""

    def __init__(self, dataset: Dataset, *, seed: int):
        self.load, self.seed = getattr(dataset, "load_bytes", dataset.__getitem__), seed

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        with seeded_by(self.seed, "sample", epoch, index):
            return self.load(index)


class Loader(DataLoader):
    """A DataLoader whose workers leave signals to the main process, and whose errors are UserErrors."""

    def __init__(self, dataset: Dataset, **settings):
        super().__init__(dataset, worker_init_fn=leave_signals_to_parent, **settings)

    def __iter__(self) -> Generator:
        with _blocked_signals():  # also in the workers that start here, until leave_signals_to_parent
            batches = super().__iter__()
        if self.num_workers:
            _with_workers.add(batches)
        return _translate_worker_errors(batches)


_with_workers = weakref.WeakSet()


def end_workers():
    """End the workers of all loaders, which an error's traceback keeps alive: at its exit Python waits for each."""
    for batches in list(_with_workers):
        batches._shutdown_workers()  # what the end of an iteration calls; torch has no public name for it
        for worker in batches._workers:
            worker.join(timeout=2)
            worker.kill()


class TrainingLoader:
    """Shuffled training batches (images [B, 3, H, W], labels [B, H, W]) without end; incomplete batches are dropped.

    Both are uint8, to be converted on the device. A data set without load_bytes() gives its items as they are.

    Iteration i always has the same batch, whatever was loaded before and however many workers load it, so a resumed
    run continues within its epoch. Under torchrun each process gets its share of the batch. len() is the number of
    iterations per epoch.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, num_workers: int, seed: int, pin_memory: bool = False):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.settings = {"num_workers": num_workers, "pin_memory": pin_memory}

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def iterate_from(self, itr: int) -> Generator:
        """Return an endless generator of batches from iteration itr on (0 is the first); close() stops its workers."""
        if (cache := getattr(self.dataset, "cache", None)) is not None:
            cache.fill()
        batches = self._draw_batches(itr, share=slice(distributed.rank(), None, distributed.world_size()))
        # A separate generator, so that the workers' seed is not drawn from the stream that the network uses.
        return iter(Loader(SeededDataset(self.dataset, seed=self.seed), batch_sampler=batches,
                           generator=_make_generator(self.seed), collate_fn=collate, **self.settings))

    def _draw_batches(self, first: int, *, share: slice) -> Iterator[list[tuple[int, int]]]:
        for epoch in count(first // len(self)):
            order = torch.randperm(len(self.dataset), generator=make_generator(self.seed, "order", epoch)).tolist()
            for batch in range(first % len(self) if epoch == first // len(self) else 0, len(self)):
                indices = order[batch * self.batch_size:(batch + 1) * self.batch_size][share]
                yield [(epoch, index) for index in indices]


def build_loaders(train_set: SegmentationDataset | None, val_set: SegmentationDataset, *, batch_size: int,
                  val_batch_size: int, num_workers: int, seed: int, pin_memory: bool = False,
                  val_images: int | None = None):
    """Return (train_loader, val_loader); train_loader is None if train_set is None.

    For training see TrainingLoader. Validation batches are (images, labels, indices int64 [B]) in order, of all images
    or of `val_images` evenly spaced ones. Raises UserError if batch_size exceeds the number of training images.
    """
    chosen = torch.linspace(0, len(val_set) - 1, min(val_images or len(val_set), len(val_set))).long().unique().tolist()
    val_loader = Loader(IndexedDataset(val_set), sampler=chosen,
                        batch_size=_choose_val_batch_size(val_set, val_batch_size), generator=_make_generator(seed),
                        num_workers=num_workers, persistent_workers=num_workers > 0, pin_memory=pin_memory)
    if train_set is None:
        return None, val_loader
    if len(train_set) < batch_size:
        share = f", or a smaller --val_share: {count_of(len(val_set), 'image')} validate" * bool(val_set.drawn)
        raise UserError(f"--batch_size {batch_size} is more than the {count_of(len(train_set), 'training image')}: "
                        f"choose a smaller batch{share}.")
    return TrainingLoader(train_set, batch_size=batch_size, num_workers=num_workers, seed=seed,
                          pin_memory=pin_memory), val_loader


def list_batches(loader: DataLoader) -> list[list[int]]:
    """Return the image indices of each batch of a validation loader."""
    return list(loader.batch_sampler)


def select_batches(loader: DataLoader, batches: list[list[int]]) -> DataLoader:
    """Return a validation loader of these batches of image indices; `loader` itself if it already has them."""
    if batches == list_batches(loader):
        return loader
    return Loader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers,
                  pin_memory=loader.pin_memory, generator=loader.generator)


def _translate_worker_errors(batches: Iterator) -> Generator:
    """Yield the batches; raise UserError for a bad image and for a worker that was killed, often for lack of memory."""
    try:
        yield from batches
    except UserError as error:
        # From a worker, the message is the last line of the worker's traceback.
        line = str(error).strip().splitlines()[-1].removeprefix("utils.errors.UserError: ")
        raise UserError(line if line.startswith("--cache") else f"{line} {HINT}") from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise UserError(f"{str(error).splitlines()[0]} (out of memory? lower --num_workers)") from None


def leave_signals_to_parent(_):
    """Ignore signals in a worker: a terminal and a scheduler send them to all processes, but the parent decides.

    A worker ends by a SIGTERM from its parent, or when its parent dies, which torch watches.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    elif hasattr(signal, "pthread_sigmask"):  # macOS doesn't tell who sent a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])


def _end_when_told_by(parent: int):
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)  # as torch's own workers end


@contextmanager
def _blocked_signals():
    """Block SIGINT and SIGTERM: none is lost, and none ends a worker before it can leave them to its parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_generator(seed):
    return torch.Generator().manual_seed(seed)


def _choose_val_batch_size(val_set, asked):
    if asked == 1 or (same := val_set.same_size):
        return asked
    logger.info("Validation images %s in size: --val_batch_size is 1, not %d (--crop_val gives one size)",
                "differ" if same is False else "may differ", asked)
    return 1
