"""export.py with a checkpoint of a thin network; the ten lines of docs/export.md in a process without torch."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.torch_version import TorchVersion

from datasets import describe
from engine.setup import build_network
from export import export
from network import export as exporting
from network.export import draw_patches
from tests import thin
from tests.calls import options_of
from utils.images import overlay
from utils.launch import TORCHRUN

onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: make extras")
pytest.importorskip("onnxscript", reason="an extra: make extras")
SMALL = ["--height", "33", "--width", "50"]
NETWORK = ["--model", "deeplabv3_mobilenet", "--dataset", "synthetic"]


@pytest.fixture(scope="module", autouse=True)
def thin_network(one_thread_in_module):
    with thin.installed():
        yield


@pytest.fixture(scope="module")
def model():
    options = options_of(*NETWORK, "--no-pretrained_backbone", "--output_stride", "8")
    torch.manual_seed(0)
    return build_network(options, torch.device("cpu"), num_classes=5).eval()


@pytest.fixture(scope="module")
def new_torch():
    if torch.__version__ < exporting.OLDEST_TORCH:
        pytest.skip("torch is too old to export: docs/export.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, new_torch):
    """A folder with checkpoint.pth, which says what it is of, plain.pth, which doesn't, and their network.onnx."""
    folder = tmp_path_factory.mktemp("export")
    options = options_of(*NETWORK, "--output_stride", "8").to_dict()
    state = model.model.state_dict()
    normalization = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    torch.save({"model_state": state, "options": options, "normalization": normalization}, folder / "checkpoint.pth")
    torch.save({"model_state": state}, folder / "plain.pth")
    model.normalization = normalization
    export(["--ckpt", str(folder / "checkpoint.pth"), "--format", "onnx", "--output", str(folder / "network.onnx")])
    return folder


