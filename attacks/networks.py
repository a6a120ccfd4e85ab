"""Several networks attacked as one: adversarial images for a network that the attack doesn't see are made on others."""
import torch
from torch import Tensor, nn


class Networks(nn.Module):
    """Networks whose mean loss an attack ascends: give it as an attack's model.

    Each takes images [B, 3, H, W] in [0, 1] and normalises them itself; all have the same classes. Their logits
    [B, C, H, W] lie one below another, [B, C, N * H, W]: an attack sees N predictions of each pixel, so its loss is the
    mean of theirs, and its score the number of pixels that are still correct in all of them together. Weights of pixels
    that depend on other pixels (mce_even, logodds) are each network's own. Raises ValueError for logits that differ in
    shape.
    """

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of all networks, one below another."""
        logits = [network(images) for network in self.networks]
        if len(shapes := {tuple(each.shape) for each in logits}) > 1:
            raise ValueError(f"the networks' logits differ in shape: {', '.join(map(str, sorted(shapes)))}")
        return torch.cat(logits, dim=2)


def join(networks: list[nn.Module]) -> nn.Module:
    """Return the network itself if there is one, else Networks."""
    return networks[0] if len(networks) == 1 else Networks(networks)


def count_networks(model: nn.Module) -> int:
    """Return how many predictions of each pixel the model's logits hold."""
    return len(model.networks) if isinstance(model, Networks) else 1
