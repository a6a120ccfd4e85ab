"""Operations that files need in another form, with the same values.

Nearest resizing: onnxruntime rounds otherwise and takes a neighbour at some sizes. PyTorch rounds i * (from / to) down,
onnxruntime i / (to / from); in float32 these differ, for example from 16 to 122.

Max pooling with a stride: torch.export asks whether its size divides by the stride, and refuses all other sizes then.
"""
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Rewritten(TorchFunctionMode):
    """A context in which F.interpolate (nearest, to a size) and F.max_pool2d (by nn.MaxPool2d) run in that form."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ARG002, D105
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("mode") == "nearest" and isinstance(kwargs.get("size"), tuple):
            return resize_nearest(*args, kwargs["size"])
        if func is F.max_pool2d and kwargs.get("stride") and not (
                kwargs.get("ceil_mode") or kwargs.get("return_indices")):
            return pool(func, *args, **kwargs)
        return func(*args, **kwargs)


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x [B, C, h, w] resized to `size`, with the values that F.interpolate takes."""
    for axis, side in zip((2, 3), size, strict=True):
        places = torch.arange(side, dtype=torch.float32, device=x.device) * (x.shape[axis] / side)
        x = x.index_select(axis, places.long())
    return x


def pool(max_pool2d, x: Tensor, kernel_size, *, stride, **how) -> Tensor:
    """Return x [..., h, w] pooled at every place, and of that each `stride`-th row and column."""
    x = max_pool2d(x, kernel_size, stride=1, **how)
    for axis, step in zip((-2, -1), (stride, stride) if isinstance(stride, int) else stride, strict=True):
        x = x.index_select(axis, torch.arange(0, x.shape[axis], step, device=x.device))  # a slice has other conditions
    return x
