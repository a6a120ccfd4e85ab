"""MobileNetV2 (Sandler et al., arXiv:1801.04381) with dilation, padded as the published DeepLab checkpoints expect.

It differs from torchvision's network in two ways, as those checkpoints do: the stem isn't padded, and a block pads its
input before the 1x1 expansion, so that batch norm and ReLU6 also apply to the padding. Features near the border differ.
"""
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from network.backbone import Backbone, kaiming_init

STEM = 32
STAGES = (  # expansion, width, blocks, stride: Table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LOW_LEVEL = 4  # modules before the low-level output: the stem and three blocks


def _build_conv(in_channels: int, width: int, kernel: int, **kwargs) -> Conv2dNormActivation:
    return Conv2dNormActivation(in_channels, width, kernel, padding=0, activation_layer=nn.ReLU6, **kwargs)


class InvertedResidual(nn.Module):
    """Expand 1x1, filter 3x3 depthwise, project 1x1: [B, in_channels, H, W] -> [B, width, H/stride, W/stride]."""

    def __init__(self, in_channels: int, width: int, *, expansion: int, stride: int, dilation: int):
        super().__init__()
        hidden = in_channels * expansion
        layers = [_build_conv(in_channels, hidden, 1)] if expansion > 1 else []
        layers += [
            _build_conv(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        ]
        self.conv = nn.Sequential(*layers)
        self.padding = [dilation] * 4
        self.is_residual = stride == 1 and in_channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Pad first (see the module's docstring), so that the 3x3 convolution keeps the size."""
        out = self.conv(F.pad(x, self.padding))
        return x + out if self.is_residual else out


def _plan_blocks(output_stride: int):
    """Yield (expansion, width, stride, dilation) of each block; beyond `output_stride`, dilation replaces strides."""
    current, dilation = 2, 1  # the stem has stride 2
    for expansion, width, blocks, stride in STAGES:
        entry_dilation = dilation  # the first block's input is not subsampled yet
        if current == output_stride:
            dilation *= stride
            stride = 1
        current *= stride
        yield expansion, width, stride, entry_dilation
        for _ in range(blocks - 1):
            yield expansion, width, 1, dilation


class MobileNetV2(Backbone):
    """out = the last block (320 channels), low_level = the third (24); keys have torchvision's feature indices."""

    channels = {"out": 320, "low_level": 24}
    least_size = 3  # of the stem's kernel, as it isn't padded

    def __init__(self, *, output_stride: int):
        super().__init__(output_stride)
        features, width = nn.Sequential(_build_conv(3, STEM, 3, stride=2)), STEM
        for expansion, out_width, stride, dilation in _plan_blocks(output_stride):
            block = InvertedResidual(width, out_width, expansion=expansion, stride=stride, dilation=dilation)
            features.append(block)
            width = out_width
        self.low_level_features = features[:LOW_LEVEL]  # slices of a Sequential keep their keys
        self.high_level_features = features[LOW_LEVEL:]
        kaiming_init(self)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Run all blocks; low_level is the output of the third."""
        low_level = self.low_level_features(images)  # [B, 24, H/4, W/4]
        out = self.high_level_features(low_level)  # [B, 320, H/stride, W/stride]
        return {"out": out, "low_level": low_level}
