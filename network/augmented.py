"""Test-time augmentation: the mean of the probabilities of mirrored and scaled images."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.windowed import windowed

# Name of --tta -> views: (scale, whether it is mirrored).
VIEWS = {"flip": ((1.0, False), (1.0, True)),
         "multiscale": tuple((scale, mirrored) for scale in (0.75, 1.0, 1.25) for mirrored in (False, True))}


class Augmented(nn.Module):
    """A model whose probabilities are averaged over views of the image; the logits are the logarithm of that mean.

    model: images -> logits of the same size, in eval mode. views: pairs (scale, mirrored). A scaled image is resized
    bilinearly, and so are its logits back. Gradients go through all views, so an attack attacks what is scored.
    """

    folds_inside = True  # attacks.folding: forward only calls `model`

    def __init__(self, model: nn.Module, views):
        super().__init__()
        self.model, self.views = model, tuple(views)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logarithm of the mean probabilities.  [B, C, H, W]."""
        found = torch.stack([self._view(images, *view) for view in self.views])
        return found.logsumexp(0) - math.log(len(self.views))

    def extra_repr(self) -> str:
        """Return the views, which tell this model from others."""
        return f"views={self.views}"

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        """Return the log-probabilities of one view, float32 at least."""
        size = images.shape[-2:]
        scaled = _resize(images, tuple(max(1, round(scale * side)) for side in size))
        logits = self.model(scaled.flip(-1).contiguous(memory_format=torch.channels_last) if mirrored else scaled)
        logits = _resize(logits.flip(-1) if mirrored else logits, size)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return images if images.shape[-2:] == size else F.interpolate(images, size, mode="bilinear", align_corners=False)


def as_scored(model: nn.Module, *, tta: str | None, window, stride) -> nn.Module:
    """Return `model` as it is scored and attacked: augmented with --tta, in windows with --window, else itself."""
    return windowed(model if tta is None else Augmented(model, VIEWS[tta]), window, stride)
