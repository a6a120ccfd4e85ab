"""What a module holds: a copy of its state, what changed since, and a hash of its weights."""
import hashlib

import torch
from torch import Tensor, nn


def take_snapshot(model: nn.Module) -> dict:
    """Return copies of everything that an attack must leave alone: parameters, gradients, buffers, flags."""
    state = {f"the training flag of {name or 'the model'}": module.training for name, module in model.named_modules()}
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = parameter.detach().clone()
        state[f"the gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
        state[f"requires_grad of {name}"] = parameter.requires_grad
    return state | {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}


def differences(before: dict, after: dict) -> list[str]:
    """Return what differs between two snapshots, bit by bit (nan is not equal to itself and counts as changed)."""
    def same(one, other) -> bool:
        return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one is other

    return [name for name in {**before, **after} if not same(before.get(name), after.get(name))]


def hash_weights(model: nn.Module) -> str:
    """Return a hash of the model's weights and their names."""
    return _hash(model.state_dict(), b"")


def hash_model(model: nn.Module) -> str:
    """Return a hash of the model's layers, weights and all buffers, also those that a state_dict leaves out.

    Raises ValueError for a model without any, which nothing tells from another one.
    """
    values = dict(model.named_parameters()) | dict(model.named_buffers())
    if not values:
        raise ValueError("the model has no weights to tell it by: give `subject`, or no `folder`")
    return _hash(values, str(model).encode())


def _hash(values: dict[str, Tensor], start: bytes) -> str:
    content = hashlib.sha256(start)
    for key, value in values.items():
        content.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
