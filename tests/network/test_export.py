"""The content of exported files against the network, run by onnxruntime and by torch.export itself."""
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.export import build_random
from network import MODELS, NormalizedModel, build_model, export
from network.export import BOUND, EXAMPLE, SIZES, Difference, compare, encode, find_smallest_size, trace
from network.export_operations import Rewritten, resize_nearest
from tests import thin
from utils.errors import UserError

onnx = pytest.importorskip("onnx", reason="an extra: make extras")
onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: make extras")
pytest.importorskip("onnxscript", reason="an extra: make extras")
if torch.__version__ < export.OLDEST_TORCH:
    pytest.skip("torch is too old to export: docs/export.md", allow_module_level=True)
ODD = ((1, 65, 97), (2, 98, 51))
RESTS = ((1, 66, 67), (2, 69, 73), (1, 80, 64))  # sides with every rest modulo 4, and others modulo 32


class Small(nn.Module):
    """A network with what HRNet has: branches of lower resolution, resized to the nearest value and bilinearly."""

    def __init__(self, levels: int = 3):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.halve = nn.ModuleList(nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(levels))

    def forward(self, images):
        branches = [self.stem(images)]
        for layer in self.halve:
            branches.append(layer(branches[-1]))
        size = images.shape[-2:]
        nearest, bilinear = F.interpolate(branches[-1], size=size), F.interpolate(
            branches[1], size=size, mode="bilinear", align_corners=False)
        return self.head(branches[0] + nearest + bilinear)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return NormalizedModel(Small(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def content(model):
    """{format: the content of its file}."""
    program = trace(model)
    return {format: encode(program, format=format, metadata={"class_names": '["a", "b"]', "note": "é"})
            for format in export.FORMATS}


def test_what_is_compared_is_not_what_was_traced():
    assert len({*SIZES, EXAMPLE}) == 3 and {size[0] for size in SIZES} == {1, 2}
    sides = [side for size in SIZES for side in size[1:]]
    assert {side % 2 for side in sides} == {0, 1}
    assert not {side % 4 for side in sides} & {side % 4 for side in EXAMPLE[1:]}
    numbers = [number for size in (*SIZES, EXAMPLE) for number in size[1:]]
    assert len({*numbers}) == len(numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_each_network_is_the_same_in_onnxruntime(name, root):
    """At two sizes; the logits differ over the image, so that a wrong resize shows."""
    model = build_random(name)
    program = trace(model)
    content = encode(program, format="onnx", metadata={})
    differences = list(compare(content, model, format="onnx", sizes=ODD))
    assert len(differences) == 2 and all(difference.share <= 1e-4 for difference in differences), differences
    with torch.no_grad():
        logits = model(export.draw_patches((1, 65, 97)))
    assert logits.std((2, 3)).max() > 0.1 * logits.abs().max() / 4
    measured = json.loads((root / "results" / "export.json").read_text())["networks"]
    assert [*find_smallest_size(program)] == next(row["smallest_size"] for row in measured if row["model"] == name)
    assert all(difference.share == 0 for difference in compare(
        encode(program, format="torch_export", metadata={}), model, format="torch_export", sizes=RESTS))
    assert not {tensor.data_location for tensor in onnx.load_from_string(content).graph.initializer} - {0}


@pytest.mark.slow
def test_the_file_names_what_it_takes_and_gives(content, root):
    proto = onnx.load_from_string(content["onnx"])
    onnx.checker.check_model(proto)
    shapes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*proto.graph.input, *proto.graph.output)}
    assert shapes == {"image": ["batch", 3, "height", "width"], "logits": ["batch", 5, "height", "width"]}
    assert [(entry.domain, entry.version) for entry in proto.opset_import if not entry.domain] == [("", export.OPSET)]
    session = onnxruntime.InferenceSession(content["onnx"])
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["class_names"]) == ["a", "b"] and found["note"] == "é"
    torch.export.load(io.BytesIO(content["torch_export"]), extra_files=(files := {export.METADATA: ""}))
    assert not [format for format in content if str(root).encode() in content[format]]
    assert json.loads(files[export.METADATA]) == {"class_names": '["a", "b"]', "note": "é"}


@pytest.mark.slow
def test_every_size_and_batch_is_the_networks(model, content):
    """Also 122, to which onnxruntime's own Resize takes a neighbour of the nearest value: an error of per cents."""
    sizes = ((1, 122, 230), (1, 366, 33), (3, 65, 97), (2, 17, 18), (5, 33, 458), (1, 64, 64))
    for format, bound in (("onnx", 1e-5), ("torch_export", 0)):
        for difference in compare(content[format], model, format=format, sizes=sizes):
            assert difference.largest_logit > 0.1 and difference.share <= bound, (format, difference)


