"""float64 where the device has it: Apple's GPUs (MPS) don't."""
import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Return whether the device computes in float64."""
    return device.type != "mps"


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on a device without it."""
    return torch.float64 if has_float64(device) else torch.float32


def to_float64(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, on the CPU if its device has no float64."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()
