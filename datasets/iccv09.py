"""Stanford Background: 715 outdoor images of about 320x240, in 8 classes."""
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from utils.errors import UserError
from utils.seed import make_generator

from .classes import make_palette
from .files import read_bytes
from .image_lists import ImageFolder, list_images, log_unused, to_one_line
from .layouts import describe_found, refuse_other_layout
from .paired import PairedFiles
from .transforms import IGNORE

REGIONS, COLOURED = "labels", "labels_colored"  # *.regions.txt of the authors, *.png as SAM_AT reads them
TRAINING_SHARE, SPLIT_SEED = 0.7, 2009
# Class -> its colour in labels_colored; in *.regions.txt classes are numbered in this order, and below 0 is unknown.
CLASSES = {"sky": (68, 1, 84), "tree": (72, 40, 140), "road": (62, 74, 137), "grass": (38, 130, 142),
           "water": (31, 158, 137), "building": (53, 183, 121), "mountain": (109, 205, 89),
           "foreground": (180, 222, 44)}
UNKNOWN = (49, 104, 142)


class StanfordBackground(PairedFiles):
    """Stanford Background: {root}/images/*.jpg and {root}/labels/*.regions.txt or {root}/labels_colored/*.png.

    There is no published split: 70 % of the sorted names train, drawn with a fixed seed; the others validate. Gould et
    al., "Decomposing a scene into geometric and semantically consistent regions", ICCV 2009.
    """

    class_names = list(CLASSES)
    num_classes = len(class_names)
    palette = make_palette(list(CLASSES.values()))
    mask_colours = {UNKNOWN: IGNORE, **{colour: label for label, colour in enumerate(CLASSES.values())}}
    normalization = {"mean": [0.4813, 0.4901, 0.4747], "std": [0.2495, 0.2492, 0.2748]}  # of its images, by SAM_AT

    def __init__(self, split, *, data_root, crop_size=None, label_map=None, **_):
        root = Path(data_root).expanduser()
        kind = next((kind for kind in (REGIONS, COLOURED) if (root / kind).is_dir()), None)
        if kind is None or not (root / "images").is_dir():
            refuse_other_layout(root, "iccv09")
            missing = root / ("images" if kind else REGIONS)
            raise UserError(f"Stanford Background not found: the folder {to_one_line(missing)} does not exist; "
                            f"{describe_found(missing, root)}. Set --data_root to the folder that holds images and "
                            f"{REGIONS} (docs/data.md#iccv09).")
        images = choose_images(list_images(root / "images"), split)
        masks = ImageFolder(root / kind)
        pairs = ([(image, root / kind / f"{image.stem}.regions.txt") for image in images] if kind == REGIONS else
                 masks.pair(images))
        absent = masks.absent if kind == COLOURED else frozenset(mask for _, mask in pairs if not mask.exists())
        super().__init__(pairs, split, origin=root / "images", crop_size=crop_size, label_map=label_map, absent=absent)
        log_unused(root / "images")

    def read_stored_label(self, i: int) -> tv_tensors.Mask:
        """Return label i as it is stored, integers [H, W]; unknown is 255. Raises UserError."""
        path = self.pairs[i][1]
        return tv_tensors.Mask(read_regions(path)) if path.suffix == ".txt" else super().read_stored_label(i)


def choose_images(images: list[Path], split: str) -> list[Path]:
    """Return the images of a split, sorted by name: of 10 images 7 train."""
    images = sorted(images, key=lambda path: path.name)
    order = torch.randperm(len(images), generator=make_generator("iccv09", SPLIT_SEED)).tolist()
    training = {*order[:round(TRAINING_SHARE * len(images))]}
    return [image for place, image in enumerate(images) if (place in training) == (split == "train")]


def read_regions(path: Path) -> torch.Tensor:
    """Return the labels in *.regions.txt, a line of whole numbers for each row, int64 [H, W]; negative ones are 255."""
    rows = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            row = np.array(line.split(), dtype=np.int64)
        except ValueError:
            raise UserError(f"Can't read {to_one_line(path)} (line {number} holds other things than whole numbers): "
                            "replace the damaged file.") from None
        if rows and len(row) != len(rows[0]):
            raise UserError(f"Can't read {to_one_line(path)} (line {number} has {len(row)} numbers, line 1 has "
                            f"{len(rows[0])}): replace the damaged file.")
        rows.append(row)
    if not rows or not len(rows[0]):
        raise UserError(f"Can't read {to_one_line(path)} (it is empty): replace the damaged file.")
    label = torch.from_numpy(np.stack(rows))
    return label.where(label >= 0, IGNORE)
