"""The 12 networks by name, and build_model, which adds the normalisation."""
from functools import partial

from torch import nn

from network.backbone.hrnetv2 import HRNetV2
from network.backbone.mobilenetv2 import MobileNetV2
from network.backbone.resnet import ResNet
from network.backbone.xception import Xception
from network.custom import build_custom
from network.deeplab import DeepLab, DeepLabHead, DeepLabHeadV3Plus, convert_to_separable_conv
from network.normalized import NormalizedModel
from network.pretrained import load_pretrained
from utils.errors import UserError
from utils.user_code import is_code

BACKBONES = {
    "mobilenet": MobileNetV2,
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "xception": Xception,
    "hrnetv2_32": partial(HRNetV2, 32),
    "hrnetv2_48": partial(HRNetV2, 48),
}


def _build(head: type[nn.Module], name: str, num_classes: int, output_stride: int, pretrained: bool) -> DeepLab:
    backbone = BACKBONES[name](output_stride=output_stride)
    if pretrained:
        load_pretrained(backbone, name)
    return DeepLab(backbone, head, num_classes=num_classes)


_build_v3 = partial(_build, DeepLabHead)
_build_v3plus = partial(_build, DeepLabHeadV3Plus)

# Each network maps normalised images [B, 3, H, W] to logits [B, num_classes, H, W]. output_stride: 8 or 16, HRNet: 4.
# pretrained_backbone: download ImageNet weights. Raises UserError for another stride or if the download fails.


def deeplabv3_mobilenet(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on MobileNetV2."""
    return _build_v3("mobilenet", num_classes, output_stride, pretrained_backbone)


def deeplabv3_resnet50(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on ResNet-50."""
    return _build_v3("resnet50", num_classes, output_stride, pretrained_backbone)


def deeplabv3_resnet101(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on ResNet-101."""
    return _build_v3("resnet101", num_classes, output_stride, pretrained_backbone)


def deeplabv3_xception(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on Xception."""
    return _build_v3("xception", num_classes, output_stride, pretrained_backbone)


def deeplabv3_hrnetv2_32(num_classes: int = 21, output_stride: int = 4, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on HRNetV2-W32."""
    return _build_v3("hrnetv2_32", num_classes, output_stride, pretrained_backbone)


def deeplabv3_hrnetv2_48(num_classes: int = 21, output_stride: int = 4, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3 on HRNetV2-W48."""
    return _build_v3("hrnetv2_48", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_mobilenet(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3+ on MobileNetV2."""
    return _build_v3plus("mobilenet", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_resnet50(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3+ on ResNet-50."""
    return _build_v3plus("resnet50", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_resnet101(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3+ on ResNet-101."""
    return _build_v3plus("resnet101", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_xception(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> DeepLab:
    """Build DeepLabV3+ on Xception."""
    return _build_v3plus("xception", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_hrnetv2_32(
    num_classes: int = 21, output_stride: int = 4, pretrained_backbone: bool = True
) -> DeepLab:
    """Build DeepLabV3+ on HRNetV2-W32."""
    return _build_v3plus("hrnetv2_32", num_classes, output_stride, pretrained_backbone)


def deeplabv3plus_hrnetv2_48(
    num_classes: int = 21, output_stride: int = 4, pretrained_backbone: bool = True
) -> DeepLab:
    """Build DeepLabV3+ on HRNetV2-W48."""
    return _build_v3plus("hrnetv2_48", num_classes, output_stride, pretrained_backbone)


MODELS = {
    "deeplabv3_mobilenet": deeplabv3_mobilenet,
    "deeplabv3_resnet50": deeplabv3_resnet50,
    "deeplabv3_resnet101": deeplabv3_resnet101,
    "deeplabv3_xception": deeplabv3_xception,
    "deeplabv3_hrnetv2_32": deeplabv3_hrnetv2_32,
    "deeplabv3_hrnetv2_48": deeplabv3_hrnetv2_48,
    "deeplabv3plus_mobilenet": deeplabv3plus_mobilenet,
    "deeplabv3plus_resnet50": deeplabv3plus_resnet50,
    "deeplabv3plus_resnet101": deeplabv3plus_resnet101,
    "deeplabv3plus_xception": deeplabv3plus_xception,
    "deeplabv3plus_hrnetv2_32": deeplabv3plus_hrnetv2_32,
    "deeplabv3plus_hrnetv2_48": deeplabv3plus_hrnetv2_48,
}


def build_model(
    name: str,
    *,
    num_classes: int,
    output_stride: int | None,
    separable_conv: bool = False,
    pretrained_backbone: bool = False,
) -> NormalizedModel:
    """Build the network `name` of MODELS for images in [0, 1], with the normalisation its backbone's weights expect.

    separable_conv: make the head's convolutions separable. For a `name` like path/to/file.py:function, which is run,
    only num_classes has an effect. Raises UserError for an unknown name or an output_stride that the network doesn't
    support.
    """
    if is_code(name):
        return build_custom(name, num_classes=num_classes)
    if name not in MODELS:
        raise UserError(f"--model {name}: unknown network, choose from {', '.join(MODELS)}")
    model = MODELS[name](num_classes, output_stride, pretrained_backbone)
    if separable_conv:
        convert_to_separable_conv(model.classifier)
    return NormalizedModel(model, **model.backbone.normalization, least_size=model.backbone.least_size)
