"""Recognise the layout of a folder, so that an error can name the --dataset and --data_root that fit it."""
from pathlib import Path

from utils.errors import UserError

from .image_lists import to_one_line

# What a folder holds (folders, or files as a pattern) -> the --dataset that reads it.
LAYOUTS = (
    (("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"), "voc"),
    (("train", "trainannot", "val", "valannot"), "camvid"),
    (("train", "train_labels", "val", "val_labels"), "camvid"),
    (("train/images", "train/masks"), "folder"),
    (("leftImg8bit", "gtFine"), "cityscapes"),
    (("images", "labels_colored"), "iccv09"),
    (("images", "labels/*.regions.txt"), "iccv09"),
)
FOREIGN = (
    (("images/training", "annotations/training"), "ADE20K"),
    (("train/images", "train/labels"), "a data set of YOLO or a labelling tool"),
    (("images", "masks"), "images and masks that are not split"),
    (("images", "annotations"), "images and annotations that are not split"),
    (("annotations", "train2017"), "COCO"),
)
DEPTH = 3  # folders below --data_root that are searched
NAMED = 5  # entries of a folder that a message names


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


def describe_found(missing: Path, root: Path) -> str:
    """Return, for a message, what the nearest folder of a missing path holds, at or below `root`."""
    folder = next((path for path in missing.parents if path.is_dir() and path.is_relative_to(root)), None)
    if folder is None:
        return f"{to_one_line(root)} is not a folder" if root.exists() else f"{to_one_line(root)} does not exist"
    return f"{to_one_line(folder)} holds {list_entries(folder)}"


def list_entries(folder: Path) -> str:
    """Return the names of the first entries of a folder and the number of the others; hidden ones are left out."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        return f"what can't be read ({error.strerror})"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(map(to_one_line, names[:NAMED]))}{more}" if names else "nothing"


def _has(folder: Path, parts: tuple[str, ...]) -> bool:
    return all(any(folder.glob(part)) if "*" in part else (folder / part).is_dir() for part in parts)


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