def test_nearest_values_are_those_of_interpolate():
    for side in (*range(4, 700), 2048, 4096):
        for times in (2, 4, 8):
            row = torch.arange(-(-side // times), dtype=torch.float32).view(1, 1, 1, -1)
            assert (resize_nearest(row, (1, side)) == F.interpolate(row, size=(1, side))).all(), (side, times)


def test_pooling_in_another_form_has_the_same_values():
    layers = [nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2), nn.MaxPool2d((3, 5), (3, 2), padding=(1, 2)),
              nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.MaxPool2d(3, stride=2, dilation=2)]
    for height, width in ((9, 12), (10, 11), (23, 24)):
        images = torch.randn(2, 3, height, width)
        for layer in layers:
            with Rewritten():
                found = layer(images)
            assert found.shape == layer(images).shape and (found == layer(images)).all(), layer


@pytest.mark.slow
def test_another_networks_file_is_not_taken_for_this_ones(content):
    """A network whose normalisation, one weight or resize differs; and one whose logits are not finite."""
    torch.manual_seed(0)
    other = NormalizedModel(Small(), [0.5, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert not any(found.is_small for found in compare(content["onnx"], other, format="onnx"))
    torch.manual_seed(0)
    other = NormalizedModel(Small(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert all(found.is_small for found in compare(content["onnx"], other, format="onnx"))
    with torch.no_grad():
        other.model.head.bias[0] += 1e-3
    assert not any(found.is_small for found in compare(content["onnx"], other, format="onnx"))
    with torch.no_grad():
        other.model.head.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        list(compare(content["onnx"], other, format="onnx"))


def test_a_difference_that_is_no_number_is_not_small():
    assert Difference((1, 2, 3), 1.0, BOUND).is_small and not Difference((1, 2, 3), 1.0, BOUND * 1.01).is_small
    assert not Difference((1, 2, 3), 1.0, float("nan")).is_small and Difference((1, 2, 3), 0.0, 0.0).is_small
    assert not Difference((1, 2, 3), 1.0, float("inf")).is_small


def test_a_fixed_size_is_the_only_one_and_may_be_small():
    """With 2x2 pixels MobileNet pads; the batch stays free."""
    with thin.installed():
        model = build_model("deeplabv3_mobilenet", num_classes=5, output_stride=16)
    model.least_size = 3
    program = trace(model, size=(2, 2))
    assert find_smallest_size(program) == (2, 2)
    run = torch.export.load(io.BytesIO(encode(program, format="torch_export", metadata={}))).module()
    images, larger = torch.rand(3, 3, 2, 2), torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        assert (run(images) == model.eval()(images)).all()
        with pytest.raises(AssertionError, match="Guard failed"):
            run(larger)


def test_smaller_images_than_the_smallest_are_refused_by_torch_export(content, model):
    program = trace(model)
    height, width = find_smallest_size(program)
    assert (height, width) == (9, 9)  # the lowest of the branches has 2x2 values then
    run = torch.export.load(io.BytesIO(content["torch_export"])).module()
    run(torch.rand(1, 3, height, width))
    with pytest.raises(AssertionError, match="Guard failed"):
        run(torch.rand(1, 3, height - 1, width))


def test_tracing_leaves_the_model_as_it_was(model):
    model.train()
    model.model.stem.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model)
    assert model.training and model.model.head.training and not model.model.stem.training
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
    model.eval()


class OfOneSize(nn.Module):
    def forward(self, images):
        return images + torch.zeros(1, 3, *EXAMPLE[1:])


def test_a_network_that_takes_one_size_is_refused_without_that_size():
    with pytest.raises(UserError, match="can't be exported .*: give --height and --width"):
        trace(OfOneSize())
    trace(OfOneSize(), size=EXAMPLE[1:])
    with pytest.raises(UserError, match="can't be exported .*: give a size that it takes"):
        trace(OfOneSize(), size=(20, 30))


def test_weights_beyond_one_onnx_file_are_refused(monkeypatch, model):
    export.check_weights(model, format="onnx")
    monkeypatch.setattr(export, "MOST_BYTES", 100)
    export.check_weights(model, format="torch_export")
    with pytest.raises(UserError, match="under 2 GiB: give --format torch_export"):
        export.check_weights(model, format="onnx")


def test_a_file_that_cannot_be_run_is_one_line(model):
    with pytest.raises(UserError, match="what would be written can't be run") as error:
        list(compare(b"no model", model, format="onnx"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_gradients_go_through_the_archive(model, content):
    """So a loaded file can be attacked like the network."""
    run = torch.export.load(io.BytesIO(content["torch_export"])).module()
    gradients = []
    for network in (run, model):
        images = torch.linspace(0, 1, 3 * 20 * 30).view(1, 3, 20, 30).requires_grad_()
        network(images).square().sum().backward()
        gradients.append(images.grad.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)
