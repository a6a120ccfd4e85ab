"""Pascal VOC segmentation, 2007 to 2012, and 2012 with the additional masks of SBD."""
import re
from pathlib import Path

import numpy as np
from torchvision.datasets.voc import DATASET_YEAR_DICT

from utils.errors import UserError
from utils.logging import logger

from .base import PairedFiles, make_palette
from .download import fetch_folder
from .image_lists import list_images, read_names, to_one_line

AUG = "_aug"
YEARS = ("2007", "2008", "2009", "2010", "2011", "2012", "2012_aug")


def compute_colours() -> np.ndarray:
    """Return VOC's colour map [256, 3].

    Bits 0, 3, 6 of the index are red's bits 7, 6, 5; bits 1, 4, 7 green's; bits 2, 5 blue's.
    """
    index = np.arange(256)[:, None]     # [256, 1]
    channel = np.arange(3)              # [3]
    return sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))  # [256, 3]


class VOCSegmentation(PairedFiles):
    """VOC: {root}/VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation}, 21 classes.

    '2012_aug' trains on SegmentationClassAug (10,582 images) and validates on the 1449 images of '2012'.
    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010; Hariharan et al., ICCV 2011.
    """

    class_names = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
                   "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
                   "train", "tvmonitor"]
    num_classes = len(class_names)
    options = ("year", "download")
    palette = make_palette(compute_colours())

    def __init__(self, split, *, data_root, crop_size=None, year="2012", download=False, **_):
        root = Path(data_root).expanduser()
        folder = find_folder(root, year, download=download)
        masks = folder / "SegmentationClass"
        names, origin = read_split(folder, split)
        if year.endswith(AUG) and split == "train":
            masks = folder / "SegmentationClassAug"
            names, origin = read_aug(root, folder, masks)
        refuse_classification_list(names, origin, images=folder / "JPEGImages")
        pairs = [(folder / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png") for name in names]
        super().__init__(pairs, split, origin=origin, crop_size=crop_size)


def find_folder(root: Path, year: str, *, download: bool) -> Path:
    """Return the folder of a year below root; with `download`, fetch it first. Raises UserError if it is missing."""
    if year not in YEARS:
        raise UserError(f"Unknown --year {year}: choose one of {', '.join(YEARS)}.")
    entry = DATASET_YEAR_DICT[year.removesuffix(AUG)]
    if download:
        fetch_folder(root, entry["base_dir"], url=entry["url"], md5=entry["md5"])
    folder = root / entry["base_dir"]
    if not folder.is_dir():
        raise UserError(f"VOC {year} not found: the folder {folder} does not exist. Set --data_root to the folder that "
                        f"holds {Path(entry['base_dir']).parts[0]}, or download VOC with --download "
                        "(docs/data.md#voc).")
    return folder


def read_split(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the image names of a split and the path of their list. Raises UserError."""
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    return read_names(path), path


def refuse_classification_list(names: list[str], origin: Path, *, images: Path):
    """Raise UserError for a list of ImageSets/Main, whose lines are an image name and -1, 0 or 1 for one class."""
    marked = names and all(re.fullmatch(r"\S+\s+(-1|0|1)", name) for name in names)
    if marked and not (images / f"{names[0]}.jpg").exists():
        raise UserError(f"The list {to_one_line(origin)} is for classification (-1, 0 or 1 after each name): "
                        "replace it by the one from ImageSets/Segmentation.")


def read_aug(root: Path, folder: Path, masks: Path) -> tuple[list[str], Path]:
    """Return the image names of the augmented training set and the list or folder that they come from.

    The names are those in root/train_aug.txt or, without that file, of all masks that are not in val.txt.
    """
    if not masks.is_dir():
        raise UserError(f"--year 2012_aug needs the folder {masks}: unpack the SegmentationClassAug masks there, "
                        "or use --year 2012.")
    origin = root / "train_aug.txt"
    if origin.exists():
        names = read_names(origin)
    else:
        origin = masks
        val = set(read_split(folder, "val")[0])
        names = [path.stem for path in list_images(masks) if path.stem not in val]
    logger.info("2012_aug: %d training images, listed in %s", len(names), origin)
    return names, origin
