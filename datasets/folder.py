"""Your own images and masks: {root}/{train,val}/{images,masks}, and {root}/classes.txt with the classes' names."""
import hashlib
from pathlib import Path

from utils.errors import UserError

from .classes import Classes, make_palette
from .files import have_one_size
from .image_lists import ImageFolder, describe_unused, list_images, log_masks_without_image, log_unused, to_one_line
from .layouts import refuse_other_layout
from .own_classes import (
    CLASSES,
    IGNORED_NAME,
    count_classes,
    list_colours,
    read_classes,
    read_colours,
    read_stored_labels,
    warn_about_palette,
)
from .paired import PairedFiles
from .voc import compute_colours

HELP = "(docs/data.md#your-own-images)"
MOST_HEADERS = 5000  # that are read to learn whether all images have one size
# What others call these folders, in lower case.
OTHER_NAMES = {
    "images": {"images", "image", "imgs", "img"},
    "masks": {"masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth"},
}


class Folder(PairedFiles):
    """A folder of images and masks; without {root}/val, val_share of the training images validate.

    The mask of images/a.jpg is masks/a.png, of any suffix, or masks/a_mask.png, with any such ending. val_names: the
    validation images of an earlier run, used instead of val_share. classes: those of an earlier run, used where there
    is no classes.txt.
    """

    own_classes = True
    unreadable: dict[Path, str] = {}  # {mask: message}, where the masks were read to learn the classes

    def __init__(self, split, *, data_root, crop_size=None, label_map=None, val_share=0.2, val_names=None, classes=None,
                 **_):
        root = Path(data_root).expanduser()
        drawn = not has_val(root)  # from the training images
        folder = find_folder(root, "train" if drawn else split)
        masks = ImageFolder(folder / "masks")
        images = list_images(folder / "images")
        if drawn:
            chosen = choose_validation(images, val_share) if val_names is None else find_named(images, val_names, root)
            images = [image for image in images if (image.stem in chosen) == (split == "val")]
        if not images and not drawn and split == "val":
            unused = describe_unused(folder / "images")
            raise UserError(f"No images in {to_one_line(folder / 'images')}{unused and f' (but {unused})'}: put the "
                            f"validation images there, or remove {to_one_line(folder)} to validate on --val_share of "
                            f"the training images {HELP}.")
        pairs = masks.pair(images)
        described = self.describe(data_root=root, label_map=label_map, classes=classes)
        self.class_names, self.palette = list(described.names), described.palette
        self.num_classes = described.num_classes
        self.mask_colours = read_colours(root)
        if not (root / CLASSES).exists() and classes is None:
            self.unreadable = read_stored_labels(root)[1]
        super().__init__(pairs, split, origin=folder / "images", crop_size=crop_size, label_map=label_map,
                         absent=masks.absent)
        if drawn and split == "val":
            self.drawn = sorted(image.stem for image in images)
        for _, mask in pairs[:1]:
            if mask not in masks.absent:
                warn_about_palette(mask, self.mask_colours, self.label_map)
        log_unused(folder / "images")
        if not drawn:
            log_masks_without_image(masks, pairs)

    @property
    def native_same_size(self) -> bool | None:
        """Return whether all masks have one size, as their images then have; None for more than MOST_HEADERS."""
        return have_one_size(mask for _, mask in self.pairs) if len(self.pairs) <= MOST_HEADERS else None

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
        find_folder(root, "val" if has_val(root) and not (root / "train").is_dir() else "train")
        count = count_classes(root, tuple(sorted((label_map or {}).items())))
        return Classes(tuple(map(str, range(count))), make_palette(compute_colours()[:count]))

    @classmethod
    def find_mask_colours(cls, *, data_root, classes=None, **_) -> dict[tuple[int, int, int], int]:
        """Return the colours of classes.txt, of `classes` where there is no such file, {} where there is neither."""
        root = Path(data_root).expanduser()
        if (root / CLASSES).exists() or classes is None:
            return list_colours(root)
        return {tuple(colour): label for label, colour in enumerate(classes.palette[:classes.num_classes].tolist())}


def find_folder(root: Path, split: str) -> Path:
    """Return the folder of a split, which holds images and masks. Raises UserError if one of them is missing."""
    folder = root / split
    missing = next((folder / kind for kind in OTHER_NAMES if not (folder / kind).is_dir()), None)
    if missing is None:
        return folder
    if not root.is_dir():
        raise UserError(f"--data_root {to_one_line(root)} does not exist: name the folder that holds train/images and "
                        f"train/masks {HELP}.")
    for other in sorted(folder.glob("*")):
        if other.name.lower() in OTHER_NAMES[missing.name] and other.is_dir() and list_images(other):
            raise UserError(f"The folder {to_one_line(missing)} does not exist, but {to_one_line(other)} does: rename "
                            f"it to {missing.name} {HELP}.")
    if split == "val" and all((root / "train" / kind).is_dir() for kind in OTHER_NAMES):
        raise UserError(f"The folder {to_one_line(missing)} does not exist: put the {missing.name} of the validation "
                        f"split there, or remove {to_one_line(folder)} to validate on --val_share of the training "
                        f"images {HELP}.")
    refuse_other_layout(root, "folder")
    raise UserError(f"No images and masks in {to_one_line(root)}: the folder {to_one_line(missing)} does not exist. "
                    f"Put them into {split}/images and {split}/masks {HELP}.")


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


def _choose_colours(names: list[str], colours: dict) -> list:
    """Return each class's colour; those without one get VOC's of their label."""
    usual = compute_colours().tolist()
    return [colours[name] or usual[label] for label, name in enumerate(names)]
