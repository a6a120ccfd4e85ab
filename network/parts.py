"""The parts of a network that are trained differently: its backbone, if it has one, and the rest."""
from torch import nn


def find_backbone(network: nn.Module) -> nn.Module | None:
    """Return the network's module `backbone`; None if it has none with parameters, or nothing but that."""
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return None
    parameters = len(list(backbone.parameters()))
    return backbone if 0 < parameters < len(list(network.parameters())) else None


def group_parameters(network: nn.Module, *, lr: float, backbone_lr: float) -> list[dict]:
    """Return the optimizer's groups [backbone, the rest], or [all] for a network without a backbone."""
    backbone = find_backbone(network)
    if backbone is None:
        return [{"params": list(network.parameters()), "lr": lr}]
    inside = set(backbone.parameters())
    rest = [parameter for parameter in network.parameters() if parameter not in inside]
    return [{"params": list(backbone.parameters()), "lr": backbone_lr}, {"params": rest, "lr": lr}]
