"""What every data set is: pairs of image and label, class names, colours."""
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .check import check_pair
from .files import read_image, read_mask
from .transforms import train_transform, val_transform


def make_palette(colours, *, void=(0, 0, 0)) -> np.ndarray:
    """Build the read-only table [256, 3] uint8: colours for the classes 0, 1, ..., void for every other index."""
    palette = np.empty((256, 3), dtype=np.uint8)
    palette[:] = void
    palette[:len(colours)] = colours
    palette.setflags(write=False)
    return palette


class SegmentationDataset(Dataset):
    """Base class: images float32 [3, H, W] in [0, 1], not normalised; labels int64 [H, W], 255 = ignore.

    A data set defines class_names, num_classes, palette, __len__, name(i) and raw(i). Its constructor is called as
    cls(split, crop_size=, data_root=, year=, download=, seed=), split 'train' or 'val', and uses what it needs.
    """

    class_names: list[str]
    num_classes: int
    palette: np.ndarray         # [256, 3] uint8, colour of every label
    native_same_size = False    # may validation images be batched as they are? False is always safe
    origin = ""                 # where the images are from: a list or a folder, for messages

    def __init__(self, split: str, *, crop_size: int | None = None):
        """Augment 'train' to crop_size; give 'val' at native size, or centre-cropped where crop_size is given."""
        self.crop_size = crop_size
        augment = split == "train" and crop_size is not None
        self.transform = train_transform(crop_size) if augment else val_transform(crop_size)

    @property
    def same_size(self) -> bool:
        """Whether all images come at one size, so that they can be batched."""
        return self.crop_size is not None or self.native_same_size

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Return the image's own name, without folder and suffix; no two images share one."""
        raise NotImplementedError

    def raw(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return the untransformed pair: image uint8 [3, H, W], label integers [H, W]."""
        raise NotImplementedError

    def label(self, i: int) -> tv_tensors.Mask:
        """Return the untransformed label alone, integers [H, W]."""
        return self.raw(i)[1]

    def digest(self) -> str:
        """Return what tells these images and labels from all others."""
        return self.origin

    def files(self, i: int) -> tuple[str, str]:
        """Return what image and mask are called in messages."""
        return self.name(i), f"the mask of {self.name(i)}"

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.raw(i)
        # Costs 0.1 ms; a wrong label would otherwise surface as a CUDA assert somewhere in training.
        check_pair(image, label, num_classes=self.num_classes, files=self.files(i))
        return self.transform(image, label)

    @classmethod
    def decode_target(cls, mask) -> np.ndarray:
        """Colour a mask (array or tensor [...] of integers, 255 included): RGB uint8 [..., 3], a new array."""
        return cls.palette[torch.as_tensor(mask).cpu().numpy()]


class PairedFiles(SegmentationDataset):
    """A data set whose image i and mask i are the files pairs[i]."""

    def __init__(self, pairs: list[tuple[Path, Path]], split: str, *, origin: Path, crop_size: int | None = None):
        super().__init__(split, crop_size=crop_size)
        self.pairs = pairs
        self.origin = str(origin)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        """Return the stem of the image file."""
        return self.pairs[i][0].stem

    def files(self, i: int) -> tuple[str, str]:
        """Return the paths of image and mask."""
        image, mask = self.pairs[i]
        return str(image), str(mask)

    def raw(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Read the pair: image uint8 [3, H, W], label integers [H, W]."""
        return read_image(self.pairs[i][0]), self.label(i)

    def label(self, i: int) -> tv_tensors.Mask:
        """Read the label alone."""
        return read_mask(self.pairs[i][1])

    def digest(self) -> str:
        """Return a hash of all files: of 1,449 VOC images in less than a second once they are in memory."""
        digest = hashlib.sha256()
        for path in (path for pair in self.pairs for path in pair):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]
