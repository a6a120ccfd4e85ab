"""Paired transforms: tv_tensors.Image uint8 [3, H, W] and Mask [H, W] -> float32 in [0, 1] and int64, or bytes.

Random numbers come from torch's global generator, as in all of torchvision.transforms.v2.
"""
import numpy as np
import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IGNORE = 255
MEAN_PIXEL = (124, 116, 104)  # ImageNet mean (0.485, 0.456, 0.406) in uint8: padding is about 0 for the network


def make_train_transform(crop_size: int, colour_jitter: float = 0.0, *, as_bytes: bool = False) -> v2.Transform:
    """Return random scale in [0.5, 2], random crop, random flip: [3, H, W] -> [3, crop_size, crop_size].

    If the scaled image is smaller than the crop, the image is padded with MEAN_PIXEL and the label with IGNORE.
    colour_jitter: brightness, contrast and saturation change by factors from 1 - this to 1 + this. as_bytes: image and
    label keep their types, uint8.
    """
    jitter = [v2.ColorJitter(*[colour_jitter] * 3)] if colour_jitter else []
    fill = {tv_tensors.Image: MEAN_PIXEL, tv_tensors.Mask: IGNORE}
    return v2.Compose([
        RandomScale(0.5, 2.0),
        v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
        *jitter,
        v2.RandomHorizontalFlip(0.5),
        *_to_tensors(as_bytes),
    ])


def make_val_transform(crop_size: int | None = None, *, as_bytes: bool = False) -> v2.Transform:
    """Return a transform that keeps the native size or, with crop_size, resizes the short side and crops the centre.

    The latter is VainF's --crop_val protocol. It scores resized, cropped labels, so its scores are only comparable
    with each other. as_bytes: as above.
    """
    crop = [] if crop_size is None else [ResizeShortSide(crop_size), v2.CenterCrop(crop_size)]
    return v2.Compose([*crop, *_to_tensors(as_bytes)])


def _to_tensors(as_bytes: bool):
    dtype = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}
    convert = [] if as_bytes else [v2.ToDtype(dtype, scale=True)]  # scale=True changes images only, not labels
    return *convert, v2.ToPureTensor()


class _PairedResize(v2.Transform):
    """Resize image and mask to the size that make_params chose."""

    def transform(self, inpt, params):
        if not isinstance(inpt, tv_tensors.Mask):
            return F.resize(inpt, params["size"], interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
        return tv_tensors.wrap(resize_label(inpt.as_subclass(torch.Tensor), *params["size"]), like=inpt)


def resize_label(label: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the labels [height, width] that lie at the new pixels' centres, where bilinear resizing samples an image.

    v2 resizes a Mask with NEAREST, which reads up to half an output pixel away from there.
    """
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                     for new, old in zip((height, width), label.shape, strict=True))
    return torch.from_numpy(label.numpy().take(columns, axis=1).take(rows, axis=0))


class RandomScale(_PairedResize):
    """Scale both sides by one factor drawn from U(low, high)."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs):
        """Return a random size [height, width] for one pair, at least 2 x 2.

        torch resizes wrongly to a width of 1 (every row becomes the first, in uint8 where the CPU has no AVX2), and
        fails at 1 x 1 ("INTERNAL ASSERT FAILED").
        """
        scale = torch.empty(()).uniform_(self.low, self.high).item()
        return {"size": [max(2, round(side * scale)) for side in F.get_size(flat_inputs[0])]}


class ResizeShortSide(_PairedResize):
    """Resize so that the short side becomes `size`; the long side is rounded down."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs):
        """Return the size [height, width] of one pair."""
        sides = F.get_size(flat_inputs[0])
        return {"size": [side * self.size // min(sides) for side in sides]}


def collate(samples: list[tuple]) -> tuple:
    """Return a batch of samples whose images are [B, 3, H, W] in channels-last order, in which they are decoded."""
    images, *rest = default_collate([(image.movedim(0, -1), *rest) for image, *rest in samples])
    return images.movedim(-1, 1), *rest
