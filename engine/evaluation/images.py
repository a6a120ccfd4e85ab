"""A data set as a sweep sees it: any torch Dataset of (image, label), with names, classes and colours."""
import hashlib

import numpy as np
import torch
from torch.utils.data import DataLoader

COLOURS = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)  # of classes without colours


class ImageSet:
    """`dataset` with stand-ins for what it lacks: an image's index for its name, colours, a digest of its content.

    dataset: len() and [i] -> (image float [3, H, W] in [0, 1], label int64 [H, W]); it may have name(i), class_names,
    decode_target(mask) and digest(). class_names, else num_classes, name the classes where it doesn't; ValueError where
    nothing does.
    """

    def __init__(self, dataset, *, class_names=None, num_classes: int | None = None):
        self.dataset = dataset
        names = class_names if class_names is not None else getattr(dataset, "class_names", None)
        if names is None and num_classes is None:
            raise ValueError("the data set doesn't name its classes: give class_names or num_classes")
        self.class_names = list(map(str, range(num_classes) if names is None else names))
        if num_classes not in (None, len(self.class_names)):
            raise ValueError(f"num_classes {num_classes}, but {len(self.class_names)} class_names")
        self.num_classes = len(self.class_names)
        self.skipped = list(getattr(dataset, "skipped", ()))

    def name(self, index: int) -> str:
        """Return the name of an image, for records and pictures."""
        return self.dataset.name(index) if hasattr(self.dataset, "name") else str(index)

    def decode_target(self, mask) -> np.ndarray:
        """Return a mask's colours, uint8 [H, W, 3]."""
        if hasattr(self.dataset, "decode_target"):
            return self.dataset.decode_target(mask)
        return COLOURS[np.asarray(mask)]

    def digest(self, loader: DataLoader) -> str:
        """Return what tells the images and labels of `loader` from all others."""
        if hasattr(self.dataset, "digest"):
            return self.dataset.digest()
        content = hashlib.sha256()
        for images, labels, *_ in loader:
            for values in (images, labels):
                content.update(str(tuple(values.shape)).encode() + values.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


def weights_of(model: torch.nn.Module) -> str:
    """Return a hash of the model's weights and their names."""
    weights = hashlib.sha256()
    for key, value in model.state_dict().items():
        weights.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return weights.hexdigest()[:16]


def device_of(model: torch.nn.Module) -> torch.device:
    """Return where the model's weights are; the CPU for a model without any."""
    return next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))
