"""Random numbers for a batch; with image ids they depend only on the seed and each image's id, not on its batch."""
import torch
from torch import Tensor

from utils.seed import make_generator


class Draw:
    """A source of random numbers: draw(torch.rand) returns uniform, draw(torch.randn) normal ones, new at each call.

    Without image_ids the numbers come from torch's global generator. With them, each image has its own CPU generator,
    so that every device gets the same numbers. restart: 0, 1, ...; each attempt gets different numbers.
    """

    def __init__(self, images: Tensor, image_ids, seed: int, restart: int = 0):
        self.images, self.generators = images, None
        if image_ids is not None:
            parts = (restart,) if restart else ()
            self.generators = [make_generator(seed, int(image_id), *parts) for image_id in image_ids]

    def __call__(self, kind, *shape: int) -> Tensor:
        """Return random numbers [B, *shape]; without a shape, [B, C, H, W] like the images."""
        shape = shape or self.images.shape[1:]
        if self.generators is None:
            return kind((len(self.images), *shape), dtype=self.images.dtype, device=self.images.device)
        return torch.stack([kind(shape, generator=generator) for generator in self.generators]).to(self.images)
