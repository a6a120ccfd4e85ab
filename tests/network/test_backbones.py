"""The details of each backbone: borders, activations, dilation instead of strides."""
import pytest
import torch
from torchvision.models import mobilenet_v2

from network.backbone.hrnetv2 import HighResolutionModule, HRNetV2
from network.backbone.mobilenetv2 import InvertedResidual, MobileNetV2
from network.backbone.resnet import ResNet
from network.backbone.xception import Xception
from network.pretrained import PRETRAINED

BACKBONES = [
    (lambda stride: ResNet(50, output_stride=stride), 8, (65, 65)),
    (lambda stride: ResNet(50, output_stride=stride), 16, (33, 33)),
    (lambda stride: MobileNetV2(output_stride=stride), 8, (64, 64)),
    (lambda stride: MobileNetV2(output_stride=stride), 16, (32, 32)),
    (lambda stride: Xception(output_stride=stride), 8, (64, 64)),
    (lambda stride: Xception(output_stride=stride), 16, (32, 32)),
    (lambda stride: HRNetV2(32, output_stride=stride), 4, (129, 129)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "stride", "size"), BACKBONES)
def test_output_stride_and_declared_channels(build, stride, size):
    with torch.device("meta"):
        backbone = build(stride).eval()
        features = backbone(torch.rand(1, 3, 513, 513))
    assert {name: feature.shape[1] for name, feature in features.items()} == backbone.channels
    assert features["out"].shape[-2:] == size


def test_mobilenet_takes_torchvisions_weights_by_index():
    published = mobilenet_v2(num_classes=10).state_dict()
    backbone = MobileNetV2(output_stride=16)
    backbone.load_state_dict(PRETRAINED["mobilenet"].convert_keys(published))
    ours = backbone.state_dict()
    for theirs, mine in [
        ("features.0.0.weight", "low_level_features.0.0.weight"),
        ("features.3.conv.2.weight", "low_level_features.3.conv.2.weight"),
        ("features.4.conv.0.0.weight", "high_level_features.4.conv.0.0.weight"),
        ("features.17.conv.3.running_var", "high_level_features.17.conv.3.running_var"),
    ]:
        assert torch.equal(published[theirs], ours[mine])


@torch.no_grad()
def test_mobilenet_agrees_with_torchvision_away_from_the_border():
    theirs = mobilenet_v2(num_classes=10).eval()
    ours = MobileNetV2(output_stride=16).eval()
    ours.load_state_dict(PRETRAINED["mobilenet"].convert_keys(theirs.state_dict()))
    images = torch.rand(1, 3, 97, 97)
    features = ours(images)["low_level"]
    expected = theirs.features[:4](images[:, :, 1:, 1:])  # their stem pads by 1, which shifts the output by 1
    inner = (slice(None), slice(None), slice(4, 18), slice(4, 18))
    torch.testing.assert_close(features[inner], expected[inner], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mobilenet_block_pads_before_batch_norm():
    block = InvertedResidual(2, 3, expansion=2, stride=1, dilation=1).eval()
    expand, filter_, project, _ = block.conv
    torch.nn.init.zeros_(expand[0].weight)  # leaves only the shift of its batch norm
    torch.nn.init.constant_(expand[1].bias, 0.5)
    torch.nn.init.ones_(filter_[0].weight)  # each position sums its nine neighbours, 4.5
    torch.nn.init.constant_(project.weight, 0.25)  # the mean of four channels
    out = block(torch.rand(1, 2, 4, 4))
    torch.testing.assert_close(out, torch.full((1, 3, 4, 4), 4.5), rtol=1e-4, atol=0)


@torch.no_grad()
def test_xception_ends_in_batch_norm_and_relu():
    backbone = Xception(output_stride=16).eval()
    out = backbone(torch.rand(1, 3, 65, 65))["out"]
    assert out.min() == 0 < out.max()
    torch.nn.init.zeros_(backbone.bn4.weight)
    torch.nn.init.constant_(backbone.bn4.bias, 3.0)
    assert (backbone(torch.rand(1, 3, 65, 65))["out"] == 3).all()


@torch.no_grad()
def test_xception_blocks_do_not_change_their_input():
    backbone = Xception(output_stride=16).eval()
    x = torch.randn(1, 728, 5, 5)
    before = x.clone()
    backbone.block4(x)
    assert torch.equal(x, before)


@torch.no_grad()
def test_hrnet_applies_relu_after_its_first_convolution():
    backbone = HRNetV2(32, output_stride=4).eval()
    seen = []
    backbone.conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    backbone(torch.rand(1, 3, 65, 65))
    assert seen[0].min() == 0


@torch.no_grad()
def test_hrnet_branches_of_odd_sizes_are_fused():
    module = HighResolutionModule([4, 8, 16]).eval()
    branches = [torch.rand(1, 4, 17, 25), torch.rand(1, 8, 9, 13), torch.rand(1, 16, 5, 7)]
    assert [x.shape for x in module(branches)] == [x.shape for x in branches]
