"""--list and --version: what they print is true, and there without torch or a GPU."""
import inspect
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import attacks
import optim
from datasets import DATASETS, synthetic
from engine.about import answer, catalogue, versions
from engine.options import FLAGS
from engine.options.resolve import find_output_stride
from main import main
from network import MODELS, convert_to_separable_conv
from network.pretrained import PRETRAINED
from tests import thin
from utils.errors import UserError
from utils.version import VERSION


def test_every_name_of_a_registry_has_its_row_in_the_same_order():
    assert list(catalogue.MODELS) == list(MODELS) and list(catalogue.DATASETS) == list(DATASETS)
    assert list(catalogue.ATTACKS) == list(attacks.ATTACKS) and list(catalogue.CORRUPTIONS) == [*attacks.CORRUPTIONS]
    for flag, losses in (("--loss_type", optim.LOSSES), ("--attack_loss", attacks.LOSSES)):
        rows = {name: row for name, row in catalogue.LOSSES.items() if row.flag == flag}
        assert list(rows) == list(losses)
        (default,) = [name for name, row in rows.items() if "the default" in row.does]
        assert default == (FLAGS[flag[2:]].default or attacks.Attack.default_loss)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_has_its_parameters_strides_and_weights(name):
    row = catalogue.MODELS[name]
    assert row.strides[0] == find_output_stride(name)
    for stride in (4, 8, 16):
        if stride not in row.strides:
            with pytest.raises(UserError):
                MODELS[name](21, stride, False)
            continue
        with thin.real(), torch.device("meta"):
            model = MODELS[name](21, stride, False)
            counts = [count_parameters(model)]
            convert_to_separable_conv(model.classifier)
        assert [*counts, count_parameters(model)] == [row.parameters, row.separable]
    backbone = name.partition("_")[2]
    assert row.weights == (PRETRAINED[backbone].name if backbone in PRETRAINED else None)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_has_its_classes_and_what_its_page_says(name, root):
    row, cls = catalogue.DATASETS[name], DATASETS[name]
    assert row.classes == (None if cls.own_classes else cls.num_classes)
    pages = "".join((root / "docs" / page).read_text() for page in ("data.md", "experiments/voc.md"))
    numbers = {*re.findall(r"\d+,?\d+", row.images)} - {"1,464"}  # VOC's own count of its train.txt
    assert [number for number in numbers if number not in pages] == []
    if name == "synthetic":
        lengths, size = synthetic.LENGTHS, synthetic.SIZE
        assert row.images == f"{lengths['train']} and {lengths['val']} of {size}x{size}"
    else:  # its source names every folder
        names = {word for word in re.findall(r"[\w.]{3,}", row.layout) if word not in ("and", "you", "have", "them")}
        source = inspect.getsource(inspect.getmodule(cls)).lower()
        assert [word for word in names if word.lower() not in source] == []


class Counted(torch.autograd.Function):
    """The identity, which counts its backward passes."""

    backwards = 0

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        Counted.backwards += 1
        return gradient


class Tiny(nn.Module):
    """Three classes whose logits are the channels."""

    def forward(self, images):
        return Counted.apply(images) * 5


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_costs_as_many_gradients_as_its_row_says(name, one_thread):
    """Counted on one image that a radius of 1e-6 doesn't change, so that no attack ends early."""
    row, arguments = catalogue.ATTACKS[name], inspect.signature(attacks.ATTACKS[name]).parameters
    images = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    settings = {"eps": 1e-6, "class_weights": [1.0, 1.0, 1.0]}
    steps = 5 if "steps" in arguments else row.steps
    Counted.backwards = 0
    attacks.build_attack(name, **settings, steps=steps)(Tiny(), images, images.argmax(1))
    assert Counted.backwards == row.gradients * steps
    by_default = attacks.build_attack(name, **settings)
    assert by_default.count_gradients() == row.steps * row.gradients
    assert "steps" not in arguments or arguments["steps"].default == row.steps
    assert row.targeted == ("target" in arguments) and row.norms == tuple(filter(
        lambda norm: takes_norm(name, norm), attacks.NORMS))


