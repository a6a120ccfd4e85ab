"""Other numbers in the same network: a forward pass in bfloat16, logits times a factor."""
import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """`model` with its forward pass in bfloat16 (autocast); images and logits [B, C, H, W] are float32.

    No loss scaling: bfloat16 has float32's range.
    """

    # attacks.folding: a folded network rounds otherwise, in bfloat16 by per cents; the attack would see other logits.
    folds_inside = False

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute the model's logits under autocast, as float32."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return self.model(images).float()


def precise(model: nn.Module, *, amp: bool) -> nn.Module:
    """Return `model` itself, or with amp its bfloat16 form."""
    return Bfloat16(model) if amp else model


class Scaled(nn.Module):
    """A model with its logits times a factor: the same classifier."""

    def __init__(self, model: nn.Module, factor: float):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C, H, W], scaled."""
        return self.factor * self.model(images)
