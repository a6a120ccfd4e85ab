"""DeepLabV3 (Chen et al., arXiv:1706.05587) and DeepLabV3+ (arXiv:1802.02611): their heads, and the whole network."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import Conv2dNormActivation

from network.backbone import Backbone, kaiming_init
from utils.errors import UserError

WIDTH = 256  # channels of ASPP, of each of its branches and of the last 3x3 convolution
LOW_LEVEL_WIDTH = 48  # few channels, so that low-level features don't outweigh the others
RATES = {4: (12, 24, 36), 8: (12, 24, 36), 16: (6, 12, 18)}  # output stride -> dilations of ASPP


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPPPooling(nn.Sequential):
    """The image-level branch of ASPP: [B, in_channels, h, w] -> [B, 256, h, w], constant over h and w.

    Raises UserError when training with one image per replica: batch norm can't normalise one value per channel.
    """

    def __init__(self, in_channels: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *Conv2dNormActivation(in_channels, WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Average over the image, project, and resize back."""
        norm = self[2]  # SyncBatchNorm, which is not a BatchNorm2d, has the values of all replicas
        if norm.training and isinstance(norm, nn.BatchNorm2d) and len(x) == 1:  # last: len() is a constant in exports
            raise UserError(
                "DeepLab needs at least two images per replica to train, as the batch norm after ASPP's global "
                "pooling can't normalise a single value: use a larger --batch_size or fewer GPUs"
            )
        return _resize(super().forward(x), x.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: [B, in_channels, h, w] -> [B, 256, h, w], combining five scales."""

    def __init__(self, in_channels: int, *, rates: tuple[int, ...]):
        super().__init__()
        atrous = (Conv2dNormActivation(in_channels, WIDTH, 3, dilation=rate) for rate in rates)
        self.convs = nn.ModuleList(
            [Conv2dNormActivation(in_channels, WIDTH, 1), *atrous, ASPPPooling(in_channels)]
        )
        self.project = nn.Sequential(*Conv2dNormActivation(len(self.convs) * WIDTH, WIDTH, 1), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every branch, then combine them."""
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


class DeepLabHead(nn.Module):
    """DeepLabV3: {"out": [B, channels["out"], h, w]} -> logits [B, num_classes, h, w]."""

    uses = ("out",)

    def __init__(self, channels: dict[str, int], num_classes: int, *, rates: tuple[int, ...]):
        super().__init__()
        self.classifier = nn.Sequential(
            ASPP(channels["out"], rates=rates),
            *Conv2dNormActivation(WIDTH, WIDTH, 3),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        kaiming_init(self)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Classify each position of `out`."""
        return self.classifier(features["out"])


class DeepLabHeadV3Plus(nn.Module):
    """DeepLabV3+: {"out": [B, C, h, w], "low_level": [B, c, h', w']} -> logits [B, num_classes, h', w']."""

    uses = ("out", "low_level")

    def __init__(self, channels: dict[str, int], num_classes: int, *, rates: tuple[int, ...]):
        super().__init__()
        self.project = Conv2dNormActivation(channels["low_level"], LOW_LEVEL_WIDTH, 1)
        self.aspp = ASPP(channels["out"], rates=rates)
        self.classifier = nn.Sequential(
            *Conv2dNormActivation(LOW_LEVEL_WIDTH + WIDTH, WIDTH, 3), nn.Conv2d(WIDTH, num_classes, 1)
        )
        kaiming_init(self)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Classify each position of `low_level`, with ASPP's output as context."""
        low_level = self.project(features["low_level"])  # [B, 48, h', w']
        context = _resize(self.aspp(features["out"]), low_level.shape[-2:])  # [B, 256, h', w']
        return self.classifier(torch.cat([low_level, context], dim=1))


class DeepLab(nn.Module):
    """A backbone and a head: normalised images [B, 3, H, W] -> logits [B, num_classes, H, W].

    H and W are at least backbone.least_size; NormalizedModel pads smaller images.
    """

    def __init__(self, backbone: Backbone, head: type[nn.Module], *, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.output_stride = backbone.output_stride
        self.backbone = backbone
        self.classifier = head(backbone.channels, num_classes, rates=RATES[backbone.output_stride])
        backbone.returns = head.uses
        self.frozen_backbone = False

    def train(self, mode: bool = True):
        """Set training mode, or eval mode; a frozen backbone stays in eval mode, so that its statistics stay too."""
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Extract features, classify, and resize the logits to the images."""
        return _resize(self.classifier(self.backbone(images)), images.shape[-2:])


class AtrousSeparableConvolution(nn.Module):
    """A convolution split in two: per channel, then 1x1 across channels (DeepLabV3+, section 3.1)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size, *, bias: bool = True, **geometry):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, kernel_size, groups=in_channels, bias=bias, **geometry),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        )
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H', W'], the sizes of the convolution it replaces."""
        return self.body(x)


def _make_separable(conv: nn.Conv2d) -> AtrousSeparableConvolution:
    """Build a separable convolution like `conv`, with new random weights on its device and in its dtype."""
    geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    bias = conv.bias is not None
    return AtrousSeparableConvolution(
        conv.in_channels, conv.out_channels, conv.kernel_size, bias=bias, **geometry
    ).to(conv.weight)


def convert_to_separable_conv(module: nn.Module) -> nn.Module:
    """Replace every convolution in `module` with a kernel larger than 1 by a separable one; return the result.

    `module` is changed in place, unless it is a convolution itself. A second call changes nothing. The new weights are
    random: load a checkpoint after the conversion, not before.
    """
    if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
        return _make_separable(module)
    if not isinstance(module, AtrousSeparableConvolution):
        for name, child in module.named_children():
            setattr(module, name, convert_to_separable_conv(child))
    return module


def set_bn_momentum(module: nn.Module, momentum: float) -> None:
    """Set the momentum (the newest batch's weight in the running statistics) of every batch norm in `module`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = momentum


def freeze_backbone(model: DeepLab) -> None:
    """Keep the backbone as it is in training: no gradients, and BatchNorm with its running statistics, unchanged."""
    model.frozen_backbone = True
    model.backbone.requires_grad_(False).eval()
