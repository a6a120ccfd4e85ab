"""Pascal VOC segmentation, 2007 to 2012, and 2012 with the additional masks of SBD."""
import re
from pathlib import Path, PurePosixPath

import numpy as np
from torchvision.datasets.voc import DATASET_YEAR_DICT

from utils.errors import UserError
from utils.logging import logger

from .classes import make_palette
from .download import fetch_folder
from .image_lists import Entry, ImageFolder, ImageFolders, list_images, read_list, to_one_line
from .layouts import describe_found, refuse_other_layout
from .paired import PairedFiles
from .transforms import IGNORE

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

    root may also be VOCdevkit or VOC2012.
    '2012_aug' trains on SegmentationClassAug (10,582 images) and validates on the 1449 images of '2012'.
    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010; Hariharan et al., ICCV 2011.
    """

    class_names = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
                   "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
                   "train", "tvmonitor"]
    num_classes = len(class_names)
    palette = make_palette(compute_colours())
    mask_colours = {tuple(colour): label for label, colour in enumerate(palette[:21].tolist())} | {
        tuple(palette[IGNORE].tolist()): IGNORE}

    def __init__(self, split, *, data_root, crop_size=None, year="2012", download=False, label_map=None, **_):
        root = Path(data_root).expanduser()
        folder = find_folder(root, year, download=download)
        masks = folder / "SegmentationClass"
        entries, origin = read_split(folder, split)
        if year.endswith(AUG) and split == "train":
            masks = folder / "SegmentationClassAug"
            entries, origin = read_aug(root, folder, masks)
        folders = ImageFolders()
        images = folder / "JPEGImages"
        refuse_classification_list(entries, origin, images=folders[images])
        pairs = [find_pair(entry, folders, images=images, masks=masks, roots=(folder, root)) for entry in entries]
        super().__init__(pairs, split, origin=origin, crop_size=crop_size, label_map=label_map, absent=folders.absent)


def find_folder(root: Path, year: str, *, download: bool) -> Path:
    """Return the folder of a year at or below root; with `download`, fetch it if it is missing. Raises UserError."""
    if year not in YEARS:
        raise UserError(f"Unknown --year {year}: choose one of {', '.join(YEARS)}.")
    entry = DATASET_YEAR_DICT[year.removesuffix(AUG)]
    usual = root / entry["base_dir"]
    if not usual.is_dir() and (others := list_folders(root, year)):
        logger.info("VOC %s: found in %s", year, others[0])
        return others[0]
    if download:
        fetch_folder(root, entry["base_dir"], url=entry["url"], md5=entry["md5"])
    if not usual.is_dir():
        if there := [other for other in YEARS if not other.endswith(AUG) and list_folders(root, other)]:
            raise UserError(f"--year {year}: {to_one_line(root)} holds VOC of {', '.join(there)} only: give --year "
                            f"{there[-1]}, or fetch the other year with --download (docs/data.md#voc).")
        refuse_other_layout(root, "voc")
        raise UserError(f"VOC {year} not found: the folder {to_one_line(usual)} does not exist; "
                        f"{describe_found(usual, root)}. Set --data_root to the folder that holds "
                        f"{Path(entry['base_dir']).parts[0]}, or download VOC with --download "
                        "(docs/data.md#voc).")
    return usual


def list_folders(root: Path, year: str) -> list[Path]:
    """Return the places at or below root where the lists of a year are."""
    usual = root / DATASET_YEAR_DICT[year.removesuffix(AUG)]["base_dir"]  # of 2011 TrainVal/VOCdevkit/VOC2011
    name = usual.name  # VOC2012
    places = (usual, root / "VOCdevkit" / name, root / name, *[root] * (root.resolve().name == name))
    return [folder for folder in places if (folder / "ImageSets" / "Segmentation").is_dir()]


def read_split(folder: Path, split: str) -> tuple[list[Entry], Path]:
    """Return the entries of a split's list and its path. Raises UserError."""
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    return read_list(path), path


def find_pair(entry: Entry, folders: ImageFolders, *, images: Path, masks: Path, roots) -> tuple[Path, Path]:
    """Return the image and mask of an entry: in the folders `images` and `masks`, or where the entry says.

    An entry's folder is relative to the first of `roots` that has it.
    """
    def find(path: PurePosixPath, usual: Path, suffix: str) -> Path:
        folder = usual
        if len(path.parts) > 1:
            folder = next((root for root in roots if (root / path.parent).is_dir()), roots[0]) / path.parent
        return folders[folder].find(Entry(path).stem, suffix=suffix)

    return (find(entry.image, images, ".jpg"), find(entry.mask or PurePosixPath(entry.stem), masks, ".png"))


def refuse_classification_list(entries: list[Entry], origin: Path, *, images: ImageFolder):
    """Raise UserError for a list of ImageSets/Main, whose lines are an image name and -1, 0 or 1 for one class."""
    names = [str(entry.image) for entry in entries]
    marked = names and all(re.fullmatch(r"\S+\s+(-1|0|1)", name) for name in names)
    if marked and images.find(names[0], suffix=".jpg") in images.absent:
        raise UserError(f"The list {to_one_line(origin)} is for classification (-1, 0 or 1 after each name): "
                        "replace it by the one from ImageSets/Segmentation.")


def read_aug(root: Path, folder: Path, masks: Path) -> tuple[list[Entry], Path]:
    """Return the entries of the augmented training set and the list or folder that they come from.

    They are those of train_aug.txt, in root or beside the other lists, or, without that file, all masks that are not in
    val.txt.
    """
    if not masks.is_dir():
        raise UserError(f"--year 2012_aug needs the folder {masks}: make it with python -m datasets.voc_aug, or "
                        "use --year 2012 (docs/data.md#voc-aug).")
    lists = (root / "train_aug.txt", folder / "ImageSets" / "Segmentation" / "train_aug.txt")
    origin = next((path for path in lists if path.exists()), masks)
    if origin != masks:
        entries = read_list(origin)
    else:
        val = {entry.stem for entry in read_split(folder, "val")[0]}
        entries = [Entry(PurePosixPath(path.stem)) for path in list_images(masks) if path.stem not in val]
    logger.info("2012_aug: %d training images, listed in %s", len(entries), origin)
    return entries, origin
