"""Checks of images and masks, so that bad data is reported before a run starts."""
import hashlib
from collections import Counter
from pathlib import Path

import torch

from utils.errors import UserError

from .files import read_bytes
from .image_lists import describe_unused, to_one_line
from .label_maps import format_pairs, undo_factor
from .transforms import IGNORE

START = 1 << 16  # bytes that tell most files of one size apart


def check_dataset(dataset, *, limit: int | None = None):
    """Read the first `limit` images of a data set (None: all) and their masks.

    Raises UserError, naming the file, at the first problem: a file is missing or damaged, the sizes of image and mask
    differ, a label is not a class, two images have the same name, or the split is empty.
    """
    check_names(dataset)
    check_files(dataset)
    for i in range(len(dataset) if limit is None else min(limit, len(dataset))):
        image, label = dataset.read_pair(i)
        check_pair(image, label, num_classes=dataset.num_classes, files=dataset.files(i))


def check_names(dataset):
    """Raise UserError if the split is empty or two images have the same name."""
    origin = to_one_line(dataset.origin)
    if len(dataset) == 0:
        unused = describe_unused(Path(dataset.origin)) if dataset.origin and Path(dataset.origin).is_dir() else ""
        do = "put images there" if dataset.own_classes else "unpack the data set again"
        raise UserError(f"No images in {origin}{unused and f' (but {unused})'}: {do} or correct --data_root.")
    name, count = Counter(map(dataset.name, range(len(dataset)))).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} images in {origin} have the name {to_one_line(name)}: keep one of them.")


def check_files(dataset):
    """Raise UserError if images or masks are missing, with their number, or a mask is known to be unreadable."""
    for kind, paths in zip(("images", "masks"), zip(*getattr(dataset, "pairs", ()), strict=True), strict=False):
        missing = [path for path in paths if path in dataset.absent]
        if missing:
            rest = f"; {len(missing)} of {len(paths)} {kind} are missing" * (len(missing) > 1)
            raise UserError(f"Missing file {to_one_line(missing[0])}{rest}: unpack the data set again or correct "
                            "--data_root.")
    unreadable = getattr(dataset, "unreadable", {})
    for mask in (mask for _, mask in getattr(dataset, "pairs", ()) if mask in unreadable):
        raise UserError(unreadable[mask])


def find_shared(train, val) -> list[Path]:
    """Return the validation images whose files are also in the training set, byte for byte, whatever their names."""
    paths = [[image for image, _ in getattr(dataset, "pairs", ()) if image.exists()] for dataset in (train, val)]
    for what in (lambda path: path.stat().st_size, _hash_start, _hash):  # from cheap to dear, of fewer files each time
        keys = [{path: what(path) for path in images} for images in paths]
        common = set(keys[0].values()) & set(keys[1].values())
        paths = [[path for path, key in found.items() if key in common] for found in keys]
    return paths[1]


def _hash_start(path: Path) -> bytes:
    return hashlib.sha256(read_bytes(path, limit=START)).digest()


def _hash(path: Path) -> bytes:
    return hashlib.sha256(read_bytes(path)).digest()


def check_pair(image, label, *, num_classes: int, files: tuple[str, str]):
    """Raise UserError unless image [3, H, W] and label [H, W] have one size and labels are classes or IGNORE.

    `files` names image and mask in the message.
    """
    if image.shape[-2:] != label.shape:
        raise UserError(f"{files[1]} is {_format_size(label)}, but its image {files[0]} is {_format_size(image)} "
                        "(width x height): replace the wrong file.")
    check_label(label, num_classes=num_classes, file=files[1])


def check_label(label, *, num_classes: int, file: str):
    """Raise UserError unless all labels are in [0, num_classes) or IGNORE; `file` names the mask in the message."""
    if label.dtype == torch.uint8 and (label + 1).max() <= num_classes:  # 255 + 1 is 0; 20 times faster than the below
        return
    outside = label[(label < 0) | (label >= num_classes) & (label != IGNORE)]
    if outside.numel():
        numbers = undo_factor(label.unique().tolist())
        example = f", such as {format_pairs(numbers)}" if numbers and max(numbers.values()) < num_classes else ""
        raise UserError(f"{file} has the label {int(outside[0])}, but the classes are 0 to {num_classes - 1} "
                        f"(and {IGNORE}, ignored): correct the mask, choose the --dataset that it belongs to, or give "
                        f"--label_map{example} (docs/data.md#wrong-labels).")


def _format_size(tensor):
    height, width = tensor.shape[-2:]
    return f"{width}x{height}"
