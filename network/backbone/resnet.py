"""torchvision's ResNet-50 and ResNet-101 (He et al., arXiv:1512.03385) with dilation instead of the last strides."""
from torch import Tensor
from torchvision.models import resnet50, resnet101

from network.backbone import Backbone

BUILDERS = {50: resnet50, 101: resnet101}
DILATE = {8: [False, True, True], 16: [False, False, True]}  # output stride -> whether layer2, layer3, layer4 dilate


class ResNet(Backbone):
    """out = layer4 (2048 channels), low_level = layer1 (256); keys are torchvision's."""

    channels = {"out": 2048, "low_level": 256}

    def __init__(self, depth: int, *, output_stride: int):
        super().__init__(output_stride)
        full = BUILDERS[depth](replace_stride_with_dilation=DILATE[output_stride])
        for name, layer in full.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, layer)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute torchvision's forward up to the pooling."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # [B, 64, H/4, W/4]
        low_level = self.layer1(x)  # [B, 256, H/4, W/4]
        x = self.layer2(low_level)  # [B, 512, H/8, W/8]
        out = self.layer4(self.layer3(x))  # [B, 2048, H/stride, W/stride]
        return {"out": out, "low_level": low_level}
