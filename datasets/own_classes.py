"""The classes of a folder of your own: those of classes.txt, else the labels in the masks."""
import re
import sys
from collections.abc import Iterable
from functools import cache
from itertools import takewhile
from pathlib import Path

from tqdm import tqdm

from utils.distributed import is_main
from utils.errors import UserError
from utils.logging import logger

from .files import is_in_colours, read_mask, read_palette
from .image_lists import list_images, to_one_line
from .label_maps import format_pairs, format_ranges, log_unused_labels, number_in_order
from .transforms import IGNORE

CLASSES = "classes.txt"
IGNORED_NAME = "ignore"  # of the line in classes.txt that has the colour of ignored pixels
MAKE_CLASSES = "python -m datasets.make_classes --data_root"
NUMBER = re.compile(r"[(\[]?[+-]?\d+([.,;]\d+)*[)\],;]*", re.ASCII)
COLOUR_WORD = re.compile(r"[(\[]?\d+[,;]\d+[,;]\d+[)\]]?|#[0-9a-fA-F]{6}", re.ASCII)  # 128,64,128 or #804080


def list_masks(root: Path) -> list[Path]:
    """Return the masks of both splits, those of the training split first."""
    folders = [root / split / "masks" for split in ("train", "val")]
    return [mask for folder in folders if folder.is_dir() for mask in list_images(folder)]


def read_classes(root: Path) -> dict[str, tuple[int, int, int] | None]:
    """Return {name: colour or None} from the lines `name` or `name red green blue` of classes.txt.

    What follows " # " is a comment. Raises UserError for a line of another form, for two lines of one name or colour,
    and for too many.
    """
    path, classes = root / CLASSES, {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Can't read {to_one_line(path)} ({getattr(error, 'strerror', None) or 'not UTF-8 text'}): "
                        "write one class a line.") from None
    for number, line in enumerate(lines, start=1):
        place = f"{to_one_line(path)}, line {number}"
        name, colour = _parse_line(line, place)
        if name and (name in classes or (colour and colour in classes.values())):
            raise UserError(f"{place}: the name or colour of {to_one_line(name)} is in an earlier line too: change one "
                            "of them.")
        if name:
            classes[name] = colour
    count = len(classes.keys() - {IGNORED_NAME})
    if not 0 < count <= IGNORE:
        raise UserError(f"{to_one_line(path)} has {count} classes: write one class a line, 1 to {IGNORE}.")
    return classes


def _parse_line(line: str, place: str) -> tuple[str, tuple[int, int, int] | None]:
    """Return the name ("" for an empty line) and the colour; raise UserError if numbers after a name are no colour."""
    words = line.partition(" # ")[0].split()
    if len(words) > 3 and all(map(_is_level, words[-3:])):
        return " ".join(words[:-3]), tuple(map(int, words[-3:]))
    numbers = len(list(takewhile(NUMBER.fullmatch, reversed(words))))
    if numbers > 1 or (words and COLOUR_WORD.fullmatch(words[-1])):
        raise UserError(f"{place}: '{to_one_line(' '.join(words))[:80]}' is neither `name` nor `name red green blue`: "
                        "write a name and three numbers from 0 to 255, or a name alone.")
    if words == [IGNORED_NAME]:
        raise UserError(f"{place}: {IGNORED_NAME} is no class and has no colour: give it the colour of ignored pixels, "
                        f"or leave the line out (in masks of class numbers, {IGNORE} is ignored).")
    return " ".join(words), None


def _is_level(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word) <= 255


def list_colours(root: Path) -> dict[tuple[int, int, int], int]:
    """Return {colour: label} of classes.txt, {} without the file."""
    classes = read_classes(root) if (root / CLASSES).exists() else {}
    names = [name for name in classes if name != IGNORED_NAME]
    return {colour: IGNORE if name == IGNORED_NAME else names.index(name) for name, colour in classes.items() if colour}


