"""Xception as published (Chollet, arXiv:1610.02357; not DeepLab's aligned variant), with dilation for segmentation."""
import torch.nn.functional as F
from torch import Tensor, nn

from network.backbone import Backbone, kaiming_init


class SeparableConv2d(nn.Module):
    """A depthwise 3x3 that keeps the size, then 1x1 across channels: [B, in_channels, H, W] -> [B, width, H, W]."""

    def __init__(self, in_channels: int, width: int, *, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter each channel, then mix them, without batch norm or ReLU in between (as in the paper)."""
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Separable convolutions with a skip connection: [B, widths[0], H, W] -> [B, widths[-1], H/stride, W/stride].

    `widths` are the channels before the first unit and after each one; each unit in `rep` is ReLU, convolution, BN.
    """

    def __init__(self, *widths: int, downsample: bool = False, dilation: int = 1, leading_relu: bool = True):
        super().__init__()
        self.skip = None
        if downsample or widths[0] != widths[-1]:
            self.skip = nn.Conv2d(widths[0], widths[-1], 1, stride=2 if downsample else 1, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])
        units = []
        for in_channels, width in zip(widths, widths[1:], strict=False):
            # the first ReLU must not change the input, which the skip connection reads
            units += [nn.ReLU(inplace=bool(units)), SeparableConv2d(in_channels, width, dilation=dilation)]
            units += [nn.BatchNorm2d(width)]
        if not leading_relu:
            units = units[1:]
        if downsample:
            units += [nn.MaxPool2d(3, stride=2, padding=1)]
        self.rep = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        """Add the input, projected where width or size changes."""
        identity = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + identity


class Xception(Backbone):
    """out = relu(bn4(conv4)) (2048 channels), low_level = block1 (128).

    conv3 and conv4 pad by their dilation, so that `out` is aligned with the image at either stride.
    """

    channels = {"out": 2048, "low_level": 128}
    least_size = 7  # of which conv1 makes 3 and conv2, which isn't padded either, 1

    def __init__(self, *, output_stride: int):
        super().__init__(output_stride)
        middle = 2 if output_stride == 8 else 1  # dilation of block3 to block11; at stride 8 block3 keeps the size
        last = 2 * middle  # dilation from block12 on, which never downsamples
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = Block(64, 128, 128, downsample=True, leading_relu=False)
        self.block2 = Block(128, 256, 256, downsample=True)
        self.block3 = Block(256, 728, 728, downsample=output_stride == 16, dilation=middle)
        for index in range(4, 12):
            self.add_module(f"block{index}", Block(728, 728, 728, 728, dilation=middle))
        self.block12 = Block(728, 728, 1024, dilation=last)
        self.conv3 = SeparableConv2d(1024, 1536, dilation=last)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = SeparableConv2d(1536, 2048, dilation=last)
        self.bn4 = nn.BatchNorm2d(2048)
        kaiming_init(self)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Run the entry, middle and exit flow (the paper, Figure 5)."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)  # [B, 32, H/2, W/2]
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # [B, 64, H/2, W/2]
        low_level = x = self.block1(x)  # [B, 128, H/4, W/4]
        for index in range(2, 13):
            x = getattr(self, f"block{index}")(x)  # finally [B, 1024, H/stride, W/stride]
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)  # [B, 1536, H/stride, W/stride]
        out = F.relu(self.bn4(self.conv4(x)), inplace=True)  # [B, 2048, H/stride, W/stride]
        return {"out": out, "low_level": low_level}
