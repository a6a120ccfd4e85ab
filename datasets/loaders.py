"""Batches of a training and a validation set, the same ones for the same seed."""
import signal
from collections.abc import Generator, Iterator
from itertools import count

import torch
from torch.utils.data import DataLoader, Dataset

from utils import distributed
from utils.errors import UserError
from utils.logging import logger
from utils.seed import drawing_from, generator_for

from .base import SegmentationDataset
from .vetting import HINT


class Indexed(Dataset):
    """A data set that gives (image, label, index): validation needs to know which image it has."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return *self.dataset[i], i


class Augmented(Dataset):
    """A training set whose item (epoch, index) draws its random numbers from the seed and these two alone."""

    def __init__(self, dataset: Dataset, *, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: tuple[int, int]):
        epoch, index = place
        with drawing_from(self.seed, "sample", epoch, index):
            return self.dataset[index]


class Loader(DataLoader):
    """A DataLoader whose processes leave a Ctrl-C to the one they work for, and whose own end is told as what it is."""

    def __init__(self, dataset: Dataset, **settings):
        super().__init__(dataset, worker_init_fn=ignore_interrupts, **settings)

    def __iter__(self) -> Generator:
        return _told(super().__iter__())


class TrainingLoader:
    """Shuffled training batches (images [B, 3, H, W], labels [B, H, W]), epoch after epoch, the last of each dropped.

    Iteration i always has the same batch, whatever came before it, whoever loads it, however many workers there are:
    a run that is continued goes on inside its epoch, without reading again. Under torchrun every process gets its
    share of the batch. len() is the number of iterations in an epoch.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, num_workers: int, seed: int, pin_memory: bool = False):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.settings = {"num_workers": num_workers, "pin_memory": pin_memory}

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def starting_at(self, itr: int) -> Generator:
        """The batches of the iterations itr, itr + 1, ... (from 0), without end; close() ends its workers."""
        batches = self._places(itr, share=slice(distributed.rank(), None, distributed.world_size()))
        # A generator of its own: DataLoader draws its workers' seed from it, not from the network's stream.
        return iter(Loader(Augmented(self.dataset, seed=self.seed), batch_sampler=batches,
                           generator=_generator(self.seed), **self.settings))

    def _places(self, first: int, *, share: slice) -> Iterator[list[tuple[int, int]]]:
        for epoch in count(first // len(self)):
            order = torch.randperm(len(self.dataset), generator=generator_for(self.seed, "order", epoch)).tolist()
            for batch in range(first % len(self) if epoch == first // len(self) else 0, len(self)):
                indices = order[batch * self.batch_size:(batch + 1) * self.batch_size][share]
                yield [(epoch, index) for index in indices]


def build_loaders(train_set: SegmentationDataset | None, val_set: SegmentationDataset, *, batch_size: int,
                  val_batch_size: int, num_workers: int, seed: int, pin_memory: bool = False,
                  val_images: int | None = None):
    """Build (train_loader, val_loader); the first is None if train_set is None.

    Training: see TrainingLoader. Validation: in order, all of it or `val_images` evenly spaced ones, (images, labels,
    indices int64 [B]).
    Raises UserError if there are fewer training images than batch_size.
    """
    chosen = torch.linspace(0, len(val_set) - 1, min(val_images or len(val_set), len(val_set))).long().unique().tolist()
    val_loader = Loader(Indexed(val_set), sampler=chosen, batch_size=_val_batch_size(val_set, val_batch_size),
                        generator=_generator(seed), num_workers=num_workers, persistent_workers=num_workers > 0,
                        pin_memory=pin_memory)
    if train_set is None:
        return None, val_loader
    if len(train_set) < batch_size:
        raise UserError(f"--batch_size {batch_size} is more than the {len(train_set)} training images: "
                        "choose a smaller one.")
    return TrainingLoader(train_set, batch_size=batch_size, num_workers=num_workers, seed=seed,
                          pin_memory=pin_memory), val_loader


def batches_of(loader: DataLoader) -> list[list[int]]:
    """The indices of a validation loader's images, batch by batch."""
    return list(loader.batch_sampler)


def restricted(loader: DataLoader, batches: list[list[int]]) -> DataLoader:
    """A validation loader of these batches; `loader` itself where it gives the same ones."""
    if batches == batches_of(loader):
        return loader
    return Loader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers,
                  pin_memory=loader.pin_memory, generator=loader.generator)


def _told(batches: Iterator) -> Generator:
    """The same batches; a process that was killed, mostly for want of memory, is a UserError, as is a bad image."""
    try:
        yield from batches
    except UserError as error:
        # One from another process comes as the last line of that process's traceback.
        line = str(error).strip().splitlines()[-1].removeprefix("utils.errors.UserError: ")
        raise UserError(f"{line} {HINT}") from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise UserError(f"{str(error).splitlines()[0]} (for want of memory? lower --num_workers)") from None


def ignore_interrupts(_):
    """In a worker: a Ctrl-C in the terminal reaches it too, but when it ends is for the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _val_batch_size(val_set, asked):
    if val_set.same_size or asked == 1:
        return asked
    logger.info("Validation images differ in size: --val_batch_size is 1, not %d (--crop_val makes them equal)", asked)
    return 1
