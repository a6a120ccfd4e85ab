"""What every data set is: pairs of image and label, class names, colours."""
import copy
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .check import check_pair
from .files import image_size, orientation, read_bytes, read_image, read_mask
from .names import existing, shown
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
    skipped: list[str] = []     # names of the images left out
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

    def remarks(self, i: int) -> list[str]:  # noqa: ARG002
        """Return lines on what may be wrong with a pair that can be used."""
        return []

    def without(self, names) -> "SegmentationDataset":  # noqa: ARG002
        """Return the data set without the images of these names; where there are no files, none is bad."""
        return self

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
    """A data set whose image i and mask i are the files pairs[i].

    Image and mask are taken as their pixels are stored. Only where the mask fits the image as EXIF turns it, and not
    as it is stored, the image is turned.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], split: str, *, origin: Path, crop_size: int | None = None):
        super().__init__(split, crop_size=crop_size)
        self.pairs = [(existing(image), existing(mask)) for image, mask in pairs]
        self.origin = str(origin)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        """Return the stem of the image file."""
        return self.pairs[i][0].stem

    def files(self, i: int) -> tuple[str, str]:
        """Return the paths of image and mask."""
        image, mask = self.pairs[i]
        return shown(image), shown(mask)

    def raw(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Read the pair: image uint8 [3, H, W], label integers [H, W]."""
        path = self.pairs[i][0]
        image, label = read_image(path), self.label(i)
        if image.shape[-2:] == label.shape[::-1] != label.shape:
            image = read_image(path, upright=True)
        return image, label

    def label(self, i: int) -> tv_tensors.Mask:
        """Read the label alone."""
        return read_mask(self.pairs[i][1])

    def digest(self) -> str:
        """Return a hash of all files: of 1,449 VOC images in less than a second once they are in memory."""
        digest = hashlib.sha256()
        for path in (path for pair in self.pairs for path in pair):
            content = read_bytes(path)
            digest.update(f"{path.name}\0{len(content)}\0".encode(errors="surrogateescape"))
            digest.update(content)
        return digest.hexdigest()[:16]

    def remarks(self, i: int) -> list[str]:
        """Return a line where EXIF turns the image, and the mask's size can't tell whether it is turned, too."""
        path = self.pairs[i][0]
        width, height = image_size(path)
        if (turned := orientation(path)) == 1 or (turned > 4 and width != height):
            return []
        return [f"{shown(path)} has the EXIF orientation {turned}: image and mask are taken as they are stored"]

    def without(self, names) -> "PairedFiles":
        """Return the data set without the images of these names, which its `skipped` then has."""
        names = set(names)
        rest = copy.copy(self)
        rest.pairs = [pair for pair in self.pairs if pair[0].stem not in names]
        rest.skipped = [*self.skipped, *(image.stem for image, _ in self.pairs if image.stem in names)]
        return rest
