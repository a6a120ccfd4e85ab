"""Recognise the layout of a folder, so that an error can name the --dataset and --data_root that fit it."""
from pathlib import Path

from utils.errors import UserError

from .image_lists import to_one_line

# What a folder holds -> the --dataset that reads it, or "" if none does, and the page that helps.
LAYOUTS = (
    (("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"), "voc"),
    (("train", "trainannot", "val", "valannot"), "camvid"),
    (("train", "train_labels", "val", "val_labels"), "camvid"),
    (("train/images", "train/masks"), "folder"),
    (("leftImg8bit", "gtFine"), "cityscapes"),
    (("images", "labels_colored"), "iccv09"),
)
FOREIGN = (
    (("images/training", "annotations/training"), "ADE20K"),
    (("train/images", "train/labels"), "a data set of YOLO or a labelling tool"),
    (("images", "masks"), "images and masks that are not split"),
    (("images", "annotations"), "images and annotations that are not split"),
    (("annotations", "train2017"), "COCO"),
)
DEPTH = 3  # folders below --data_root that are searched


def refuse_other_layout(root: Path, dataset: str):
    """Raise UserError if `root`, or a folder in it, has a layout that another --dataset or --data_root reads."""
    for folder in _list_folders(root):
        for parts, name in LAYOUTS:
            if _has(folder, parts) and (name, folder) != (dataset, root):
                flags = f"--dataset {name} " * (name != dataset) + f"--data_root {to_one_line(folder)}"
                raise UserError(f"--data_root {to_one_line(root)} does not hold the data of --dataset {dataset}, but "
                                f"{to_one_line(folder)} looks like that of {name}: give {flags}")
        for parts, name in FOREIGN:
            if _has(folder, parts):
                raise UserError(f"--data_root {to_one_line(root)} does not hold the data of --dataset {dataset}; "
                                f"{to_one_line(folder)} looks like {name}: arrange it for --dataset folder "
                                "(docs/data.md#your-own-images)")


def _has(folder: Path, parts: tuple[str, ...]) -> bool:
    return all((folder / part).is_dir() for part in parts)


def _list_folders(root: Path, depth: int = DEPTH) -> list[Path]:
    """Return root and the folders below it, upper ones first; hidden ones are left out."""
    level, found = [root] if root.is_dir() else [], []
    for _ in range(depth + 1):
        found += level
        level = [child for folder in level for child in _list_children(folder)]
    return found


def _list_children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:  # the folder that was asked for is reported by the data set
        return []
