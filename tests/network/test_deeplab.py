"""The heads, separable convolutions and batch norm momentum."""
import pytest
import torch
from torch import nn

import network
from network.deeplab import ASPP, AtrousSeparableConvolution, DeepLabHead, DeepLabHeadV3Plus
from utils.errors import UserError

CHANNELS = {"out": 8, "low_level": 6}


def features(batch=2):
    return {"out": torch.rand(batch, 8, 5, 7), "low_level": torch.rand(batch, 6, 17, 21)}


@pytest.mark.parametrize(("head", "size"), [(DeepLabHead, (5, 7)), (DeepLabHeadV3Plus, (17, 21))])
def test_heads_classify_at_their_own_resolution(head, size):
    assert head(CHANNELS, 4, rates=(1, 2, 3))(features()).shape == (2, 4, *size)


def test_aspp_pools_over_the_whole_image():
    aspp = ASPP(8, rates=(1, 2, 3)).eval()
    pooled = aspp.convs[-1](torch.rand(1, 8, 5, 7))
    assert pooled.shape == (1, 256, 5, 7)
    torch.testing.assert_close(pooled, pooled[:, :, :1, :1].expand_as(pooled))


def test_training_with_one_image_per_replica_is_an_error():
    head = DeepLabHead(CHANNELS, 4, rates=(1, 2, 3))
    with pytest.raises(UserError, match="at least two images per replica"):
        head(features(batch=1))
    for layer in head.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    head(features(batch=1))  # no error with frozen statistics


@pytest.mark.parametrize("bias", [True, False])
def test_a_separable_convolution_keeps_geometry_bias_and_dtype(bias):
    conv = nn.Conv2d(4, 6, (3, 5), stride=2, padding=(2, 4), dilation=2, bias=bias).double()
    separable = network.convert_to_separable_conv(conv)
    assert [layer.bias is not None for layer in separable.body] == [bias, bias]
    x = torch.rand(1, 4, 17, 19, dtype=torch.float64)
    assert separable(x).shape == conv(x).shape
    assert separable(x).dtype == torch.float64


def test_a_separable_convolution_is_depthwise_then_pointwise():
    separable = AtrousSeparableConvolution(2, 3, 3, padding=1)
    depthwise, pointwise = separable.body
    kernels = torch.einsum("oi,ihw->oihw", pointwise.weight[:, :, 0, 0], depthwise.weight[:, 0])
    bias = pointwise.weight[:, :, 0, 0] @ depthwise.bias + pointwise.bias
    x = torch.rand(1, 2, 9, 9)
    torch.testing.assert_close(separable(x), nn.functional.conv2d(x, kernels, bias, padding=1))


def test_conversion_changes_only_large_kernels_and_is_idempotent():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))
    assert network.convert_to_separable_conv(module) is module
    assert isinstance(module[0], nn.Conv2d)
    assert isinstance(module[1][0], AtrousSeparableConvolution)
    before = list(module.state_dict())
    assert list(network.convert_to_separable_conv(module).state_dict()) == before


def test_bn_momentum_is_set_on_every_kind_of_batch_norm():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.SyncBatchNorm(3)))
    network.set_bn_momentum(module, 0.01)
    assert module[1].momentum == module[2][0].momentum == 0.01
