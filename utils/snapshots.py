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
    weights = hashlib.sha256()
    for key, value in model.state_dict().items():
        weights.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return weights.hexdigest()[:16]
