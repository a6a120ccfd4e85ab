"""Helpers for SAM: the base optimizer, its parameter groups, and states of old checkpoints."""
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # _NormBase: BatchNorm and InstanceNorm of every kind


def build_base(params, base_optimizer, base_kwargs: dict) -> Optimizer:
    """Return the base optimizer: a class is built over `params`, an instance is returned as it is.

    Raises TypeError for keywords with an instance, ValueError if an instance has other parameters than `params`.
    """
    if not isinstance(base_optimizer, Optimizer):
        return base_optimizer(params, **base_kwargs)
    if base_kwargs:
        raise TypeError(f"the base optimizer is an instance: set {', '.join(base_kwargs)} on it, not here")
    # Built only to read `params`, in any of the forms that torch accepts.
    given = torch.optim.SGD([dict(p) if isinstance(p, dict) else p for p in params], lr=0.0)
    if _ids(given) != _ids(base_optimizer):
        raise ValueError("params are not those of the base optimizer instance: give the same ones to both")
    return base_optimizer


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def check_group(group: dict):
    """Raise ValueError if the rho or eta of a group is negative or not finite."""
    for key in ("rho", "eta"):
        if not 0 <= group[key] < math.inf:
            raise ValueError(f"{key} must be a finite number >= 0, got {group[key]}")


def complete_group(group: dict, defaults: dict):
    """Set those of `defaults` that the group lacks, then check it."""
    for key, value in defaults.items():
        group.setdefault(key, value)
    check_group(group)


def drop_old_weights(state_dict: dict) -> dict:
    """Return a state dict without `old_p`, the copies of the weights in SAM_AT's checkpoints.

    With any entry in it, Adam would take a parameter's state for its own, already initialised one.
    """
    state = {
        key: {name: value for name, value in entry.items() if name != "old_p"} if isinstance(entry, dict) else entry
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def norm_parameters(model: nn.Module) -> tuple[list, list]:
    """Return the parameters of the normalisation layers of `model`, and its other parameters, as two lists."""
    norms = {p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    return [p for p in model.parameters() if p in norms], [p for p in model.parameters() if p not in norms]
