"""Normalisation as the first layer of a model, so that attacks and all other callers use images in [0, 1]."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError


class NormalizedModel(nn.Module):
    """Images in [0, 1] [B, 3, H, W] -> (images - mean) / std -> model -> logits [B, C, H, W].

    `model` is the bare network, whose keys checkpoints use; mean and std are non-persistent buffers [1, 3, 1, 1].
    least_size: the smallest height and width that the network takes. Smaller images are padded at the bottom and on the
    right with the mean colour, and the logits are cut back to the image; all others pass unchanged.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float], *, least_size: int = 1):
        super().__init__()
        self.model, self.least_size = model, least_size
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, 3, 1, 1), persistent=False)
        self.normalization = {"mean": mean, "std": std}

    @property
    def normalization(self) -> dict[str, list[float]]:
        """{"mean": [3 floats], "std": [3 floats]}, for checkpoints; setting invalid values raises ValueError."""
        return {name: list(values) for name, values in self._normalization.items()}

    @normalization.setter
    def normalization(self, normalization: dict[str, list[float]]):
        plain = {name: [float(value) for value in normalization[name]] for name in ("mean", "std")}
        if any(len(values) != 3 for values in plain.values()) or min(plain["std"]) <= 0:
            raise ValueError(f"invalid normalization {plain}: give a mean and a positive std for each of 3 channels")
        for name, values in plain.items():
            buffer = self.get_buffer(name)
            buffer.copy_(buffer.new_tensor(values).view(1, 3, 1, 1))
        self._normalization = plain  # as given: the buffers hold values rounded to their dtype

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, then run the bare network, on small images with a padding that the logits leave out."""
        normalized, (height, width) = (images - self.mean) / self.std, images.shape[-2:]
        if min(height, width) >= self.least_size:
            return self.model(normalized)
        # 0 is the mean colour after normalisation
        right, bottom = max(self.least_size - width, 0), max(self.least_size - height, 0)
        return self.model(F.pad(normalized, (0, right, 0, bottom)))[..., :height, :width]


def take_normalization(model: NormalizedModel, content: dict, *, source: str):
    """Set the normalisation that a checkpoint has, if it has one; raise UserError if that is invalid."""
    if "normalization" not in content:
        return
    try:
        model.normalization = content["normalization"]
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{source}: invalid normalization ({error})") from None
