"""load_backbone: local ImageNet files of torchvision, timm and this program, under any prefix; what doesn't fit.

timm is not needed here: the names and shapes of its mobilenetv2_100 and hrnet_w32/w48 are written out from its
modules (conv_stem, blocks.<stage>.<block>.conv_pw; transition1, stage2, fuse_layers, ...) and the papers' tables.
"""
import pytest
import torch
import torchvision

from network.backbone_weights import list_shapes, load_backbone, name_backbone
from network.modeling import BACKBONES
from tests.conftest import DATA
from utils.errors import UserError

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def conv_bn(conv: str, norm: str, out: int, *rest: int) -> dict[str, tuple]:
    return {f"{conv}.weight": (out, *rest), **{f"{norm}.{name}": (out,) for name in (
        "weight", "bias", "running_mean", "running_var")}}


def timm_mobilenet() -> dict[str, tuple]:
    shapes, width = conv_bn("conv_stem", "bn1", 32, 3, 3, 3), 32
    table = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]  # t, c, n
    for stage, (expansion, out, blocks) in enumerate(table):
        for block in range(blocks):
            at, hidden = f"blocks.{stage}.{block}", width * expansion
            if expansion == 1:
                shapes |= conv_bn(f"{at}.conv_dw", f"{at}.bn1", hidden, 1, 3, 3)
                shapes |= conv_bn(f"{at}.conv_pw", f"{at}.bn2", out, hidden, 1, 1)
            else:
                shapes |= conv_bn(f"{at}.conv_pw", f"{at}.bn1", hidden, width, 1, 1)
                shapes |= conv_bn(f"{at}.conv_dw", f"{at}.bn2", hidden, 1, 3, 3)
                shapes |= conv_bn(f"{at}.conv_pwl", f"{at}.bn3", out, hidden, 1, 1)
            width = out
    return {**shapes, **conv_bn("conv_head", "bn2", 1280, 320, 1, 1), "classifier.weight": (1000, 1280),
            "classifier.bias": (1000,)}


def timm_hrnet(width: int) -> dict[str, tuple]:
    widths = [width * 2**k for k in range(4)]
    shapes = conv_bn("conv1", "bn1", 64, 3, 3, 3) | conv_bn("conv2", "bn2", 64, 64, 3, 3)
    for block in range(4):
        at, entry = f"layer1.{block}", 256 if block else 64
        shapes |= conv_bn(f"{at}.conv1", f"{at}.bn1", 64, entry, 1, 1)
        shapes |= conv_bn(f"{at}.conv2", f"{at}.bn2", 64, 64, 3, 3)
        shapes |= conv_bn(f"{at}.conv3", f"{at}.bn3", 256, 64, 1, 1)
    shapes |= conv_bn("layer1.0.downsample.0", "layer1.0.downsample.1", 256, 64, 1, 1)
    shapes |= conv_bn("transition1.0.0", "transition1.0.1", widths[0], 256, 3, 3)
    shapes |= conv_bn("transition1.1.0.0", "transition1.1.0.1", widths[1], 256, 3, 3)
    for step in (2, 3):  # the lower branch is halved once more; the other branches pass as they are
        at = f"transition{step}.{step}.0"
        shapes |= conv_bn(f"{at}.0", f"{at}.1", widths[step], widths[step - 1], 3, 3)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        for module in range(modules):
            shapes |= hrnet_module(f"stage{stage}.{module}", widths[:stage])
    for branch in range(4):  # the classification head
        shapes[f"incre_modules.{branch}.0.conv1.weight"] = (32 * 2**branch, widths[branch], 1, 1)
    return {**shapes, "classifier.weight": (1000, 2048), "classifier.bias": (1000,)}


def hrnet_module(at: str, widths: list[int]) -> dict[str, tuple]:
    shapes = {}
    for branch, channels in enumerate(widths):
        for block in range(4):
            for layer in (1, 2):
                here = f"{at}.branches.{branch}.{block}"
                shapes |= conv_bn(f"{here}.conv{layer}", f"{here}.bn{layer}", channels, channels, 3, 3)
    for target in range(len(widths)):
        for source in range(len(widths)):
            here = f"{at}.fuse_layers.{target}.{source}"
            if source > target:
                shapes |= conv_bn(f"{here}.0", f"{here}.1", widths[target], widths[source], 1, 1)
            for k in range(target - source):
                out = widths[target] if k == target - source - 1 else widths[source]
                shapes |= conv_bn(f"{here}.{k}.0", f"{here}.{k}.1", out, widths[source], 3, 3)
    return shapes


