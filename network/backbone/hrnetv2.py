"""HRNetV2-W32 and -W48 (Wang et al., arXiv:1908.07919): four resolutions side by side, fused again and again."""
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import Conv2dNormActivation

from network.backbone import Backbone, kaiming_init

STEM = 64
LOW_LEVEL = 4 * STEM  # width of layer1
BLOCKS = 4  # residual blocks in layer1 and in each branch


def _resize(x: Tensor, like: Tensor, mode: str) -> Tensor:
    """Resize to the height and width of `like` rather than by a factor: so any image size works."""
    align_corners = None if mode == "nearest" else False
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=align_corners)


def _fusion(widths: list[int], *, source: int, target: int) -> nn.Module:
    """Bring branch `source` to the width, and if that is lower the resolution, of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        return Conv2dNormActivation(widths[source], widths[target], 1, activation_layer=None)
    halve = [Conv2dNormActivation(widths[source], widths[source], 3, stride=2) for _ in range(target - source - 1)]
    widen = Conv2dNormActivation(widths[source], widths[target], 3, stride=2, activation_layer=None)
    return nn.Sequential(*halve, widen)


class HighResolutionModule(nn.Module):
    """Residual blocks on each branch, then every branch becomes the sum of all.

    forward: a list of [B, widths[i], h/2^i, w/2^i] -> the same.
    """

    def __init__(self, widths: list[int]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fusion(widths, source=source, target=target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """Refine, then exchange."""
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        return [self._fuse(branches, target) for target in range(len(branches))]

    def _fuse(self, branches: list[Tensor], target: int) -> Tensor:
        brought = [layer(x) for layer, x in zip(self.fuse_layers[target], branches, strict=True)]
        brought[target + 1:] = [_resize(x, branches[target], "nearest") for x in brought[target + 1:]]
        return F.relu(reduce(torch.add, brought), inplace=True)


def _stage(widths: list[int], modules: int) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(widths) for _ in range(modules)))


def _layer1() -> nn.Sequential:
    downsample = Conv2dNormActivation(STEM, LOW_LEVEL, 1, activation_layer=None)
    first = Bottleneck(STEM, STEM, downsample=downsample)
    return nn.Sequential(first, *(Bottleneck(LOW_LEVEL, STEM) for _ in range(BLOCKS - 1)))


class HRNetV2(Backbone):
    """out = the four branches side by side at stride 4 (15 * width), low_level = layer1 (256)."""

    strides = (4,)

    def __init__(self, width: int, *, output_stride: int):
        super().__init__(output_stride)
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels = {"out": sum(widths), "low_level": LOW_LEVEL}
        self.conv1 = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        self.layer1 = _layer1()
        same = Conv2dNormActivation(LOW_LEVEL, widths[0], 3)
        half = Conv2dNormActivation(LOW_LEVEL, widths[1], 3, stride=2)
        self.transition1 = nn.ModuleList([same, nn.Sequential(half)])
        self.stage2 = _stage(widths[:2], 1)
        self.transition2 = Conv2dNormActivation(widths[1], widths[2], 3, stride=2)
        self.stage3 = _stage(widths[:3], 4)
        self.transition3 = Conv2dNormActivation(widths[2], widths[3], 3, stride=2)
        self.stage4 = _stage(widths, 3)
        kaiming_init(self)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Add a branch of half the resolution before each stage; at the end join all at the first one's."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)  # [B, 64, H/2, W/2]
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # [B, 64, H/4, W/4]
        low_level = self.layer1(x)  # [B, 256, H/4, W/4]
        branches = self.stage2([transition(low_level) for transition in self.transition1])
        branches = self.stage3([*branches, self.transition2(branches[-1])])
        branches = self.stage4([*branches, self.transition3(branches[-1])])  # four of [B, 2^i c, H/(4*2^i), ...]
        highest, *lower = branches
        out = torch.cat([highest, *(_resize(x, highest, "bilinear") for x in lower)], dim=1)  # [B, 15c, H/4, W/4]
        return {"out": out, "low_level": low_level}
