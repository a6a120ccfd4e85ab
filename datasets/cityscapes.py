"""Cityscapes: streets of 50 cities, 2975 training and 500 validation images of 1024x2048."""
from pathlib import Path

import torch

from utils.errors import UserError

from .classes import make_palette
from .files import have_one_size
from .image_lists import to_one_line
from .layouts import describe_found, list_entries, refuse_other_layout
from .paired import PairedFiles
from .transforms import IGNORE

IMAGES, MASKS = "leftImg8bit", "gtFine"
IDS, TRAIN_IDS = "labelIds", "labelTrainIds"  # what a mask's name ends with: all 34 labels, or only the 19 classes
# Class -> (its id in labelIds, colour), of the authors' cityscapesScripts (helpers/labels.py); other ids are ignored.
CLASSES = {
    "road": (7, (128, 64, 128)), "sidewalk": (8, (244, 35, 232)), "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)), "fence": (13, (190, 153, 153)), "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)), "traffic sign": (20, (220, 220, 0)), "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)), "sky": (23, (70, 130, 180)), "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)), "car": (26, (0, 0, 142)), "truck": (27, (0, 0, 70)), "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)), "motorcycle": (32, (0, 0, 230)), "bicycle": (33, (119, 11, 32)),
}
LARGEST_ID = 33


class Cityscapes(PairedFiles):
    """Cityscapes: {root}/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and {root}/gtFine/..., 19 classes.

    A mask is *_gtFine_labelIds.png, whose 34 ids become classes, or *_gtFine_labelTrainIds.png where a split has only
    those. Training crops of 768 get colour jitter of 0.5, as VainF trains. Cordts et al., "The Cityscapes dataset for
    semantic urban scene understanding", CVPR 2016.
    """

    class_names = list(CLASSES)
    num_classes = len(class_names)
    relabels = True
    palette = make_palette([colour for _, colour in CLASSES.values()])
    usual_crop_size = 768
    usual_val_batch_size = 1  # an attack on one image of 2048x1024 takes 5.3 GiB
    colour_jitter = 0.5

    def __init__(self, split, *, data_root, crop_size=None, label_map=None, **_):
        root = Path(data_root).expanduser()
        for needed in (root / IMAGES / split, root / MASKS / split):
            if not needed.is_dir():
                refuse_other_layout(root, "cityscapes")
                remedy = f"Set --data_root to the folder that holds {IMAGES} and {MASKS}"
                if any((root / part).is_dir() for part in (IMAGES, MASKS)):
                    remedy = f"Unpack {needed.parent.name}_trainvaltest.zip into {to_one_line(root)}"
                raise UserError(f"Cityscapes not found: the folder {to_one_line(needed)} does not exist; "
                                f"{describe_found(needed, root)}. {remedy} (docs/data.md#cityscapes).")
        folder = root / IMAGES / split
        images = sorted(folder.glob(f"*/*_{IMAGES}.png"))
        if not images:
            raise UserError(f"No images of Cityscapes in {to_one_line(folder)}: looked for CITY/*_{IMAGES}.png, found "
                            f"{list_entries(folder)}. Unpack {IMAGES}_trainvaltest.zip again "
                            "(docs/data.md#cityscapes).")
        self.kind = choose_kind(images, root / MASKS / split)
        pairs = [(image, find_mask(image, root / MASKS / split, self.kind)) for image in images]
        super().__init__(pairs, split, origin=folder, crop_size=crop_size, label_map=label_map,
                         absent=frozenset(mask for _, mask in pairs if not mask.exists()))

    @property
    def native_same_size(self) -> bool:
        """Return whether all masks have one size, read from their headers; images must match their masks."""
        return have_one_size(mask for _, mask in self.pairs)

    @property
    def void_labels(self) -> frozenset[int]:
        """Return 255, and of labelIds the ids that are no class."""
        used = {stored for stored, _ in CLASSES.values()}
        return frozenset((IGNORE, *(stored for stored in range(LARGEST_ID + 1) if stored not in used)))

    def convert_label(self, label):
        """Return stored ids as the classes that label_map gives them, else their own; what is no id stays."""
        if self.kind == TRAIN_IDS or (label.numel() and int(label.max()) > IGNORE):
            return self.map_label(label)
        table = torch.arange(IGNORE + 1)
        table[:LARGEST_ID + 1] = IGNORE
        for number, (stored, _) in enumerate(CLASSES.values()):
            table[stored] = number
        for stored, used in self.label_map.items():
            table[stored:stored + 1] = used  # none where an id is beyond the table
        return table[label.long()].to(label.dtype)


def find_mask(image: Path, masks: Path, kind: str) -> Path:
    """Return the path of an image's mask of this kind."""
    return masks / image.parent.name / f"{image.stem.removesuffix(f'_{IMAGES}')}_{MASKS}_{kind}.png"


def choose_kind(images: list[Path], masks: Path) -> str:
    """Return labelIds, or labelTrainIds where the first image has only that mask."""
    exists = {kind: find_mask(images[0], masks, kind).exists() for kind in (IDS, TRAIN_IDS)}
    return TRAIN_IDS if exists[TRAIN_IDS] and not exists[IDS] else IDS
