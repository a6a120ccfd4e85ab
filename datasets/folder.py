"""Your own images and masks: {root}/{train,val}/{images,masks}, and {root}/classes.txt with the classes' names."""
import hashlib
from functools import cache
from pathlib import Path

from utils.errors import UserError
from utils.logging import logger

from .base import PairedFiles
from .classes import Classes, make_palette
from .files import is_in_colours, read_mask
from .image_lists import ImageFolder, list_images, log_masks_without_image, log_unused, to_one_line
from .layouts import refuse_other_layout
from .transforms import IGNORE
from .voc import compute_colours

CLASSES = "classes.txt"
IGNORED_NAME = "ignore"  # of the line in classes.txt that has the colour of ignored pixels
MAKE_CLASSES = "python -m datasets.make_classes --data_root"


class Folder(PairedFiles):
    """A folder of images and masks; without {root}/val, val_share of the training images validate.

    The mask of images/a.jpg is masks/a.png, of any suffix, or masks/a_mask.png, with any such ending. val_names: the
    validation images of an earlier run, used instead of val_share. classes: those of an earlier run, used where there
    is no classes.txt.
    """

    def __init__(self, split, *, data_root, crop_size=None, label_map=None, val_share=0.2, val_names=None, classes=None,
                 **_):
        root = Path(data_root).expanduser()
        drawn = not has_val(root)  # from the training images
        folder = root / ("train" if drawn else split)
        for needed in (folder / "images", folder / "masks"):
            if not needed.is_dir():
                refuse_other_layout(root, "folder")
                raise UserError(f"No images and masks in {to_one_line(root)}: the folder {to_one_line(needed)} does "
                                "not exist. Put them into train/images and train/masks (docs/data.md#your-own-images).")
        masks = ImageFolder(folder / "masks")
        images = list_images(folder / "images")
        if drawn:
            chosen = choose_validation(images, val_share) if val_names is None else find_named(images, val_names, root)
            images = [image for image in images if (image.stem in chosen) == (split == "val")]
        pairs = masks.pair(images)
        described = self.describe(data_root=root, label_map=label_map, classes=classes)
        self.class_names, self.palette = list(described.names), described.palette
        self.num_classes = described.num_classes
        self.mask_colours = read_colours(root)
        super().__init__(pairs, split, origin=folder / "images", crop_size=crop_size, label_map=label_map,
                         absent=masks.absent)
        if drawn and split == "val":
            self.drawn = sorted(image.stem for image in images)
        log_unused(folder / "images")
        if not drawn:
            log_masks_without_image(masks, pairs)

    @classmethod
    def describe(cls, *, data_root, label_map=None, classes=None, **_) -> Classes:
        """Return the classes of classes.txt, else `classes`, else those in the masks, named by their labels."""
        root = Path(data_root).expanduser()
        if (root / CLASSES).exists():
            lines = read_classes(root)
            names = [name for name in lines if name != IGNORED_NAME]
            return Classes(tuple(names), make_palette(_choose_colours(names, lines), void=lines.get(IGNORED_NAME) or 0))
        if classes is not None:
            return classes
        count = count_classes(root, tuple(sorted((label_map or {}).items())))
        return Classes(tuple(map(str, range(count))), make_palette(compute_colours()[:count]))


def has_val(root) -> bool:
    """Return whether the validation images have a folder of their own."""
    return (Path(root).expanduser() / "val").is_dir()


def choose_validation(images: list[Path], share: float) -> set[str]:
    """Return the stems of round(share * count) images, at least one: those whose stems have the smallest hashes."""
    stems = sorted((image.stem for image in images), key=lambda stem: hashlib.sha256(
        stem.encode(errors="surrogateescape")).digest())
    return set(stems[:max(1, round(share * len(stems)))])


def find_named(images: list[Path], names, root: Path) -> set[str]:
    """Return the names as a set; raise UserError if one isn't an image."""
    missing = set(names) - {image.stem for image in images}
    if missing:
        raise UserError(f"{len(missing)} of the {len(names)} validation images of this run are missing in "
                        f"{to_one_line(root / 'train' / 'images')}, the first is {to_one_line(min(missing))}: put them "
                        "back.")
    return set(names)


def read_classes(root: Path) -> dict[str, tuple[int, int, int] | None]:
    """Return {name: colour or None} from the lines `name` or `name red green blue` of classes.txt.

    What follows " # " is a comment. Raises UserError for two lines of one name or colour, and for too many.
    """
    path, classes = root / CLASSES, {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Can't read {to_one_line(path)} ({getattr(error, 'strerror', None) or 'not UTF-8 text'}): "
                        "write one class a line.") from None
    for number, line in enumerate(lines, start=1):
        words = line.partition(" # ")[0].split()
        colour = tuple(map(int, words[-3:])) if len(words) > 3 and all(map(_is_level, words[-3:])) else None
        name = " ".join(words[:-3] if colour else words)
        if name and (name in classes or (colour and colour in classes.values())):
            raise UserError(f"{to_one_line(path)}, line {number}: the name or colour of {to_one_line(name)} is in an "
                            "earlier line too: change one of them.")
        if name:
            classes[name] = colour
    if not 0 < len(classes) <= IGNORE:
        raise UserError(f"{to_one_line(path)} has {len(classes)} classes: write one class a line, 1 to {IGNORE}.")
    return classes


def read_colours(root: Path) -> dict[tuple[int, int, int], int]:
    """Return {colour: label} of classes.txt, {} without the file. Raises UserError if masks need colours it lacks."""
    classes = read_classes(root) if (root / CLASSES).exists() else {}
    names = [name for name in classes if name != IGNORED_NAME]
    colours = {colour: IGNORE if name == IGNORED_NAME else names.index(name)
               for name, colour in classes.items() if colour}
    first = next(iter(list_images(root / "train" / "masks")), None) if not colours else None
    if first is not None and is_in_colours(first):
        raise UserError(f"The masks in {to_one_line(first.parent)} are in colours, and {to_one_line(root / CLASSES)} "
                        f"does not say which: run {MAKE_CLASSES} {to_one_line(root)}, then write the classes' names "
                        "into it.")
    return colours


@cache
def count_classes(root: Path, label_map: tuple) -> int:
    """Return one more than the largest label of all masks but IGNORE. Raises UserError if labels are left out oddly."""
    labels, label_map = set(), dict(label_map)
    for folder in ("train", "val"):
        for path in list_images(root / folder / "masks") if (root / folder / "masks").is_dir() else ():
            if is_in_colours(path):
                read_colours(root)
            labels |= {label_map.get(label, label) for label in read_mask(path).unique().tolist()}
    labels -= {IGNORE}
    count = max(labels, default=0) + 1
    if count > IGNORE or (count > 2 and len(labels) <= count / 2):
        shown = ", ".join(map(str, sorted(labels)[:10])) + ", ..." * (len(labels) > 10)
        raise UserError(f"The masks in {to_one_line(root)} have the labels {shown}, which are not numbers from 0 to a "
                        f"last class: give --label_map, or name all classes in {CLASSES} (docs/data.md#wrong-labels).")
    logger.info("No %s in %s: %d classes, named by their labels", CLASSES, to_one_line(root), count)
    return count


def _is_level(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word) <= 255


def _choose_colours(names: list[str], colours: dict) -> list:
    """Return each class's colour; those without one get VOC's of their label."""
    usual = compute_colours().tolist()
    return [colours[name] or usual[label] for label, name in enumerate(names)]
