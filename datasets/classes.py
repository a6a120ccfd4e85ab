"""The class names and colours of a data set."""
from dataclasses import dataclass

import numpy as np
import torch


def make_palette(colours, *, void=(0, 0, 0)) -> np.ndarray:
    """Return the read-only table [256, 3] uint8: `colours` for the classes 0, 1, ..., `void` for every other index."""
    palette = np.empty((256, 3), dtype=np.uint8)
    palette[:] = void
    palette[:len(colours)] = colours
    palette.setflags(write=False)
    return palette


@dataclass(frozen=True, eq=False)  # an array has no single truth value, so == on the fields would raise
class Classes:
    """The class names and colours of a data set."""

    names: tuple[str, ...]
    palette: np.ndarray         # [256, 3] uint8, the colour of every label

    @property
    def num_classes(self) -> int:
        """Return the number of classes, without the ignored label 255."""
        return len(self.names)

    def decode_target(self, mask) -> np.ndarray:
        """Return a mask (array or tensor [...] of integers, 255 included) as new RGB colours, uint8 [..., 3]."""
        return self.palette[torch.as_tensor(mask).cpu().numpy()]
