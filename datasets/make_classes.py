"""Write classes.txt for a folder of images and masks: a line for each label or colour, with its pixels.

    python -m datasets.make_classes --data_root path/to/data
"""
import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.errors import UserError
from utils.label_pairs import combine, to_pairs
from utils.text import count_of

from .files import is_in_colours, read_image, read_mask
from .image_lists import to_one_line
from .label_check import Labels, refuse_few_classes
from .label_maps import log_unused_labels
from .own_classes import CLASSES, list_masks, number_classes
from .transforms import IGNORE

MOST_COLOURS = 255


def make_classes(root: Path, label_map: dict[int, int] | None = None) -> str:
    """Return the text of classes.txt for the masks below root. Raises UserError, also for labels that a run refuses."""
    masks, label_map = list_masks(root), label_map or {}
    if not masks:
        raise UserError(f"No masks in {to_one_line(root / 'train' / 'masks')}: put them there "
                        "(docs/data.md#your-own-images).")
    pixels, images = Counter(), Counter()
    for mask in tqdm(masks, desc="reading masks", unit="mask", mininterval=0.2 if sys.stderr.isatty() else 30):
        found = count_values(mask)
        pixels.update(found)
        images.update({label_map.get(value, value) for value in found})
        if len(pixels) > MOST_COLOURS + 1:
            raise UserError(f"{to_one_line(mask)} brings the masks to more than {MOST_COLOURS} labels or colours: are "
                            "they photos, or was a mask scaled or saved as JPEG? Save class indices as grey PNG.")
    in_colours = {isinstance(value, tuple) for value in pixels}
    if len(in_colours) > 1:
        raise UserError(f"Some masks in {to_one_line(root)} are in colours and some hold indices: save all in one "
                        "form.")
    if in_colours == {False}:
        values, used = [*range(number_classes(root, pixels, label_map))], _use(pixels, label_map, root, len(masks))
    elif label_map:
        raise UserError(f"--label_map and --ignore_label are for masks of class numbers, and those in "
                        f"{to_one_line(root)} are in colours: leave the flags out, then name the lines of {CLASSES}.")
    else:
        values, used = sorted(pixels), pixels
    return "".join(_format_line(value, used, images) for value in values)


def _use(pixels: Counter, label_map: dict[int, int], root: Path, masks: int) -> Counter:
    """Return the pixels of the labels that the stored ones mean. Raises UserError for less than two classes."""
    used = Counter()
    for label, count in pixels.items():
        used[label_map.get(label, label)] += count
    classes = Counter({label: count for label, count in used.items() if label != IGNORE})
    refuse_few_classes(Labels(stored={*pixels}, labels=used, classes=classes), label_map=label_map, own_classes=True,
                       masks=f"The {masks} masks in {to_one_line(root)}", names=range(IGNORE))
    log_unused_labels(label_map, pixels, masks=masks)
    return used


def count_values(path: Path) -> Counter:
    """Return the pixels of each label of a mask, or of each colour (red, green, blue)."""
    if not is_in_colours(path):
        values, counts = read_mask(path).unique(return_counts=True)
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    colours, counts = np.unique(read_image(path).flatten(1).numpy().T, axis=0, return_counts=True)
    return Counter({tuple(colour): count for colour, count in zip(colours.tolist(), counts.tolist(), strict=True)})


def _format_line(value, pixels: Counter, images: Counter) -> str:
    name = f"colour_{'_'.join(map(str, value))} {' '.join(map(str, value))}" if isinstance(value, tuple) \
        else f"class_{value}"
    return f"{name} # {pixels[value]:,} pixels in {count_of(images[value], 'mask')}\n"


def main(argv=None):
    """Write classes.txt unless it exists."""
    parser = argparse.ArgumentParser("datasets.make_classes", description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", required=True, type=Path, help="folder with train/masks")
    parser.add_argument("--label_map", type=_label_map, metavar="FILE|FROM:TO,...", help="as main.py takes it")
    parser.add_argument("--ignore_label", type=int, default=IGNORE, help="label of pixels without a class, beside 255")
    given = parser.parse_args(argv)
    root, path = given.data_root, given.data_root / CLASSES
    try:
        text = make_classes(root, combine(given.label_map, given.ignore_label))
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        sys.exit(_refuse(f"{path} exists and stays as it is; from the masks it would be:\n{text}"))
    except (UserError, OSError) as error:
        sys.exit(_refuse(f"error: {error}"))
    flags = "; give main.py the same --label_map and --ignore_label" * (given.label_map is not None or
                                                                        given.ignore_label != IGNORE)
    sys.stdout.write(f"{text}Written to {path}: replace the names by your own; the colour of ignored pixels is named "
                     f"ignore{flags}\n")


def _label_map(text: str) -> str:
    try:
        return to_pairs(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 2


if __name__ == "__main__":
    main()
