"""Pascal VOC segmentation, 2007 to 2012, and 2012 with the additional masks of SBD."""
import re
from pathlib import Path

import numpy as np
from torchvision.datasets.voc import DATASET_YEAR_DICT

from utils.errors import UserError
from utils.logging import logger

from .base import PairedFiles, make_palette
from .download import fetch_folder
from .names import images_in, read_names, shown

AUG = "_aug"
YEARS = ("2007", "2008", "2009", "2010", "2011", "2012", "2012_aug")


def voc_colours() -> np.ndarray:
    """Compute VOC's colour map [256, 3]: bits 0, 3, 6 of the index make red from its high bit down, and so on."""
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
    palette = make_palette(voc_colours())

    def __init__(self, split, *, data_root, crop_size=None, year="2012", download=False, **_):
        root = Path(data_root).expanduser()
        folder = find_folder(root, year, download=download)
        masks = folder / "SegmentationClass"
        names, origin = read_split(folder, split)
        if year.endswith(AUG) and split == "train":
            masks = folder / "SegmentationClassAug"
            names, origin = read_aug(root, folder, masks)
        refuse_classification(names, origin, images=folder / "JPEGImages")
        pairs = [(folder / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png") for name in names]
        super().__init__(pairs, split, origin=origin, crop_size=crop_size)


def find_folder(root: Path, year: str, *, download: bool) -> Path:
    """Return the folder of a year below root, fetched before if download; UserError where it isn't there."""
    if year not in YEARS:
        raise UserError(f"No VOC of --year {year}: there are {', '.join(YEARS)}.")
    entry = DATASET_YEAR_DICT[year.removesuffix(AUG)]
    if download:
        fetch_folder(root, entry["base_dir"], url=entry["url"], md5=entry["md5"])
    folder = root / entry["base_dir"]
    if not folder.is_dir():
        raise UserError(f"VOC {year} not found: no folder {folder}. Give the folder that holds "
                        f"{Path(entry['base_dir']).parts[0]} with --data_root, or fetch VOC with --download.")
    return folder


def read_split(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the names of a split and the list they are from."""
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    return read_names(path), path


def refuse_classification(names: list[str], origin: Path, *, images: Path):
    """Raise UserError for a list of ImageSets/Main: an image's name and whether it shows the class, -1, 0 or 1."""
    marked = names and all(re.fullmatch(r"\S+\s+(-1|0|1)", name) for name in names)
    if marked and not (images / f"{names[0]}.jpg").exists():
        raise UserError(f"The list {shown(origin)} is one for classification, with -1, 0 or 1 behind each name: put "
                        "that of ImageSets/Segmentation there.")


def read_aug(root: Path, folder: Path, masks: Path) -> tuple[list[str], Path]:
    """Return the names of the augmented training set and where they are from.

    That is root/train_aug.txt or, without it, the folder of masks: all of them that aren't in val.txt.
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
        names = [path.stem for path in images_in(masks) if path.stem not in val]
    logger.info("2012_aug: %d training images, named by %s", len(names), origin)
    return names, origin
