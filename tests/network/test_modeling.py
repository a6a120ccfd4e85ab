"""Names, strides, sizes and modes of all twelve networks."""
import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import network
from network import modeling
from utils.errors import UserError

STRIDES = {name: 4 if "hrnet" in name else 16 for name in network.MODELS}


def build(name, *, num_classes=5, **kwargs):
    return network.MODELS[name](num_classes, STRIDES[name], pretrained_backbone=False, **kwargs)


def test_models_are_the_twelve_constructors():
    heads = ("deeplabv3", "deeplabv3plus")
    backbones = ("mobilenet", "resnet50", "resnet101", "xception", "hrnetv2_32", "hrnetv2_48")
    assert set(network.MODELS) == {f"{head}_{backbone}" for head in heads for backbone in backbones}
    assert all(getattr(modeling, name) is constructor for name, constructor in network.MODELS.items())


def test_the_names_can_be_read_without_importing_torch():
    """MODELS is a dict literal, so that a parser of flags needs only the source."""
    tree = ast.parse(Path(modeling.__file__).read_text(encoding="utf-8"))
    models, = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "MODELS")
    assert [ast.literal_eval(key) for key in models.keys] == list(network.MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", network.MODELS)
@torch.no_grad()
def test_any_size_from_65_up(name):
    model = build(name).eval()
    for height, width in [(65, 65), (97, 130)]:
        assert model(torch.rand(1, 3, height, width)).shape == (1, 5, height, width)


@pytest.mark.parametrize("backbone", ["mobilenet", "resnet50", "xception", "hrnetv2_32"])
def test_a_photo_keeps_its_size(backbone):
    with torch.device("meta"):  # shapes without arithmetic
        model = build(f"deeplabv3plus_{backbone}").eval()
        assert model(torch.rand(2, 3, 375, 500)).shape == (2, 5, 375, 500)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet", "resnet50", "xception", "hrnetv2_32"])
@torch.no_grad()
def test_channels_last_gives_the_same(backbone):
    model = build(f"deeplabv3plus_{backbone}").eval()
    images = torch.rand(1, 3, 65, 97)
    logits = model(images)
    again = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert (again - logits).norm() < 1e-4 * logits.norm()


@pytest.mark.parametrize("name", ["deeplabv3_xception", "deeplabv3plus_mobilenet"])
def test_a_training_step_reaches_every_parameter_and_the_images(name):
    model = build(name).train()
    images = torch.rand(2, 3, 65, 65, requires_grad=True)
    F.cross_entropy(model(images), torch.randint(0, 5, (2, 65, 65))).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet", "deeplabv3plus_resnet50", "deeplabv3_xception"])
def test_unsupported_strides_are_errors(name):
    with pytest.raises(UserError, match="output_stride 4.* 8 or 16"):
        network.MODELS[name](output_stride=4, pretrained_backbone=False)


@pytest.mark.parametrize("stride", [8, 16])
def test_hrnet_has_stride_4_only(stride):
    with pytest.raises(UserError, match=f"output_stride {stride}.* 4$"):
        modeling.deeplabv3_hrnetv2_32(output_stride=stride, pretrained_backbone=False)


def test_attributes_describe_the_network():
    model = build("deeplabv3plus_mobilenet", num_classes=11)
    assert (model.num_classes, model.output_stride) == (11, 16)
    assert set(model.backbone(torch.rand(1, 3, 65, 65))) == {"out", "low_level"}
    assert set(build("deeplabv3_mobilenet").backbone(torch.rand(1, 3, 65, 65))) == {"out"}


def test_build_model_normalises_and_converts():
    model = network.build_model("deeplabv3_mobilenet", num_classes=3, output_stride=8, separable_conv=True)
    assert isinstance(model, network.NormalizedModel)
    assert (model.model.num_classes, model.model.output_stride) == (3, 8)
    assert model.normalization == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert any(".body." in key for key in model.model.classifier.state_dict())
    assert not any(".body." in key for key in model.model.backbone.state_dict())


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="deeplabv4_vgg.*deeplabv3_mobilenet.*deeplabv3plus_hrnetv2_48"):
        network.build_model("deeplabv4_vgg", num_classes=21, output_stride=16)
