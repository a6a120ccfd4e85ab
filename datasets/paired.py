"""A data set whose images and masks are files."""
import copy
import hashlib
from pathlib import Path

import torch
from torchvision import tv_tensors

from .base import SegmentationDataset
from .files import read_bytes, read_image, read_image_size, read_mask, read_orientation
from .image_lists import to_one_line


class PairedFiles(SegmentationDataset):
    """A data set whose image i and mask i are the files pairs[i].

    Pixels are used as stored. The EXIF orientation is applied to an image only if its mask then fits and otherwise
    does not. label_map ({stored: used}) changes labels when a mask is read. absent: the paths that don't exist.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], split: str, *, origin: Path, crop_size: int | None = None,
                 label_map: dict[int, int] | None = None, absent=frozenset()):
        super().__init__(split, crop_size=crop_size)
        self.pairs, self.absent, self.label_map = pairs, absent, label_map or {}
        self.origin = str(origin)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        """Return the stem of the image file."""
        return self.pairs[i][0].stem

    def files(self, i: int) -> tuple[str, str]:
        """Return the paths of image and mask."""
        image, mask = self.pairs[i]
        return to_one_line(image), to_one_line(mask)

    def read_pair(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return pair i: image uint8 [3, H, W], label integers [H, W]. Raises UserError."""
        path = self.pairs[i][0]
        image, label = read_image(path), self.read_label(i)
        if image.shape[-2:] == label.shape[::-1] != label.shape:
            image = read_image(path, upright=True)
        return image, label

    def read_label(self, i: int) -> tv_tensors.Mask:
        """Return label i, integers [H, W]. Raises UserError."""
        label = self.read_stored_label(i)
        return tv_tensors.wrap(self.convert_label(label), like=label)

    def read_stored_label(self, i: int) -> tv_tensors.Mask:
        """Return label i as it is stored, integers [H, W]; colours as labels. Raises UserError."""
        return read_mask(self.pairs[i][1], self.mask_colours)

    def map_label(self, label: torch.Tensor) -> torch.Tensor:
        """Return stored labels (integers [...]) with label_map applied."""
        converted = label.clone() if self.label_map else label
        largest = torch.iinfo(label.dtype).max  # comparing with a larger number would wrap around
        for stored, used in self.label_map.items():
            if stored <= largest:
                converted[label == stored] = used
        return converted

    def digest(self) -> str:
        """Return a hash of all files; 1,449 VOC images take less than a second once the system has cached them."""
        digest = hashlib.sha256()
        for path in (path for pair in self.pairs for path in pair):
            content = read_bytes(path)
            digest.update(f"{path.name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
        own_colours = {} if self.mask_colours == type(self).mask_colours else self.mask_colours
        for meaning in filter(None, (self.label_map, own_colours)):
            digest.update(repr(sorted(meaning.items())).encode())
        return digest.hexdigest()[:16]

    def remarks(self, i: int) -> list[str]:
        """Return a line if the image has an EXIF orientation and the mask fits it with and without rotation."""
        path = self.pairs[i][0]
        width, height = read_image_size(path)
        if (turned := read_orientation(path)) == 1 or (turned > 4 and width != height):
            return []
        return [f"{to_one_line(path)} has the EXIF orientation {turned}, which is ignored: image and mask are used as "
                "stored"]

    def without(self, names) -> "PairedFiles":
        """Return a copy without the images of these names; its `skipped` lists them."""
        names = set(names)
        rest = copy.copy(self)
        rest.pairs = [pair for pair in self.pairs if pair[0].stem not in names]
        rest.skipped = [*self.skipped, *(image.stem for image, _ in self.pairs if image.stem in names)]
        return rest
