"""Compare the gradients of a bfloat16 network with float32's."""
import torch
from torch import Tensor, nn

from attacks.search import Problem
from network import Bfloat16
from utils.device import device_of
from utils.images import to_unit_range
from utils.logging import logger
from utils.modes import eval_mode, frozen_parameters


def measure_sign_differences(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of nonzero entries of the loss's image gradient whose sign bfloat16 changes; model: float32."""
    with eval_mode(model), frozen_parameters(model):
        rows = torch.arange(len(images), device=images.device)
        signs = [Problem(one, images, labels).differentiate(images, rows, 1, 1)[1].sign()
                 for one in (model, Bfloat16(model))]
    return (signs[0] != signs[1])[signs[0] != 0].float().mean().item()


def log_sign_differences(model: nn.Module, images: Tensor, labels: Tensor):
    """Log the share for a batch, which may be on another device."""
    device = device_of(model)
    images, labels = to_unit_range(images.to(device)), labels.to(device).long()
    logger.info("--attack_amp: bfloat16 changes %.1f %% of the signs of the first batch's image gradient "
                "(docs/training.md#memory-and-bfloat16)", 100 * measure_sign_differences(model, images, labels))
