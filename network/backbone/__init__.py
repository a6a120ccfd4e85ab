"""Feature extractors: the interface that all of them share. One module per family."""
from torch import Tensor, nn

from utils.errors import UserError

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Backbone(nn.Module):
    """An ImageNet network without its classifier.

    forward: normalised images [B, 3, H, W] -> a dict of the feature maps named in `returns`:
    "out" [B, channels["out"], H/output_stride, W/output_stride], "low_level" [B, channels["low_level"], H/4, W/4].
    `normalization` is the mean and std that the weights expect, `least_size` the smallest height and width of an image
    that no layer refuses. Raises UserError for an output_stride not in `strides`.
    """

    strides: tuple[int, ...] = (8, 16)
    channels: dict[str, int]  # by feature map
    returns: tuple[str, ...] = ("out", "low_level")
    normalization: dict[str, list[float]] = IMAGENET
    least_size: int = 1

    def __init__(self, output_stride: int):
        super().__init__()
        if output_stride not in self.strides:
            raise UserError(
                f"--output_stride {output_stride}: {type(self).__name__} supports {' or '.join(map(str, self.strides))}"
            )
        self.output_stride = output_stride

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute every feature map, by name."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute all feature maps and return those in `returns`, so that the others are freed."""
        features = self.features(images)
        return {name: features[name] for name in self.returns}


def kaiming_init(module: nn.Module) -> None:
    """Initialise every convolution in `module` with He et al.'s normal distribution (arXiv:1502.01852)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
