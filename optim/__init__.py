"""Optimizers, learning-rate schedules and losses by their command-line names."""
from collections.abc import Callable
from functools import partial

import torch

from optim.losses import cross_entropy, focal_loss
from optim.sam import SAM
from optim.schedulers import PolyLR, poly, step
from optim.second_pass import RandomState, second_pass
from utils.errors import UserError

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "SAM": partial(SAM, base_optimizer=torch.optim.SGD)}
SCHEDULERS = {"poly": poly, "step": step}
LOSSES = {"cross_entropy": cross_entropy, "focal_loss": focal_loss}

__all__ = [
    "LOSSES", "OPTIMIZERS", "SAM", "SCHEDULERS", "PolyLR", "RandomState",
    "build_loss", "build_optimizer", "build_scheduler", "second_pass",
]


def build_optimizer(
    name: str, groups: list[dict], *, lr: float, weight_decay: float, momentum: float = 0.9, rho: float = 0.02,
    adaptive: bool = False, start_step: int = 0, model: torch.nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer `name` over parameter groups, each of which may have its own lr, weight_decay and rho.

    momentum: of SGD, also inside SAM; Adam has its own. rho, adaptive, start_step and model: SAM's, see `SAM`.
    Raises UserError for an unknown name, ValueError for a value out of range.
    """
    optimizer = _look_up(OPTIMIZERS, "optimizer", name)
    options = {"lr": lr, "weight_decay": weight_decay}
    if name != "adam":
        options |= {"momentum": momentum}
    if name == "SAM":
        options |= {"rho": rho, "adaptive": adaptive, "start_step": start_step, "model": model}
    return optimizer([dict(group) for group in groups], **options)


def build_scheduler(name: str, optimizer: torch.optim.Optimizer, *, total_itrs: int, step_size: int = 10000):
    """Build the schedule `name`: 'poly' over `total_itrs`, or 'step', a tenth every `step_size` iterations."""
    return _look_up(SCHEDULERS, "learning-rate policy", name)(optimizer, total_itrs=total_itrs, step_size=step_size)


def build_loss(name: str, *, ignore_index: int = 255) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Build the loss `name`: (logits [B, C, H, W], labels [B, H, W] int64) -> scalar, without `ignore_index` pixels."""
    return partial(_look_up(LOSSES, "loss", name), ignore_index=ignore_index)


def _look_up(registry: dict, kind: str, name: str):
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r}: choose from {', '.join(registry)}")
    return registry[name]