@pytest.fixture
def call(folder, tmp_path, monkeypatch):
    """A function that calls export.py in an empty folder, for torch_export unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, ckpt="checkpoint.pth", format="torch_export", output="a.pt2"):
        return export(["--ckpt", str(folder / ckpt), "--format", format, "--output", output, *flags])

    return run


@pytest.fixture
def fails(call, capsys):
    """A function that returns the exit code and the line on stderr of a call that ends with an error."""
    def run(*flags, **how):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*flags, **how)
        (line,) = capsys.readouterr().err.splitlines()
        return stop.value.code, line

    return run


@torch.no_grad()
def logits_of(model, images):
    return model(images).numpy()


@pytest.mark.slow
def test_the_file_is_the_network_of_the_checkpoint(folder, model):
    """With its stride and normalisation; the ends of what images may hold, odd sizes, batches of 1 and 3."""
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    for size in ((1, 65, 97), (3, 50, 33)):
        for images in (draw_patches(size), torch.zeros(size[0], 3, *size[1:]), torch.ones(size[0], 3, *size[1:])):
            (logits,) = session.run(["logits"], {"image": images.numpy()})
            expected = logits_of(model, images)
            assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    described, classes = session.get_modelmeta().custom_metadata_map, describe("synthetic")
    assert json.loads(described["class_names"]) == list(classes.names)
    assert json.loads(described["class_colours"]) == classes.palette[:5].tolist()
    assert (described["model"], described["dataset"]) == ("deeplabv3_mobilenet", "synthetic")
    assert str(folder) not in str(described)
    assert [path.name for path in folder.iterdir() if "onnx" in path.name or "writing" in path.name] == ["network.onnx"]


@pytest.mark.slow
def test_the_lines_of_the_page_run_without_torch(folder, model, tmp_path, root):
    lines = [block for block in re.findall(r"```python\n(.*?)```", (root / "docs" / "export.md").read_text(), re.DOTALL)
             if "onnxruntime" in block]
    assert len(lines) == 1 and lines[0].count("\n") == 10
    pixels = (draw_patches((1, 65, 97), seed=2)[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (tmp_path / "network.onnx").write_bytes((folder / "network.onnx").read_bytes())
    check = "import sys\nassert not {'torch', 'torchvision', 'network', 'engine'} & sys.modules.keys()\n"
    (tmp_path / "lines.py").write_text(lines[0].replace("photo.jpg", "photo.png") + check)
    done = subprocess.run([sys.executable, "lines.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    preds = logits_of(model, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].argmax(0)
    assert len(np.unique(preds)) > 1
    expected = overlay(pixels, describe("synthetic").decode_target(preds), alpha=0.7)
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert (np.abs(np.array(drawn).astype(int) - expected).max(2) <= 1).mean() > 0.999


def test_the_archive_is_the_network_and_says_how_far_it_is(call, model, capsys):
    assert str(call(output="new/folder/a.pt2")) == "new/folder/a.pt2"
    said = capsys.readouterr().out
    assert said.count("Difference from the network: 0.0e+00 of the largest logit") == 2
    assert "1x187x311 (batch x height x width)" in said and "2x262x223" in said
    run = torch.export.load("new/folder/a.pt2").module()
    images = draw_patches((1, 65, 97))
    assert (logits_of(run, images) == logits_of(model, images)).all()


def test_flags_say_what_the_checkpoint_does_not(call, fails):
    code, line = fails(ckpt="plain.pth")
    assert code == 2 and "plain.pth" in line
    call(*NETWORK, "--output_stride", "8", "--num_classes", "5", *SMALL, ckpt="plain.pth")
    assert fails("--num_classes", "4", "--overwrite") == (2, "error: --num_classes 4: synthetic has 5")


def test_a_fixed_size_is_compared_and_written(call, capsys):
    call(*SMALL)
    said = capsys.readouterr().out
    assert "1x33x50" in said and "2x33x50" in said and "for images of 33x50 (height x width)" in said
    run = torch.export.load("a.pt2").module()
    assert run(torch.rand(3, 3, 33, 50)).shape == (3, 5, 33, 50)
    with pytest.raises(AssertionError):
        run(torch.rand(1, 3, 34, 50))


@pytest.mark.parametrize(("flags", "how", "says"), [
    (["--height", "33"], {}, "--height: --width fixes the size with it: give both or neither"),
    (["--width", "33"], {}, "--width: --height fixes the size with it: give both or neither"),
    (["--height", "0", "--width", "33"], {}, "--height: 0 is out of bounds: 1 to 16384"),
    (["--height", "1.5", "--width", "33"], {}, "--height: 1.5 is not a whole number"),
    ([], {"format": "coreml"}, "--format: invalid choice: 'coreml' (choose from onnx, torch_export)"),
    ([], {"format": "onnx"}, "--output: the name must end in .onnx for --format onnx"),
    ([], {"output": "a.pth"}, "--output: the name must end in .pt2 for --format torch_export"),
    (["--window", "65"], {}, "export.py only writes a network to a file: leave out --window"),
    (["--tta", "flip"], {}, "leave out --tta"), (["--attack", "pgd"], {}, "leave out --attack"),
    (["--device", "cuda"], {}, "leave out --device"), (["--amp"], {}, "leave out --amp"),
    (["--exp_name", "a"], {}, "--exp_name: chooses the run whose weights are used, and --ckpt names these"),
    ([], {"ckpt": "nowhere.pth"}, "nowhere.pth"), ([], {"ckpt": "network.onnx"}, "network.onnx can't be read as a"),
    (["--model", "deeplabv3_mobilnet"], {}, "--model: invalid choice: 'deeplabv3_mobilnet'")])
def test_what_cannot_be_is_one_line_and_writes_nothing(fails, folder, tmp_path, flags, how, says):
    code, line = fails(*flags, **how)
    assert code == 2 and line.startswith("error: ") and says in line
    assert list(tmp_path.iterdir()) == []


def test_format_and_output_are_asked_for(folder, capsys):
    for given, missing in ((["--output", "a.onnx"], "--format: give onnx or torch_export"),
                           (["--format", "onnx"], "--output: name the file to write")):
        with pytest.raises(SystemExit) as stop:
            export(["--ckpt", str(folder / "checkpoint.pth"), *given])
        assert stop.value.code == 2 and missing in capsys.readouterr().err


def test_one_process_exports(fails, monkeypatch):
    for name, value in zip(TORCHRUN, ("0", "2", "0", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert fails() == (2, "error: export.py runs in one process: start it with python export.py")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_the_checkpoint_is_read(fails, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, line = fails(ckpt="nowhere.pth", format="onnx", output="a.onnx")
    assert (code, line) == (2, f"error: {package} is not installed: run `make extras`")


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_an_older_torch_is_refused_before_the_checkpoint_is_read(monkeypatch, tmp_path, capsys, format):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cu128"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        export(["--ckpt", "nowhere.pth", "--format", format, "--output", {"onnx": "a.onnx"}.get(format, "a.pt2")])
    assert stop.value.code == 2 and capsys.readouterr().err.splitlines()[-1] == (
        f"error: --format {format}: torch 2.8.0+cu128 is too old: export with 2.9 or later")


def test_only_its_own_file_is_replaced_and_only_if_asked(call, fails, tmp_path):
    call(*SMALL)
    before = (tmp_path / "a.pt2").read_bytes()
    code, line = fails()
    assert code == 2 and line.endswith("from an earlier call: give --overwrite to replace it, or another --output")
    assert (tmp_path / "a.pt2").read_bytes() == before
    call("--overwrite", "--height", "34", "--width", "50")
    assert (tmp_path / "a.pt2").read_bytes() != before

    torch.save({"weights": torch.ones(3)}, tmp_path / "b.pt2")
    (tmp_path / "c.pt2").touch()
    (tmp_path / "d.pt2").mkdir()
    (tmp_path / "e.pt2").symlink_to("nowhere")
    foreign = (tmp_path / "b.pt2").read_bytes()
    for name in ("b.pt2", "c.pt2", "e.pt2"):
        code, line = fails("--overwrite", output=name)
        assert code == 2 and f"{name} is there, and this command didn't write it: choose another --output" in line
    assert fails("--overwrite", output="d.pt2") == (2, "error: --output d.pt2 is a folder: name a file in it")
    code, line = fails(output="b.pt2/x.pt2")
    assert code == 2 and "b.pt2 is not a folder that can be written: choose another --output" in line
    assert (tmp_path / "b.pt2").read_bytes() == foreign and len(list(tmp_path.iterdir())) == 5


def test_a_file_that_appears_meanwhile_is_not_replaced(fails, tmp_path, monkeypatch):
    plain = exporting.encode
    monkeypatch.setattr(exporting, "encode", lambda *args, **how: [
        plain(*args, **how), (tmp_path / "a.pt2").write_text("mine")][0])
    code, line = fails(*SMALL)
    assert code == 2 and "this command didn't write it" in line and (tmp_path / "a.pt2").read_text() == "mine"


@pytest.mark.parametrize("wrong", [lambda logits: logits + 2e-4 * logits.abs().max(),
                                   lambda logits: logits * float("nan"), lambda logits: logits[..., 1:]])
def test_a_file_with_other_logits_is_not_written(fails, tmp_path, monkeypatch, capsys, wrong):
    opened = exporting.FORMATS["torch_export"].open

    def open_wrongly(content):
        run = opened(content)
        return lambda images: wrong(run(images))

    monkeypatch.setitem(exporting.FORMATS, "torch_export", exporting.Format((), exporting.FORMATS[
        "torch_export"].encode, open_wrongly))
    code, line = fails(*SMALL)
    assert code == 1 and line.startswith("error: a difference above 0.0001 of the largest logit: nothing is written")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_ones_own_is_exported(call, fails, tmp_path):
    """With the size that it takes, and without its path in the file."""
    (tmp_path / "nets.py").write_text("""import torch
