"""Resizing to the nearest value by indices, for files: onnxruntime's own Resize takes a neighbour at some sizes.

PyTorch rounds i * (from / to) down, onnxruntime i / (to / from); in float32 these differ, for example from 16 to 122.
"""
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NearestByIndex(TorchFunctionMode):
    """A context in which F.interpolate(x, size=(height, width), mode="nearest") takes rows and columns by index."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ARG002, D105
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("mode") == "nearest" and isinstance(kwargs.get("size"), tuple):
            return resize_nearest(*args, kwargs["size"])
        return func(*args, **kwargs)


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x [B, C, h, w] resized to `size`, with the values that F.interpolate takes."""
    for axis, side in zip((2, 3), size, strict=True):
        places = torch.arange(side, dtype=torch.float32, device=x.device) * (x.shape[axis] / side)
        x = x.index_select(axis, places.long())
    return x
