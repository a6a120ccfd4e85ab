"""HRNetV2-W32 and -W48 (Wang et al., arXiv:1908.07919): four parallel resolutions, fused repeatedly."""
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import Conv2dNormActivation

from network.backbone import Backbone, kaiming_init

STEM = 64  # channels
LOW_LEVEL = 4 * STEM  # channels of layer1
BLOCKS = 4  # residual blocks in layer1 and in each branch


def _resize(x: Tensor, like: Tensor, mode: str) -> Tensor:
    """Resize to the height and width of `like`; a fixed factor would not work for every image size."""
    align_corners = None if mode == "nearest" else False
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=align_corners)


def _build_fusion(widths: list[int], *, source: int, target: int) -> nn.Module:
    """Build the layers that bring branch `source` to the width and, if lower, the resolution of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        return Conv2dNormActivation(widths[source], widths[target], 1, activation_layer=None)
    halve = [Conv2dNormActivation(widths[source], widths[source], 3, stride=2) for _ in range(target - source - 1)]
    widen = Conv2dNormActivation(widths[source], widths[target], 3, stride=2, activation_layer=None)
    return nn.Sequential(*halve, widen)


class HighResolutionModule(nn.Module):
    """Residual blocks on each branch, then each branch is replaced by the sum of all.

    forward: a list of [B, widths[i], h/2^i, w/2^i] -> the same.
    """

    def __init__(self, widths: list[int]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_build_fusion(widths, source=source, target=target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """Apply the blocks, then fuse the branches."""
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        return [self._fuse(branches, target) for target in range(len(branches))]

    def _fuse(self, branches: list[Tensor], target: int) -> Tensor:
        matched = [layer(x) for layer, x in zip(self.fuse_layers[target], branches, strict=True)]
        matched[target + 1:] = [_resize(x, branches[target], "nearest") for x in matched[target + 1:]]
        return F.relu(reduce(torch.add, matched), inplace=True)


def _build_stage(widths: list[int], modules: int) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(widths) for _ in range(modules)))


def _build_layer1() -> nn.Sequential:
    downsample = Conv2dNormActivation(STEM, LOW_LEVEL, 1, activation_layer=None)
    first = Bottleneck(STEM, STEM, downsample=downsample)
    return nn.Sequential(first, *(Bottleneck(LOW_LEVEL, STEM) for _ in range(BLOCKS - 1)))


class HRNetV2(Backbone):
    """out = the four branches concatenated at stride 4 (15 * width channels), low_level = layer1 (256 channels)."""

    strides = (4,)

    def __init__(self, width: int, *, output_stride: int):
        super().__init__(output_stride)
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels = {"out": sum(widths), "low_level": LOW_LEVEL}
        self.conv1 = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        self.layer1 = _build_layer1()
        same = Conv2dNormActivation(LOW_LEVEL, widths[0], 3)
        half = Conv2dNormActivation(LOW_LEVEL, widths[1], 3, stride=2)
        self.transition1 = nn.ModuleList([same, nn.Sequential(half)])
        self.stage2 = _build_stage(widths[:2], 1)
        self.transition2 = Conv2dNormActivation(widths[1], widths[2], 3, stride=2)
        self.stage3 = _build_stage(widths[:3], 4)
        self.transition3 = Conv2dNormActivation(widths[2], widths[3], 3, stride=2)
        self.stage4 = _build_stage(widths, 3)
        kaiming_init(self)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Add a branch of half the resolution before each stage; at the end concatenate all at the highest."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)  # [B, 64, H/2, W/2]
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # [B, 64, H/4, W/4]
        low_level = self.layer1(x)  # [B, 256, H/4, W/4]
        branches = self.stage2([transition(low_level) for transition in self.transition1])
        branches = self.stage3([*branches, self.transition2(branches[-1])])
        branches = self.stage4([*branches, self.transition3(branches[-1])])  # four of [B, 2^i c, H/(4*2^i), ...]
        highest, *lower = branches
        out = torch.cat([highest, *(_resize(x, highest, "bilinear") for x in lower)], dim=1)  # [B, 15c, H/4, W/4]
        return {"out": out, "low_level": low_level}
