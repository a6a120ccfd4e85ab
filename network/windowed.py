"""Sliding windows: activations take the memory of one window, however large the image is."""
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Windowed(nn.Module):
    """A model that is run on overlapping windows of the images; logits are averaged where windows overlap.

    model: images -> logits of the same size, in eval mode. size: (height, width) of a window; stride: pixels between
    the beginnings of windows, at most the smaller side, so that every pixel is covered. The last window of a row or
    column is moved inwards to end at the border, so all windows have the full size. Where a side of the image is
    shorter, so is the window: an image that fits into one window has exactly the logits of `model`.

    With gradients a window's activations are computed again in the backward pass, one window at a time. Gradients are
    those of the averaged logits, through all windows. Raises ValueError for an invalid size or stride.
    """

    folds_inside = True  # attacks.folding: forward only calls `model`

    def __init__(self, model: nn.Module, size: tuple[int, int], stride: int):
        super().__init__()
        if not 1 <= stride <= min(size):
            raise ValueError(f"stride {stride}: must be 1 to {min(size)}, the window's smaller side")
        self.model, self.size, self.stride = model, tuple(size), stride

    def forward(self, images: Tensor) -> Tensor:
        """Compute the averaged logits.  [B, C, H, W]."""
        height, width = images.shape[-2:]
        tops, lefts = (find_starts(length, window, self.stride)
                       for length, window in zip((height, width), self.size, strict=True))
        if len(tops) == len(lefts) == 1:
            return self.model(images)
        total = None
        for top in tops:
            for left in lefts:
                place = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
                logits = self._run(images[place])
                if total is None:  # at least float32: bfloat16 would round sums
                    shape = (*logits.shape[:2], height, width)
                    total = logits.new_zeros(shape, dtype=torch.promote_types(logits.dtype, torch.float32))
                total[place] += logits
        return total / torch.outer(count_windows(tops, self.size[0], height),
                                   count_windows(lefts, self.size[1], width)).to(total)

    def extra_repr(self) -> str:
        """Return the window, which tells this model from others."""
        return f"size={self.size}, stride={self.stride}"

    def _run(self, window: Tensor) -> Tensor:
        window = window.contiguous(memory_format=torch.channels_last)
        return checkpoint(self.model, window, use_reentrant=False) if torch.is_grad_enabled() else self.model(window)


def find_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along a side: every `stride` pixels, the last one at the border."""
    return [*range(0, length - window, stride), max(length - window, 0)]


def count_windows(starts: list[int], window: int, length: int) -> Tensor:
    """Return how many windows cover each pixel of a side.  [length], int64."""
    covered = torch.zeros(length, dtype=torch.int64)
    for start in starts:
        covered[start:start + window] += 1
    return covered


def windowed(model: nn.Module, window: tuple[int, ...] | None, stride: int | None) -> nn.Module:
    """Return `model` itself without a window, else its Windowed form; see choose_window for both values."""
    return model if window is None else Windowed(model, *choose_window(window, stride))


def choose_window(window: tuple[int, ...], stride: int | None) -> tuple[tuple[int, int], int]:
    """Return ((height, width), stride) of one or two sides; without a stride two thirds of the smaller side."""
    size = (window[0], window[-1])
    return size, -(-2 * min(size) // 3) if stride is None else stride
