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

from .files import is_in_colours, read_image, read_mask
from .image_lists import to_one_line
from .own_classes import CLASSES, list_masks
from .transforms import IGNORE

MOST_COLOURS = 255


def make_classes(root: Path) -> str:
    """Return the text of classes.txt for the masks below root. Raises UserError."""
    masks = list_masks(root)
    if not masks:
        raise UserError(f"No masks in {to_one_line(root / 'train' / 'masks')}: put them there "
                        "(docs/data.md#your-own-images).")
    pixels, images = Counter(), Counter()
    for mask in tqdm(masks, desc="reading masks", unit="mask", mininterval=0.2 if sys.stderr.isatty() else 30):
        found = count_values(mask)
        pixels.update(found)
        images.update(found.keys())
        if len(pixels) > MOST_COLOURS + 1:
            raise UserError(f"{to_one_line(mask)} brings the masks to more than {MOST_COLOURS} labels or colours: are "
                            "they photos, or was a mask scaled or saved as JPEG? Save class indices as grey PNG.")
    if len({isinstance(value, tuple) for value in pixels}) > 1:
        raise UserError(f"Some masks in {to_one_line(root)} are in colours and some hold indices: save all in one "
                        "form.")
    return "".join(_format_line(value, pixels, images) for value in _list_classes(pixels))


def count_values(path: Path) -> Counter:
    """Return the pixels of each label of a mask, or of each colour (red, green, blue)."""
    if not is_in_colours(path):
        values, counts = read_mask(path).unique(return_counts=True)
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    colours, counts = np.unique(read_image(path).flatten(1).numpy().T, axis=0, return_counts=True)
    return Counter({tuple(colour): count for colour, count in zip(colours.tolist(), counts.tolist(), strict=True)})


def _list_classes(pixels: Counter) -> list:
    """Return every colour, or every label from 0 to the largest that is not ignored."""
    if any(isinstance(value, tuple) for value in pixels):
        return sorted(pixels)
    return list(range(max((label for label in pixels if label != IGNORE), default=0) + 1))


def _format_line(value, pixels: Counter, images: Counter) -> str:
    name = f"colour_{'_'.join(map(str, value))} {' '.join(map(str, value))}" if isinstance(value, tuple) \
        else f"class_{value}"
    return f"{name} # {pixels[value]:,} pixels in {images[value]} masks\n"


def main(argv=None):
    """Write classes.txt unless it exists."""
    parser = argparse.ArgumentParser("datasets.make_classes", description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", required=True, type=Path, help="folder with train/masks")
    root = parser.parse_args(argv).data_root
    path = root / CLASSES
    try:
        text = make_classes(root)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        sys.exit(_refuse(f"{path} exists and stays as it is; from the masks it would be:\n{text}"))
    except (UserError, OSError) as error:
        sys.exit(_refuse(f"error: {error}"))
    sys.stdout.write(f"{text}Written to {path}: replace the names by your own; the colour of ignored pixels is named "
                     "ignore\n")


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 2


if __name__ == "__main__":
    main()