def takes_norm(name: str, norm: str) -> bool:
    try:
        attacks.build_attack(name, eps=0.1, norm=norm, class_weights=[1.0])
    except ValueError:
        return False
    return True


def test_corruptions_are_of_the_kinds_that_their_package_names():
    package = pytest.importorskip("imagecorruptions")
    for kind in ("noise", "blur", "weather", "digital"):
        assert [name for name, row in catalogue.CORRUPTIONS.items() if row.kind == kind] == (
            package.get_corruption_names(kind))


@pytest.mark.parametrize("listed", catalogue.TABLES)
def test_a_table_has_a_line_for_each_name(listed, capsys):
    rows = main(["--list", listed])["rows"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [line.split()[1] for line in lines] == list(rows) == list(catalogue.TABLES[listed])
    assert all(len(line) <= 160 for line in lines)


def test_figures_are_written_as_people_write_them(capsys):
    assert main(["--list", "models"])["rows"]["deeplabv3_mobilenet"]["parameters"] == 5_113_877
    assert "| 5,113,877 " in capsys.readouterr().out
    assert main(["--list", "attacks"])["rows"]["ensemble"]["in all"] == 2700


@pytest.mark.parametrize(("argv", "said"), [
    (["--list", "networks"], "--list: invalid choice: 'networks' (choose from models, datasets, attacks"),
    (["--list"], "--list: expected one argument"),
    (["--list", "models", "--lr", "0.1"], "--list and --version only print: leave out --lr"),
    (["--version", "--test_only"], "--list and --version only print: leave out --test_only")])
def test_what_it_has_no_table_of_and_other_flags_are_refused(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and said in line


def test_version_tells_what_a_report_needs(capsys):
    found = main(["--version", "--list", "models"])
    said = capsys.readouterr().out.splitlines()
    assert found["version"]["robust-segmentation"].startswith(f"{VERSION}, commit ")
    assert found["version"]["torch"] == torch.__version__ and found["version"]["python"] in sys.version
    assert f"torch: {torch.__version__}" in said and said[len(found["version"])] == ""
    assert found["rows"] and any(line.startswith("| deeplabv3_mobilenet") for line in said)


def test_packages_are_those_that_a_run_requires(root):
    needed, _ = (root / "requirements.txt").read_text().split("# development\n")
    names = set(re.findall(r"^([\w-]+)[=<>]", needed, re.MULTILINE))
    extra = (root / "requirements-extra.txt").read_text() + (root / "Makefile").read_text()
    assert names <= {"torch", *versions.PACKAGES}
    assert all(name in extra for name in {*versions.PACKAGES} - names)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("no-such-package",))
    assert versions.find_versions()["no-such-package"] == "not installed"


@pytest.mark.parametrize("gpus", [["NVIDIA H100"], ["NVIDIA H100", "NVIDIA A100"], []])
def test_devices_are_named(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: gpus[index])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    said = versions.describe_device()
    assert f"{torch.get_num_threads()} threads" in said
    assert ", ".join(gpus) in said and ("no GPU is visible" in said) == (not gpus)


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True,
                   capture_output=True)


def test_a_commit_is_that_of_the_clone_alone(tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "a.py").write_text("1")
    assert versions.find_commit(clone) == "unknown"
    git(clone, "init")
    assert versions.find_commit(clone) == "unknown"  # nothing is committed
    git(clone, "add", "a.py")
    git(clone, "commit", "-m", "first")
    git(clone, "tag", "v1")
    assert re.fullmatch("[0-9a-f]{12}", commit := versions.find_commit(clone))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # as in a hook of git
    assert versions.find_commit(clone) == commit
    (clone / "a.py").write_text("2")
    assert versions.find_commit(clone) == f"{commit} with uncommitted changes"
    (clone / "copied").mkdir()
    assert versions.find_commit(clone / "copied") == "unknown"  # a copy within someone's repository
    monkeypatch.setenv("PATH", "")
    assert versions.find_commit(clone) == "unknown"


def test_answer_needs_no_command_line(capsys):
    assert answer("corruptions")["rows"]["fog"] == {"kind": "weather", "does": "fog of changing density"}
    assert "| fog " in capsys.readouterr().out
