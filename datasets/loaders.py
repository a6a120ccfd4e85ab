"""Batches of a training and a validation set, the same ones for the same seed."""
import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError
from utils.logging import logger

from .base import SegmentationDataset


class Indexed(Dataset):
    """A data set that gives (image, label, index): validation needs to know which image it has."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return *self.dataset[i], i


def build_loaders(train_set: SegmentationDataset | None, val_set: SegmentationDataset, *, batch_size: int,
                  val_batch_size: int, num_workers: int, seed: int, pin_memory: bool = False,
                  val_images: int | None = None):
    """Build (train_loader, val_loader); the first is None if train_set is None.

    Training: shuffled (images, labels), the incomplete last batch dropped. Validation: in order, all of it or
    `val_images` evenly spaced ones, (images, labels, indices int64 [B]). With num_workers=0 augmentation draws from
    torch's global generator, else from the workers' own, which DataLoader seeds (torch, numpy and python) from the
    generator given here.
    Raises UserError if there are fewer training images than batch_size.
    """
    shared = {"num_workers": num_workers, "persistent_workers": num_workers > 0, "pin_memory": pin_memory}
    chosen = torch.linspace(0, len(val_set) - 1, min(val_images or len(val_set), len(val_set))).long().unique().tolist()
    val_loader = DataLoader(Indexed(val_set), sampler=chosen, batch_size=_val_batch_size(val_set, val_batch_size),
                            generator=_generator(seed), **shared)
    if train_set is None:
        return None, val_loader
    if len(train_set) < batch_size:
        raise UserError(f"--batch_size {batch_size} is more than the {len(train_set)} training images: "
                        "choose a smaller one.")
    train_loader = DataLoader(train_set, batch_size=batch_size, shuffle=True, drop_last=True,
                              generator=_generator(seed), **shared)
    return train_loader, val_loader


def batches_of(loader: DataLoader) -> list[list[int]]:
    """The indices of a validation loader's images, batch by batch."""
    return list(loader.batch_sampler)


def restricted(loader: DataLoader, batches: list[list[int]]) -> DataLoader:
    """A validation loader of these batches; `loader` itself where it gives the same ones."""
    if batches == batches_of(loader):
        return loader
    return DataLoader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers,
                      pin_memory=loader.pin_memory)


def _generator(seed):
    # One for each loader: a validation pass must change nothing in the order and augmentation of training.
    return torch.Generator().manual_seed(seed)


def _val_batch_size(val_set, asked):
    if val_set.same_size or asked == 1:
        return asked
    logger.info("Validation images differ in size: --val_batch_size is 1, not %d (--crop_val makes them equal)", asked)
    return 1
