"""Optimizers, learning-rate schedules and losses by their command-line names.

SAM and the methods derived from it wrap a base optimizer. Each has its own file; read sam.py first.
"""
from collections.abc import Callable
from functools import partial

import torch

from optim.ascent import grad_norm
from optim.average import WeightAverage
from optim.awp import AWP
from optim.friendly_sam import FriendlySAM
from optim.groups import norm_parameters
from optim.gsam import GSAM
from optim.looksam import LookSAM
from optim.losses import count_valid_pixels, cross_entropy, dice, divergence, focal_loss, lovasz, ohem
from optim.restore import load_optimizer, load_schedule, set_sam_step
from optim.sam import SAM
from optim.schedulers import PolyLR, build_cosine, build_poly, build_step
from optim.second_pass import RandomState, second_pass
from utils.errors import UserError

OPTIMIZERS = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
    "SAM": SAM, "LookSAM": LookSAM, "GSAM": GSAM, "FriendlySAM": FriendlySAM, "AWP": AWP,
}
BASE_OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULERS = {"poly": build_poly, "step": build_step, "cosine": build_cosine}
LOSSES = {"cross_entropy": cross_entropy, "focal_loss": focal_loss, "ohem": ohem, "dice": dice, "lovasz": lovasz}

__all__ = [
    "AWP", "BASE_OPTIMIZERS", "GSAM", "LOSSES", "OPTIMIZERS", "SAM", "SCHEDULERS", "FriendlySAM", "LookSAM", "PolyLR",
    "RandomState", "WeightAverage", "build_loss", "build_optimizer", "build_scheduler", "count_valid_pixels",
    "divergence", "grad_norm", "load_optimizer", "load_schedule", "norm_parameters", "second_pass", "set_sam_step",
]


def build_optimizer(
    name: str, groups: list[dict], *, lr: float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False,
    base_optimizer: str = "sgd", **sam,
) -> torch.optim.Optimizer:
    """Build the optimizer `name` over parameter groups, each of which may set its own lr, weight_decay and rho.

    momentum, nesterov: for SGD only. base_optimizer: 'sgd', 'adam' or 'adamw', the one that SAM and the methods derived
    from it wrap. sam: keywords of such a method, for example model and rho (see its class). Raises UserError for an
    unknown name, ValueError for a value out of range, TypeError if `sam` is given for a plain SGD, Adam or AdamW.
    """
    optimizer = _look_up(OPTIMIZERS, "optimizer", name)
    groups = [dict(group) for group in groups]
    plain = name in BASE_OPTIMIZERS
    if plain and sam:
        raise TypeError(f"{name} does not accept {', '.join(sam)}: only SAM and the methods derived from it do")
    options = {"lr": lr, "weight_decay": weight_decay}
    if (name if plain else base_optimizer) == "sgd":
        options |= {"momentum": momentum, "nesterov": nesterov}
    if plain:
        return optimizer(groups, **options)
    base = _look_up({known: OPTIMIZERS[known] for known in BASE_OPTIMIZERS}, "base optimizer", base_optimizer)
    return optimizer(groups, base, **options, **sam)


def build_scheduler(name: str, optimizer: torch.optim.Optimizer, *, total_itrs: int, step_size: int = 10000,
                    warmup_itrs: int = 0):
    """Build the schedule `name`: 'poly' or 'cosine' over `total_itrs`, or 'step', times 0.1 every `step_size`.

    In its first warmup_itrs iterations the learning rate rises linearly to the schedule's.
    """
    scheduler = _look_up(SCHEDULERS, "learning-rate policy", name)(optimizer, total_itrs=total_itrs,
                                                                  step_size=step_size)
    if warmup_itrs:
        scheduler.warm_up(warmup_itrs)
    return scheduler


def build_loss(name: str, *, ignore_index: int = 255,
               **settings) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Build the loss `name`: (logits [B, C, H, W], labels int64 [B, H, W]) -> scalar; ignores `ignore_index` pixels.

    settings: those of the loss, such as label_smoothing.
    """
    return partial(_look_up(LOSSES, "loss", name), ignore_index=ignore_index, **settings)


def _look_up(registry: dict, kind: str, name: str):
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r}: choose from {', '.join(registry)}")
    return registry[name]
