"""What all data sets share: pairs of image and label, class names, colours."""
import hashlib

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from utils.images import to_unit_range

from .check import check_pair
from .classes import Classes
from .transforms import IGNORE, make_train_transform, make_val_transform


class SegmentationDataset(Dataset):
    """Base class: images float32 [3, H, W] in [0, 1], not normalised; labels int64 [H, W], 255 = ignore.

    A subclass defines class_names, num_classes, palette, __len__, name(i) and read_pair(i). Its constructor is called
    as cls(split, crop_size=, data_root=, year=, ...) with split 'train' or 'val' and ignores what it does not use. If
    the classes depend on the data, it overrides describe().
    """

    class_names: list[str]
    num_classes: int
    palette: np.ndarray                 # [256, 3] uint8, the colour of every label
    mask_colours: dict[tuple[int, int, int], int] = {}  # (red, green, blue) -> label, for masks in colours
    native_same_size: bool | None = False  # whether all validation images have one size; None if it isn't known
    normalization: dict | None = None   # {"mean": [3], "std": [3]} of a new network; None: those of its backbone
    usual_crop_size = 513               # of training, where --crop_size isn't given
    usual_val_batch_size = 4            # where --val_batch_size isn't given
    colour_jitter = 0.0                 # how far training changes brightness, contrast and saturation
    own_classes = False                 # whether the user numbers and names the classes
    label_map: dict[int, int] = {}      # {stored label: used label}
    skipped: list[str] = []             # names of the images that were left out
    drawn: list[str] | None = None      # names of the validation images, if they were drawn from the training images
    cache = None                        # of decoded pairs, see cache.py
    origin = ""                         # the list or folder that the images come from, for messages

    def __init__(self, split: str, *, crop_size: int | None = None):
        """Augment 'train' to crop_size; leave 'val' at native size, or crop it centrally if crop_size is given."""
        self.crop_size = crop_size
        augment = split == "train" and crop_size is not None
        self.transform = (make_train_transform(crop_size, self.colour_jitter, as_bytes=True) if augment else
                          make_val_transform(crop_size, as_bytes=True))

    @classmethod
    def describe(cls, **source) -> Classes:  # noqa: ARG003, for subclasses whose classes depend on the folder
        """Return the class names and colours without reading images; `source` is as for the constructor."""
        return Classes(tuple(cls.class_names), cls.palette)

    @classmethod
    def find_mask_colours(cls, **source) -> dict:  # noqa: ARG003, for subclasses whose colours depend on the folder
        """Return mask_colours without reading masks; `source` is as for the constructor."""
        return cls.mask_colours

    @property
    def same_size(self) -> bool | None:
        """Return whether all images have one size, so that they can be batched; None if it isn't known."""
        return True if self.crop_size is not None else self.native_same_size

    @property
    def relabels(self) -> bool:
        """Return whether labels may be used otherwise than they are stored."""
        return bool(self.label_map)

    @property
    def void_labels(self) -> frozenset[int]:
        """Return the stored labels that are meant to be ignored; others that are ignored are a reason for a warning."""
        return frozenset((IGNORE, self.num_classes))

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Return the name of image i, without folder and suffix; names are unique."""
        raise NotImplementedError

    def read_pair(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return pair i before any transform: image uint8 [3, H, W], label integers [H, W]."""
        raise NotImplementedError

    def read_label(self, i: int) -> tv_tensors.Mask:
        """Return label i before any transform, integers [H, W]."""
        return self.read_pair(i)[1]

    def read_stored_label(self, i: int) -> tv_tensors.Mask:
        """Return label i as it is stored, integers [H, W]; convert_label() makes it the label of read_label()."""
        return self.read_label(i)

    def map_label(self, label: torch.Tensor) -> torch.Tensor:
        """Return stored labels (integers [...]) with --label_map applied."""
        return label

    def convert_label(self, label: torch.Tensor) -> torch.Tensor:
        """Return stored labels (integers [...]) as classes and IGNORE."""
        return self.map_label(label)

    def digest(self) -> str:
        """Return a string that changes whenever an image or label changes."""
        return self.origin

    def files(self, i: int) -> tuple[str, str]:
        """Return what messages call image i and its mask."""
        return self.name(i), f"the mask of {self.name(i)}"

    def remarks(self, i: int) -> list[str]:  # noqa: ARG002
        """Return a line for each oddity of pair i that does not prevent its use."""
        return []

    def without(self, names) -> "SegmentationDataset":  # noqa: ARG002
        """Return the data set without the images of these names; here itself, as generated images are never bad."""
        return self

    def decode_target(self, mask) -> np.ndarray:
        """Return a mask (array or tensor [...] of integers, 255 included) as new RGB colours, uint8 [..., 3]."""
        return Classes(tuple(self.class_names), self.palette).decode_target(mask)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.load_bytes(i)
        return to_unit_range(image), label.long()

    def load_bytes(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return item i as image uint8 [3, H, W] and label uint8 [H, W]: a quarter and an eighth of the bytes."""
        image, label = self.read_pair(i) if self.cache is None else self.cache.read_pair(self, i)
        # Costs little; a wrong label would otherwise fail later as a CUDA assert that names no file.
        check_pair(image, label, num_classes=self.num_classes, files=self.files(i))
        return self.transform(image, tv_tensors.wrap(label.to(torch.uint8), like=label))


def fingerprint(dataset) -> str:
    """Return what tells these images' names, in this order, from others; their content isn't read."""
    names = "\n".join(map(dataset.name, range(len(dataset))))
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]
