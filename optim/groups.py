"""The base optimizer that SAM wraps, what SAM keeps in its parameter groups, and what it takes from old checkpoints."""
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # the first is BatchNorm and InstanceNorm of every kind


def build_base(params, base_optimizer, base_kwargs: dict) -> Optimizer:
    """Return the base optimizer: built over `params` where a class is given, else the instance itself.

    Raises TypeError for keywords beside an instance, ValueError where `params` are not those of the instance.
    """
    if not isinstance(base_optimizer, Optimizer):
        return base_optimizer(params, **base_kwargs)
    if base_kwargs:
        raise TypeError(f"the base optimizer is built already, it can't take {', '.join(base_kwargs)}")
    # SGD only reads `params` here, in all the forms that torch takes.
    asked = torch.optim.SGD([dict(p) if isinstance(p, dict) else p for p in params], lr=0.0)
    if _ids(asked) != _ids(base_optimizer):
        raise ValueError("params are not those of the base optimizer instance")
    return base_optimizer


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def check(group: dict):
    """Raise ValueError where the rho or the eta of a group is negative or not finite."""
    for key in ("rho", "eta"):
        if not 0 <= group[key] < math.inf:
            raise ValueError(f"{key} must be a finite number >= 0, got {group[key]}")


def complete(group: dict, defaults: dict):
    """Give a group those of `defaults` that it lacks, and check it."""
    for key, value in defaults.items():
        group.setdefault(key, value)
    check(group)


def without_old_weights(state_dict: dict) -> dict:
    """Return a state dict without `old_p`, the copy of the weights that the states in SAM_AT's checkpoints consist of.

    Adam takes a state that holds anything for one of its own.
    """
    state = {
        key: {name: value for name, value in entry.items() if name != "old_p"} if isinstance(entry, dict) else entry
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def norm_parameters(model: nn.Module) -> tuple[list, list]:
    """Return the scales and shifts of the normalisation layers of `model`, and all its other parameters."""
    norms = {p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    return [p for p in model.parameters() if p in norms], [p for p in model.parameters() if p not in norms]
