"""Random numbers for a batch that depend on the seed and each image's id alone, not on its batch."""
import torch
from torch import Tensor

from utils.seed import generator_for


class Draw:
    """draw(torch.rand) gives uniform, draw(torch.randn) normal numbers shaped like the images, a new set at each call.

    Without ids they come from torch's global generator. With ids they are drawn on the CPU, from one generator an
    image: the same numbers on every device. restart: 0, 1, ... gives every attempt numbers of its own.
    """

    def __init__(self, images: Tensor, image_ids, seed: int, restart: int = 0):
        self.images, self.generators = images, None
        if image_ids is not None:
            parts = (restart,) if restart else ()
            self.generators = [generator_for(seed, int(image_id), *parts) for image_id in image_ids]

    def __call__(self, kind, *shape: int) -> Tensor:
        """Numbers [B, *shape], of the images' own shape where none is given."""
        shape = shape or self.images.shape[1:]
        if self.generators is None:
            return kind((len(self.images), *shape), dtype=self.images.dtype, device=self.images.device)
        return torch.stack([kind(shape, generator=generator) for generator in self.generators]).to(self.images)