class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, num_classes, 3, stride=32, padding=1)
    def forward(self, images):
        assert images.shape[-1] % 32 == 0
        return {"out": torch.nn.functional.interpolate(self.conv(images), scale_factor=32)}
def net(num_classes):
    return Net(num_classes)
""")
    state = {"conv.weight": torch.rand(5, 3, 3, 3), "conv.bias": torch.zeros(5)}
    torch.save({"model_state": state}, tmp_path / "own.pth")
    flags = ["--ckpt", str(tmp_path / "own.pth"), "--model", f"{tmp_path / 'nets.py'}:net", "--dataset", "synthetic"]
    code, line = fails(*flags)
    assert code == 2 and "can't be exported" in line and line.endswith("give --height and --width to fix the size")
    call(*flags, "--height", "64", "--width", "96")
    torch.export.load("a.pt2", extra_files=(files := {exporting.METADATA: ""}))
    assert json.loads(files[exporting.METADATA])["model"] == "nets.net"
    assert str(tmp_path).encode() not in (tmp_path / "a.pt2").read_bytes()


def test_the_real_checkpoint_is_exported(new_torch, voc_root, tmp_path, monkeypatch):
    """Where there is one; its logits are those of a trained network, its classes VOC's."""
    ckpt = voc_root.parent / "weights" / "deeplabv3_mobilenet_voc.pth"
    if not ckpt.is_file():
        pytest.skip(f"no {ckpt}")
    with thin.real():
        path = export(["--ckpt", str(ckpt), "--model", "deeplabv3_mobilenet", "--dataset", "voc", "--format",
                       "torch_export", "--output", str(tmp_path / "voc.pt2"), *SMALL])
    torch.export.load(path, extra_files=(files := {exporting.METADATA: ""}))
    assert json.loads(json.loads(files[exporting.METADATA])["class_names"])[15] == "person"