def read_colours(root: Path) -> dict[tuple[int, int, int], int]:
    """Return {colour: label} of classes.txt, {} without the file. Raises UserError if masks need colours it lacks."""
    colours = list_colours(root)
    if colours or not _are_in_colours(masks := list_masks(root)):
        return colours
    path, folder = to_one_line(root / CLASSES), to_one_line(masks[0].parent)
    run = f"run {MAKE_CLASSES} {to_one_line(root)}"
    remedy = f"add to each of its lines the class's colour, `name red green blue`, or move the file away and {run}" \
        if (root / CLASSES).exists() else f"{run}, then write the classes' names into it"
    raise UserError(f"The masks in {folder} are in colours, and {path} does not say which: {remedy}.")


def _are_in_colours(masks: list[Path]) -> bool:
    """Return whether the first mask that can be read is in colours; False if none can."""
    for mask in masks:
        try:
            return is_in_colours(mask)
        except UserError:  # as in warn_about_palette()
            continue
    return False


def warn_about_palette(mask: Path, colours: dict[tuple[int, int, int], int], label_map: dict[int, int]):
    """Warn if a palette mask has a label in the colour that classes.txt ({colour: label}) gives another class."""
    try:
        palette = read_palette(mask) if colours else []
        labels = read_mask(mask).unique().tolist() if palette else []
    except UserError:  # the check of the data reports it, or --skip_bad_images leaves it out
        return
    for stored in labels:
        colour, used = palette[stored] if stored < len(palette) else None, label_map.get(stored, stored)
        if colours.get(colour, used) != used:
            logger.warning("Warning: %s has label %d in the colour %d %d %d, which %s gives class %d: labels are read "
                           "as class numbers, so correct the order of the lines (docs/data.md#your-own-images)",
                           to_one_line(mask), stored, *colour, CLASSES, colours[colour])
            return


@cache
def read_stored_labels(root: Path) -> tuple[frozenset[int], dict[Path, str]]:
    """Return the labels in all masks, and {mask: message} of those that can't be read. Raises UserError if none can."""
    stored, unreadable, masks = set(), {}, list_masks(root)
    read_colours(root)
    for mask in tqdm(masks, desc="counting classes", unit="mask", disable=not is_main(),
                     mininterval=0.2 if sys.stderr.isatty() else 30):
        try:
            stored |= {*read_mask(mask).unique().tolist()}
        except UserError as error:  # the check of the data reports it, or --skip_bad_images leaves it out
            unreadable[mask] = str(error)
    if unreadable and not stored:
        raise UserError(next(iter(unreadable.values())))
    return frozenset(stored), unreadable


@cache
def count_classes(root: Path, label_map: tuple) -> int:
    """Return one more than the largest label of all masks but IGNORE. Raises UserError if labels are left out oddly."""
    (stored, unreadable), label_map = read_stored_labels(root), dict(label_map)
    count = number_classes(root, stored, label_map)
    logger.info("No %s in %s: %d class%s, named by their labels", CLASSES, to_one_line(root), count,
                "es" * (count != 1))
    log_unused_labels(label_map, stored, masks=len(list_masks(root)) - len(unreadable))
    return count


def number_classes(root: Path, stored: Iterable[int], label_map: dict[int, int]) -> int:
    """Return one more than the largest label but IGNORE that the stored ones mean. Raises UserError for large gaps."""
    labels = {label_map.get(label, label) for label in stored} - {IGNORE}
    count = max(labels, default=0) + 1
    if count <= IGNORE and (count <= 2 or len(labels) > count / 2):
        return count
    masks, end = f"The masks in {to_one_line(root)} have", f"name all classes in {CLASSES} (docs/data.md#wrong-labels)."
    if len(labels) > IGNORE:
        raise UserError(f"{masks} {len(labels)} labels, and {IGNORE} can be classes: give --label_map, which may give "
                        "several labels one class, or replace the masks if they are photos or distances.")
    kept = [label for label in stored if label_map.get(label, label) != IGNORE]
    changed = {label: number for label, number in number_in_order(kept).items() if label != number}
    far = max(labels)
    alone = far in stored and far not in label_map and len(labels) > 2 and labels == {*range(len(labels) - 1), far}
    pairs = format_pairs(changed)
    advice = f"--ignore_label {far} if it marks pixels without a class, --label_map {pairs} if it is one" if alone \
        else f"--label_map, such as {pairs}"
    raise UserError(f"{masks} the labels {format_ranges(labels)}, which are not numbers from 0 to a last class: give "
                    f"{advice}, or {end}")
