"""A plain torch Dataset of (image, label), with what an evaluation needs beside them: names, classes, colours."""
import hashlib

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from .loaders import IndexedDataset, Loader

COLOURS = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)  # of classes without colours


class ImageSet:
    """`dataset` with stand-ins for what it lacks: an image's index for its name, colours, a digest of its content.

    dataset: len() and [i] -> (image float [3, H, W] in [0, 1], label int64 [H, W]); it may have name(i), class_names,
    decode_target(mask) and digest(). class_names, else num_classes, name the classes where it doesn't. Raises
    ValueError where nothing does.
    """

    def __init__(self, dataset, *, class_names=None, num_classes: int | None = None):
        self.dataset = dataset
        names = class_names if class_names is not None else getattr(dataset, "class_names", None)
        if names is None and num_classes is None:
            raise ValueError("the data set doesn't name its classes: give class_names or num_classes")
        self.class_names = list(map(str, range(num_classes) if names is None else names))
        self.num_classes = len(self.class_names)
        if num_classes not in (None, self.num_classes):
            raise ValueError(f"num_classes {num_classes}, but {self.num_classes} class_names")
        self.skipped = list(getattr(dataset, "skipped", ()))

    def name(self, index: int) -> str:
        """Return the name of an image, for records and pictures."""
        return self.dataset.name(index) if hasattr(self.dataset, "name") else str(index)

    def decode_target(self, mask) -> np.ndarray:
        """Return a mask's colours, uint8 [H, W, 3]."""
        if hasattr(self.dataset, "decode_target"):
            return self.dataset.decode_target(mask)
        return COLOURS[np.asarray(mask)]

    def list_colours(self) -> dict[str, list[int]]:
        """Return {class: [red, green, blue]}, as decode_target() draws it."""
        shown = self.decode_target(np.arange(self.num_classes)[None])[0]
        return dict(zip(self.class_names, np.asarray(shown).tolist(), strict=True))

    def digest(self, loader: DataLoader) -> str:
        """Return what tells the images and labels of `loader` from all others."""
        if hasattr(self.dataset, "digest"):
            return self.dataset.digest()
        content = hashlib.sha256()
        for images, labels, *_ in loader:
            for values in (images, labels):
                content.update(str(tuple(values.shape)).encode() + values.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


def with_indices(loader: DataLoader, dataset) -> DataLoader:
    """Return a loader of the same batches of `dataset` that also gives the images' indices, (images, labels, indices).

    Raises ValueError for a loader of another data set, in random order, or that collates in its own way.
    """
    if isinstance(loader.dataset, IndexedDataset) and loader.dataset.dataset is dataset:
        return loader
    if loader.dataset is not dataset:
        raise ValueError("the loader is of another data set: give the one that it loads")
    ordered = isinstance(loader.sampler, SequentialSampler | list | tuple | range)
    if isinstance(dataset, IterableDataset) or loader.batch_sampler is None or not ordered:
        raise ValueError("the loader must load batches in order: DataLoader(dataset, batch_size=..., shuffle=False)")
    if loader.collate_fn is not default_collate:
        raise ValueError("the loader collates in its own way: leave out collate_fn, items are (image, label)")
    return Loader(IndexedDataset(dataset), batch_sampler=list(loader.batch_sampler), num_workers=loader.num_workers,
                  pin_memory=loader.pin_memory)
