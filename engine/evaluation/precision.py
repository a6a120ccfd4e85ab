"""bfloat16 networks, and how far their gradients are from float32's."""
import torch
from torch import Tensor, nn

from attacks.search import Problem
from utils.logging import logger
from utils.modes import eval_mode, frozen_parameters


class Bfloat16(nn.Module):
    """`model` with its forward pass in bfloat16 (autocast); images and logits [B, C, H, W] are float32.

    No loss scaling: bfloat16 has float32's range.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """As the model's."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return self.model(images).float()


def precise(model: nn.Module, *, amp: bool) -> nn.Module:
    """`model` itself, or in bfloat16."""
    return Bfloat16(model) if amp else model


def sign_differences(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of entries of the loss's gradient at the images whose sign bfloat16 changes, of those that have one.

    model: float32, [0, 1] images [B, 3, H, W] -> logits; labels [B, H, W].
    """
    with eval_mode(model), frozen_parameters(model):
        rows = torch.arange(len(images), device=images.device)
        signs = [Problem(one, images, labels).differentiate(images, rows, 1, 1)[1].sign()
                 for one in (model, Bfloat16(model))]
    return (signs[0] != signs[1])[signs[0] != 0].float().mean().item()


def log_sign_differences(model: nn.Module, images: Tensor, labels: Tensor):
    """Log it for a batch, wherever it is."""
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    logger.info("--attack_amp: bfloat16 changes %.1f %% of the signs of the first batch's image gradient",
                100 * sign_differences(model, images, labels))
