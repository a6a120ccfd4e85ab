"""A DeepLab of 16 channels under the name of a real network: most tests of whole runs need some network, not that one.

It has what a run can meet: two groups of parameters, BatchNorm, dropout, a pooled branch, low-level features, two
output strides, the keys of the real head; an iteration takes some 10 ms instead of 150, a checkpoint 0.2 MB, not 46.
"""
from contextlib import contextmanager

import pytest
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from network import deeplab, modeling
from network.backbone import Backbone, kaiming_init

NAME, WIDTH = "deeplabv3_mobilenet", 16


class ThinBackbone(Backbone):
    """Four strided convolutions; with output stride 8 the last one is dilated."""

    channels = {"out": WIDTH, "low_level": WIDTH // 2}

    def __init__(self, *, output_stride: int):
        super().__init__(output_stride)
        stride = output_stride // 8
        self.low_level_features = nn.Sequential(
            Conv2dNormActivation(3, 8, 3, 2), Conv2dNormActivation(8, 8, 3, 2))
        self.high_level_features = nn.Sequential(
            Conv2dNormActivation(8, WIDTH, 3, 2), Conv2dNormActivation(WIDTH, WIDTH, 3, stride, dilation=3 - stride))
        kaiming_init(self)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        low_level = self.low_level_features(images)
        return {"out": self.high_level_features(low_level), "low_level": low_level}


def build(num_classes: int = 21, output_stride: int = 8, pretrained_backbone: bool = True) -> deeplab.DeepLab:
    """Build it; its weights are nowhere to be had."""
    assert not pretrained_backbone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab, "WIDTH", WIDTH)
        return deeplab.DeepLab(ThinBackbone(output_stride=output_stride), deeplab.DeepLabHead, num_classes=num_classes)


def installed():
    """Context: the thin network is what --model deeplabv3_mobilenet names."""
    return _named(build)


def real():
    """Context, within installed(): the real one again."""
    return _named(REAL)


@contextmanager
def _named(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(modeling.MODELS, NAME, model)
        patch.setattr(modeling, NAME, model)
        yield


REAL = modeling.MODELS[NAME]