def filled(shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes, each filled with its own number."""
    return {key: torch.full(tuple(shape), float(number)) for number, (key, shape) in enumerate(shapes.items())}


def build(name):
    return BACKBONES[name](output_stride=4 if "hrnet" in name else 16)


def without_counters(model) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if "num_batches" not in key}


def published_xception() -> dict[str, tuple]:
    shapes = without_counters(build("xception"))
    return {key: shape[:2] if "pointwise" in key else shape for key, shape in shapes.items()}


FILES = {
    "torchvision's resnet50": ("resnet50", lambda: without_counters(torchvision.models.resnet50())),
    "torchvision's resnet101": ("resnet101", lambda: without_counters(torchvision.models.resnet101())),
    "torchvision's mobilenet": ("mobilenet", lambda: without_counters(torchvision.models.mobilenet_v2())),
    "timm's mobilenet": ("mobilenet", timm_mobilenet),
    "timm's hrnet_w32": ("hrnetv2_32", lambda: timm_hrnet(32)),
    "timm's hrnet_w48": ("hrnetv2_48", lambda: timm_hrnet(48)),
    "the published xception": ("xception", published_xception),
    **{f"our {name}": (name, lambda name=name: without_counters(build(name))) for name in BACKBONES},
}


@pytest.fixture(scope="module", autouse=True)
def _small_memory():
    """On the meta device tensors have names and shapes alone; the values are compared for a few files below."""
    with torch.device("meta"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("file", "prefix"), [*((file, "") for file in FILES), *(
    (file, prefix) for file in ("our mobilenet", "timm's mobilenet", "torchvision's mobilenet", "timm's hrnet_w32")
    for prefix in ("backbone.", "module.model.", "encoder."))])
def test_every_tensor_of_a_known_file_fits(file, prefix):
    name, shapes = FILES[file]
    state = {prefix + key: torch.empty(shape) for key, shape in shapes().items()}
    state |= {"fc.weight": torch.empty(1000, 8), "loss.weight": torch.empty(3)}
    backbone = build(name)
    expected = HALF if name == "xception" else backbone.normalization
    assert load_backbone(backbone, name, state, source="a.pth") == expected


@pytest.mark.parametrize("file", ["torchvision's mobilenet", "timm's mobilenet"])
def test_of_mobilenet_the_nth_tensor_is_the_nth(file):
    """In the order of its layers, ours and theirs alike."""
    name, shapes = FILES[file]
    with torch.device("cpu"):
        backbone, state = build(name), filled(shapes())
        load_backbone(backbone, name, state, source="a.pth")
        own = [value.flatten()[0].item() for key, value in backbone.state_dict().items() if "num_batches" not in key]
    heads = ("classifier", "conv_head", "bn2.", "features.18")
    assert own == [float(number) for number, key in enumerate(state) if not key.startswith(heads)]


def test_of_hrnet_each_place_has_the_tensor_of_its_name():
    with torch.device("cpu"):
        backbone, shapes = build("hrnetv2_32"), timm_hrnet(32)
        state = filled(shapes)
        load_backbone(backbone, "hrnetv2_32", state, source="a.pth")
    for key, value in backbone.state_dict().items():
        if "num_batches" not in key:
            theirs = key.replace("transition2.", "transition2.2.0.").replace("transition3.", "transition3.3.0.")
            assert torch.equal(value, state[theirs]), key


def test_at_least_95_percent_must_fit():
    backbone = build("resnet50")
    own = list_shapes(backbone)
    limit = len(own) - int(0.05 * len(own))
    some = {key: torch.empty(shape) for key, shape in list(own.items())[:limit]}
    load_backbone(backbone, "resnet50", some, source="a.pth")
    del some[next(iter(some))]
    with pytest.raises(UserError) as error:
        load_backbone(backbone, "resnet50", some, source="a.pth")
    assert f"--backbone_weights a.pth: {limit - 1} of the {len(own)} tensors" in str(error.value)
    assert "missing conv1.weight" in str(error.value) and "\n" not in str(error.value)


def test_a_backbone_that_stays_as_it_is_must_be_whole():
    """With --freeze_backbone a layer that the file lacks would stay random to the end."""
    backbone = build("resnet50")
    state = {key: torch.empty(shape) for key, shape in list_shapes(backbone).items()}
    state["conv1.weight"] = torch.empty(64, 1, 7, 7)  # of grey images
    load_backbone(backbone, "resnet50", state, source="a.pth")
    with pytest.raises(UserError, match="264 of the 265 .*--freeze_backbone.*another shape conv1.weight 64x1x7x7"):
        load_backbone(backbone, "resnet50", state, source="a.pth", whole=True)


@pytest.mark.parametrize("more", ["layer1.0.se.fc1.weight", "conv1.bias"])
def test_a_network_with_more_in_its_layers_is_another(more):
    """The tensors that ResNet-50 has are trained beside squeeze-and-excitation, not for a network without."""
    backbone = build("resnet50")
    state = {**{key: torch.empty(shape) for key, shape in list_shapes(backbone).items()}, more: torch.empty(16, 256)}
    with pytest.raises(UserError, match=f"a.pth: the file is of another network than resnet50: .*{more}"):
        load_backbone(backbone, "resnet50", state, source="a.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_named(name):
    assert name_backbone(build(name).state_dict()) == name


def test_resnet101_is_not_taken_for_resnet50_although_it_has_all_its_tensors():
    state = {key: torch.empty(shape) for key, shape in FILES["torchvision's resnet101"][1]().items()}
    with pytest.raises(UserError, match="of the resnet101 backbone, not of resnet50"):
        load_backbone(build("resnet50"), "resnet50", state, source="a.pth")


def test_the_file_of_another_backbone_is_named():
    state = {key: torch.empty(shape) for key, shape in FILES["timm's hrnet_w48"][1]().items()}
    with pytest.raises(UserError, match="the file is of the hrnetv2_48 backbone"):
        load_backbone(build("hrnetv2_32"), "hrnetv2_32", state, source="a.pth")


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet_backbone.pth", "deeplabv3_mobilenet_voc.pth"])
def test_real_files_are_loaded_bit_for_bit(name):
    path = DATA / "weights" / name
    if not path.is_file():
        pytest.skip(f"no real weights at {path}")
    with torch.device("cpu"):
        state, backbone = torch.load(path, weights_only=True, map_location="cpu"), build("mobilenet")
        load_backbone(backbone, "mobilenet", state, source=name)
    theirs = {key.removeprefix("backbone."): value for key, value in state.items()}
    assert all(torch.equal(value, theirs[key]) for key, value in backbone.state_dict().items() if key in theirs)
