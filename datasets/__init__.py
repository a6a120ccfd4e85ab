"""Data sets: images float32 [3, H, W] in [0, 1], not normalised; labels int64 [H, W], 255 = ignore."""
from collections.abc import Callable
from pathlib import Path

import torch

from utils.errors import UserError

from .bad_images import check_and_filter
from .base import SegmentationDataset, fingerprint
from .cache import cache_decoded
from .camvid import CamVid
from .check import check_dataset
from .cityscapes import Cityscapes
from .classes import Classes, make_palette
from .files import read_mask
from .folder import Folder
from .iccv09 import StanfordBackground
from .label_maps import check_label_map
from .loaders import build_loaders, list_batches, select_batches
from .plain import ImageSet, with_indices
from .survey import count_frequencies, count_pixels
from .synthetic import Synthetic
from .transforms import IGNORE
from .voc import VOCSegmentation

__all__ = [
    "DATASETS", "IGNORE", "Classes", "ImageSet", "SegmentationDataset", "build_datasets", "build_loaders",
    "cache_decoded", "check_and_filter", "check_dataset", "count_frequencies", "count_pixels", "describe",
    "fingerprint", "list_batches", "make_mask_reader", "make_palette", "select_batches", "with_indices",
]

DATASETS = {
    "voc": VOCSegmentation,
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "iccv09": StanfordBackground,
    "folder": Folder,
    "synthetic": Synthetic,
}


def build_datasets(name: str, *, data_root, year: str = "2012", download: bool = False, crop_size: int = 513,
                   crop_val: bool = False, seed: int = 1, train: bool = True, **source):
    """Return (train_set, val_set): training at crop_size, validation at native size or, with crop_val, at crop_size.

    With train=False the training split is not read and train_set is None. `year` and `download` are for VOC, `seed`
    is for the synthetic set, `source` (label_map=, val_share=, ...) for the data sets that take it. Raises UserError if
    the name is unknown or the data is not below data_root.
    """
    cls = _get_class(name)
    source |= {"data_root": data_root, "year": year, "download": download, "seed": seed}
    return (cls("train", crop_size=crop_size, **source) if train else None,
            cls("val", crop_size=crop_size if crop_val else None, **source))


def describe(name: str, **source) -> Classes:
    """Return the class names and colours of a data set without reading its images.

    `source` is what build_datasets takes to find the data (data_root=, year=, ...). Raises UserError if the name is
    unknown, or label_map= makes a label what is no class; logs a warning for a class that label_map makes impossible.
    """
    cls = _get_class(name)
    classes = cls.describe(**source)
    check_label_map(source.get("label_map") or {}, classes.names, dataset=name)
    return classes


def make_mask_reader(name: str, *, label_map: dict | None = None, **source) -> Callable[[Path], torch.Tensor]:
    """Return a function that reads a mask anywhere as the data set reads its own: path -> classes and IGNORE [H, W].

    `source` is what build_datasets takes to find the data, of which only classes.txt may be read. Raises UserError if
    the name is unknown; the function raises it for a mask that it can't read.
    """
    cls = _get_class(name)
    colours = cls.find_mask_colours(**source)
    labels = cls.__new__(cls)  # the constructor would look for the data set's files
    labels.label_map = label_map or {}
    return lambda path: labels.convert_label(read_mask(path, colours))


def _get_class(name: str) -> type[SegmentationDataset]:
    if name not in DATASETS:
        raise UserError(f"Unknown --dataset {name}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]
