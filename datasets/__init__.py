"""Data sets: images float32 [3, H, W] in [0, 1], not normalised; labels int64 [H, W], 255 = ignore."""
from utils.errors import UserError

from .base import SegmentationDataset
from .camvid import CamVid
from .check import check_dataset
from .loaders import batches_of, build_loaders, restricted
from .synthetic import Synthetic
from .vetting import vetted
from .voc import VOCSegmentation

__all__ = ["DATASETS", "SegmentationDataset", "batches_of", "build_datasets", "build_loaders", "check_dataset",
           "restricted", "vetted"]

DATASETS = {
    "voc": VOCSegmentation,
    "camvid": CamVid,
    "synthetic": Synthetic,
}


def build_datasets(name: str, *, data_root, year: str = "2012", download: bool = False, crop_size: int = 513,
                   crop_val: bool = False, seed: int = 1, train: bool = True):
    """Build (train_set, val_set): training at crop_size, validation at native size or, with crop_val, at crop_size.

    Without `train`, for a test, the training split needn't be there and train_set is None.
    year and download are for VOC, seed is for the synthetic set. Raises UserError if the name is unknown or the data
    isn't below data_root.
    """
    if name not in DATASETS:
        raise UserError(f"No --dataset {name}: there are {', '.join(DATASETS)}.")
    source = {"data_root": data_root, "year": year, "download": download, "seed": seed}
    cls = DATASETS[name]
    return (cls("train", crop_size=crop_size, **source) if train else None,
            cls("val", crop_size=crop_size if crop_val else None, **source))
