"""Images as bytes and as floats, and for files and dashboards."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(image: Tensor) -> np.ndarray:
    """Return an image [3, H, W] in [0, 1] as uint8 [H, W, 3], rounded; truncation would darken pixels."""
    return image.detach().mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def to_unit_range(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1], with the bits of torchvision's ToDtype; float images as they are."""
    return images.float().mul_(1.0 / 255) if images.dtype == torch.uint8 else images


def overlay(image: np.ndarray, colours: np.ndarray, *, alpha: float = 0.7) -> np.ndarray:
    """Return `image` with the class colours at opacity `alpha` over it; all are uint8 [H, W, 3]."""
    return np.rint(round(1 - alpha, 12) * image + alpha * colours).astype(np.uint8)


def scale_perturbation(delta: Tensor) -> Tensor:
    """Return a perturbation [3, H, W] as an image in [0, 1]: grey where it is 0, black and white at its extremes."""
    return 0.5 + 0.5 * delta / delta.abs().amax().clamp_min(1e-12)


def choose_evenly(length: int, count: int) -> list[int]:
    """Return `count` indices, evenly spaced from 0 to length - 1; all indices if `count` is at least `length`."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int)).tolist()


def read_rgb(path: Path) -> np.ndarray:
    """Return a picture file as uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
