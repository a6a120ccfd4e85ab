"""What a hostile file could do, in one place: checkpoints, options in them, records, names of files, our own source.

Archives are in tests/datasets/test_download.py, weights from the internet in tests/network/test_pretrained.py, what
goes to a browser in tests/utils/test_visualizer.py.
"""
import ast
import builtins
import codecs
import copy
import csv
import io
import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.options import read_call
from engine.report import figures
from engine.run.folder import Run
from main import main
from tests import thin
from tests.calls import options_of
from utils import checkpoint
from utils.errors import UserError
from utils.logging import log_to_file, logger, start_log, stop_log
from utils.text import escape_markdown, escape_unprintable, is_file_name

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--dataset", "synthetic", "--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--crop_size", "65",
         "--batch_size", "2", "--num_workers", "0", "--val_batch_size", "16"]


# Checkpoints: nothing in them is run, nothing but data comes out of them, and each bad one is one line.

class Call:
    """Pickles to a call of `function`, with a state for what it returns."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


SCALAR, REBUILD = np._core.multiarray.scalar, np._core.multiarray._reconstruct
TOUCH = "from pathlib import Path; Path('{witness}').touch()"
# Each gets the path of a witness, which appears if anything is run.
CODE = {
    "os.system": lambda witness: Call(os.system, f"touch {witness}"),
    "subprocess.Popen": lambda witness: Call(subprocess.Popen, ["touch", str(witness)]),
    "eval": lambda witness: Call(eval, f"open({str(witness)!r}, 'w')"),
    "exec": lambda witness: Call(exec, TOUCH.format(witness=witness)),
    "__import__": lambda witness: Call(builtins.__import__, "antigravity"),
    "open": lambda witness: Call(open, str(witness), "w"),
    "Path.touch": lambda witness: Call(Path.touch, witness),
    "getattr": lambda witness: Call(getattr, torch.Tensor, "__class__"),
    "codecs.open": lambda witness: Call(codecs.open, str(witness), "w"),
    "Tensor.tofile": lambda witness: Call(np.ndarray.tofile, np.zeros(1), str(witness)),
    "torch.save": lambda witness: Call(torch.save, [], str(witness)),
    "torch.load": lambda witness: Call(torch.load, str(witness)),
    "a whole model": lambda witness: torch.nn.Linear(1, 1),
}
BYTES = pickle.dumps(Call(os.system, "false"), 2)
# What the names that are allowed could be used for, if they were numpy's own.
NUMPY = {
    "an object scalar of pickled bytes": Call(SCALAR, Call(np.dtype, "O"), BYTES),
    "an object scalar": Call(SCALAR, Call(np.dtype, "O"), ["anything"]),
    "two gigabytes": Call(SCALAR, Call(np.dtype, "V2147483647"), None),
    "a record with an object": Call(SCALAR, Call(np.dtype, [("a", "O")]), b"AAAAAAAA"),
    "a float64 with fields": Call(np.dtype, "f8", False, True, state=(3, "<", None, ("a",), {"a": 5}, -1, -1, 0)),
    "an array of objects": np.array([print], dtype=object),
    "half a float": Call(SCALAR, np.dtype("f8"), b"1234"),
    "an array of more than there is": Call(REBUILD, np.ndarray, (0,), b"b",
                                           state=(1, (2**40,), np.dtype("f8"), False, b"12345678")),
    "an array of pointers": Call(REBUILD, np.ndarray, (0,), b"b", state=(1, (1,), "O", False, b"12345678")),
}
WRITERS = {
    "zip": torch.save,
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value, 2)),
}


def refused_checkpoint(path) -> str:
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize("place", ["model_state", "options", "best_score", "anything"])
@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("kind", CODE)
def test_no_code_in_a_checkpoint_is_run(tmp_path, kind, written, place):
    witness, path = tmp_path / "witness", tmp_path / "evil.pth"
    try:
        WRITERS[written]({"model_state": {"w": torch.ones(1)}, place: CODE[kind](witness)}, path)
    except pickle.PicklingError:
        pytest.skip("this one can't be written so")
    assert "could run code" in refused_checkpoint(path)
    assert not witness.exists()


def test_the_files_above_would_run(tmp_path):
    """Else the test before says nothing."""
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(CODE["os.system"](tmp_path / "witness"), 2))
    pickle.loads((tmp_path / "evil.pkl").read_bytes())
    assert (tmp_path / "witness").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NUMPY)
@pytest.mark.parametrize("written", ["zip", "legacy"])
def test_of_numpy_only_numbers_and_text_come_in(tmp_path, kind, written):
    path = tmp_path / "odd.pth"
    WRITERS[written]({"model_state": {}, "best_score": NUMPY[kind]}, path)
    refused_checkpoint(path)


def test_the_numpy_score_of_vainf_and_sam_at_is_a_float(tmp_path):
    """Which names are allowed, and that they call nothing: tests/utils/test_inert.py."""
    path = tmp_path / "vainf.pth"
    torch.save({"model_state": {}, "best_score": np.float64(0.625)}, path)
    assert type(checkpoint.load(path)["best_score"]) is float and checkpoint.load(path)["best_score"] == 0.625


def a_tar(path):
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(name))


def a_script(path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)


def compressed(path):
    """400 KB that claim 40 MB."""
    torch.save({"model_state": {"w": torch.zeros(10_000_000)}}, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)


def claiming_more(path):
    """A storage of more numbers than the file holds."""
    torch.save({"model_state": {"w": torch.arange(4.0)}}, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in members.items():
            target.writestr(name, content.replace(b"K\x04", b"J" + struct.pack("<i", 10**8)))


def shadowed(path):
    """A dict whose method `items` the file replaces."""
    torch.save({"model_state": Call(OrderedDict, [("w", torch.ones(1))], state={"items": "no method"})}, path)


def written(value):
    return lambda path: torch.save(value, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [
    a_tar, a_script, compressed, claiming_more, shadowed,
    written({"model_state": {}, "x": Call(bytearray, 10**13)}),                   # MemoryError
    lambda path: path.write_bytes(pickle.dumps({"a": 2**70, "b": [1]}, 2)[:-9]),  # torn
    lambda path: path.write_bytes(b"\x80\x02J\x01"),                              # half an int: struct.error
    lambda path: path.write_bytes(b"\x80\x02" + b"]" * 5 + b"a" * 9),             # more is taken than there is
    written({"model_state": {1: torch.ones(1)}, "state": Call(torch.Size, "ab")}),
    written({"model_state": {"w": Call(torch._utils._rebuild_tensor_v2, torch.ones(1).untyped_storage(), 0, (2**60,),
                                       (1,), False, None)}}),
])
def test_a_broken_or_boundless_checkpoint_is_one_line(tmp_path, write):
    path = tmp_path / "odd.pth"
    write(path)
    refused_checkpoint(path)


def test_deep_nesting_is_just_data(tmp_path):
    """Read without recursion, and nothing of ours walks it."""
    path = tmp_path / "deep.pth"
    content = b"\x80\x02}(X\x0b\x00\x00\x00model_state}X\x01\x00\x00\x00x" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"u."
    before, after = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}], []
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in before) + content + pickle.dumps(after, 2))
    assert set(checkpoint.load(path)) == {"model_state", "x"}


# A checkpoint's options and training state, in --test_only and --continue_training.

@pytest.fixture(scope="module", autouse=True)
def thin_network():
    with thin.installed():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run, called exp."""
    folder = tmp_path_factory.mktemp("runs")
    main([*SMALL, "--output_dir", str(folder), "--total_itrs", "2", "--val_interval", "2"])
    return folder


def hostile(trained, path, change) -> Path:
    """The run's latest checkpoint after change(it), in a file that knows nothing of that run."""
    (latest,) = (trained / "exp").glob("latest_*.pth")
    loaded = torch.load(latest, weights_only=True)
    change(loaded)
    torch.save(loaded, path)
    return path


BAD_OPTIONS = {
    "data_root": 5, "total_itrs": "x", "dataset": ["voc"], "model": "os.system", "crop_size": float("nan"),
    "batch_size": 10**300, "lr": "1e999999999", "separable_conv": "yes", "adv": 1, "random_seed": -1, "year": None,
    "train_alpha": "eps/0", "norm": {}, "optimizer": torch.ones(2), "output_stride": "16", "rho": True,
    "val_interval": [1] * 1000, "lr_policy": "__import__('os')", "print_interval": 0,
}


@pytest.mark.parametrize("mode", ["--test_only", "--continue_training"])
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_an_option_that_no_command_line_sets_is_one_line(tmp_path, trained, capsys, name, mode):
    path = hostile(trained, tmp_path / "evil.pth", lambda loaded: loaded["options"].update({name: BAD_OPTIONS[name]}))
    with pytest.raises(SystemExit) as stop:
        main([mode, "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--num_workers", "0"])
    err = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and err.count("\n") == 0 and f"--{name}" in err and "evil.pth" in err
    assert not (tmp_path / "out").exists()


def test_what_a_stranger_may_not_choose_is_not_taken(tmp_path, trained, capsys):
    """Where things are written, which attack runs, what is deleted, which server is called: a call's own alone."""
    foreign = {"exp_name": "../../evil", "output_dir": str(tmp_path / "evil"), "attack": "__import__('os')",
               "overwrite": True, "gpu_id": "$(touch x)", "enable_vis": True, "report": ["x"], "download": True,
               "target_class": "/etc/passwd", "eps": "x", "ckpt": "/dev/zero", "unknown": "<script>", 5: 5}
    path = hostile(trained, tmp_path / "evil.pth", lambda loaded: loaded["options"].update(foreign))
    results = main(["--test_only", "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--num_workers", "0",
                    "--val_images", "1"])
    assert {name: results["options"].get(name) for name in ("exp_name", "attack", "overwrite", "enable_vis")} == {
        "exp_name": "exp", "attack": ["none"], "overwrite": False, "enable_vis": False}
    assert {path.name for path in tmp_path.iterdir()} == {"evil.pth", "out"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["exp"]


def test_a_download_goes_where_the_call_says(tmp_path, trained, capsys):
    """data_root, from a stranger, may be read; nothing is fetched into it."""
    options = options_of("--test_only", "--download", saved={"data_root": str(tmp_path), "crop_size": 99})
    assert (options.data_root, options.crop_size) == ("./datasets/data", 99)


@pytest.mark.parametrize("value", [[1, 2], "text", torch.ones(2), 7], ids=str)
def test_options_that_are_no_dict_are_one_line(tmp_path, trained, capsys, value):
    path = hostile(trained, tmp_path / "evil.pth", lambda loaded: loaded.update(options=value))
    with pytest.raises(SystemExit) as stop:
        main(["--test_only", "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--num_workers", "0"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def _of_the_optimizer(loaded):
    for values in loaded["optimizer_state"]["state"].values():
        values["momentum_buffer"] = torch.ones(3)


BAD_STATE = {
    "iteration": lambda loaded: loaded.update(cur_itrs="x"),
    "endless iteration": lambda loaded: loaded.update(cur_itrs=float("inf")),
    "score": lambda loaded: loaded.update(cur_itrs=[], best_score={}),
    "no dict": lambda loaded: loaded.update(optimizer_state=5),
    "groups": lambda loaded: loaded["optimizer_state"].update(param_groups=[1, 2]),
    "momentum": _of_the_optimizer,
    "normalization": lambda loaded: loaded.update(normalization={"mean": "abc", "std": [0, 0, 0]}),
    "weights": lambda loaded: loaded["model_state"].update(x="\x1b[2Jtext"),
    "classes": lambda loaded: loaded.update(class_names=["\x1b]0;title\x07", "<script>"]),
    "classes of numbers": lambda loaded: loaded.update(class_names=torch.ones(2)),
    "images of numbers": lambda loaded: loaded.update(train_images=torch.ones(2), cur_itrs="x"),
    "random numbers": lambda loaded: loaded.update(ranks=[{"rng": {"torch": torch.ones(1)}, "buffers": []}]),
    "measured": lambda loaded: loaded.update(measured={"Loss": "x"}),
    "an iteration below 0": lambda loaded: loaded.update(cur_itrs=-1),
}


@pytest.mark.parametrize("kind", BAD_STATE)
def test_a_training_state_of_anything_else_is_one_error(tmp_path, trained, capsys, kind):
    path = hostile(trained, tmp_path / "evil.pth", BAD_STATE[kind])
    with pytest.raises(SystemExit) as stop:
        main(["--continue_training", "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--total_itrs", "3",
              "--num_workers", "0"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "evil.pth" in err and "\x1b" not in out + err and "\x07" not in out + err


def test_a_schedule_brings_no_attributes(tmp_path, trained):
    """torch's own load_state_dict() sets whatever the file names, methods too."""
    path = hostile(trained, tmp_path / "odd.pth",
                   lambda loaded: loaded["scheduler_state"].update(step="no method", optimizer=1, get_lr=2))
    main(["--continue_training", "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--total_itrs", "3",
          "--num_workers", "0", "--val_interval", "3"])
    assert list((tmp_path / "out" / "exp").glob("latest_*.pth"))


def test_weights_that_are_not_finite_are_one_line(tmp_path, trained, capsys):
    def poison(loaded):
        for tensor in loaded["model_state"].values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))

    path = hostile(trained, tmp_path / "nan.pth", poison)
    with pytest.raises(SystemExit) as stop:
        main(["--test_only", "--ckpt", str(path), "--output_dir", str(tmp_path / "out"), "--num_workers", "0",
              "--attack", "fgsm", "--val_images", "1"])
    assert stop.value.code == 1 and "not finite" in capsys.readouterr().err


# Names of images and runs, which a stranger's data set or folder brings.

NAMES = ["; rm -rf ~", "$(touch witness)", "-rf", "<img src=x onerror=alert(1)>", "a\nb", "\x1b[31mred\x1b[0m",
         "`id`|x", "=cmd|' 'A0", "${HOME}", "% ..%2f", "\u202egnp.", "n" * 200, "a [b](c)"]


@pytest.fixture(scope="module")
def odd_tree(tmp_path_factory):
    """A CamVid with two images for training, and one validation image of each odd name."""
    root = tmp_path_factory.mktemp("odd") / "data"
    names = {"train": ["0", "1"], "val": NAMES}
    for split, stems in names.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
            for k, stem in enumerate(stems):
                picture = np.full((70, 70) if "annot" in folder else (70, 70, 3), k % 5, np.uint8)
                Image.fromarray(picture).save(root / folder / f"{stem}.png")
    return root


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_odd_names_of_images_and_runs_stay_names(tmp_path, odd_tree, capsys, monkeypatch):
    """Tested with pictures, then reported: pictures have the images' names, nothing is written elsewhere or run, JSON
    is JSON, a table has its columns, and no escape code reaches the terminal."""
    monkeypatch.chdir(tmp_path)
    run = "$x$ | <b>`$(touch y)` \\frac $\\frac"
    flags = ["--data_root", str(odd_tree), "--output_dir", "runs", "--exp_name", run]
    main([*SMALL, *flags, "--dataset", "camvid", "--total_itrs", "1"])
    main(["--test_only", *flags, "--num_workers", "0", "--save_val_results", "--attack", "fgsm", "--eps", "4/255"])
    main(["--report", run, "--output_dir", "runs"])
    out, err = capsys.readouterr()
    assert "\x1b" not in out.replace("\x1b[A", "") and "Traceback" not in err
    folder = tmp_path / "runs" / run
    assert {path.name for path in tmp_path.iterdir()} == {"runs"} and list((tmp_path / "runs").iterdir()) == [folder]
    kinds = ("image", "target", "pred", "overlay", "perturbation")
    for pictures in (folder / "val_results").iterdir():
        assert {path.name for path in pictures.iterdir()} == {f"{name}_{kind}.png" for name in NAMES for kind in kinds}
    for record in (folder / "records").iterdir():
        lines = [json.loads(line) for line in record.read_text().split("\n")[:-1]]
        assert [line["image"] for line in lines[1:]] == sorted(NAMES)
    assert json.loads((folder / "results.json").read_text())["images"] == sorted(NAMES)
    report = (folder / "report" / "report.md").read_text()
    assert "<b>" not in report and "\x1b" not in report
    table = [line for line in report.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table[:4]}) == 1
    assert len(list((folder / "report").glob("*.png"))) == 2  # curves and a sheet, for all the dollars in their titles


@pytest.mark.parametrize("name", ["n" * 251, "../up", "/root", "a/b", "a\\b", ""])
def test_names_that_no_picture_can_have(name):
    assert not is_file_name(name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_an_image_with_too_long_a_name_is_one_line(tmp_path, odd_tree, capsys, trained):
    root = tmp_path / "data"
    shutil.copytree(odd_tree, root)
    for folder in ("val", "valannot"):
        (root / folder / "0.png").write_bytes((root / folder / "-rf.png").read_bytes())
        (root / folder / "0.png").rename(root / folder / f"{'n' * 251}.png")
    main([*SMALL, "--dataset", "camvid", "--data_root", str(odd_tree), "--output_dir", str(tmp_path / "runs"),
          "--total_itrs", "1"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["--test_only", "--data_root", str(root), "--output_dir", str(tmp_path / "runs"), "--num_workers", "0",
              "--save_val_results"])
    assert stop.value.code == 2 and "rename it" in capsys.readouterr().err


@pytest.mark.parametrize("name", [
    "with space", "it's", 'a"b', "$(touch x)", "-rf", "--overwrite", "`id`", "a;b", "*", "~", "ü"])
def test_the_printed_command_is_one_a_shell_can_take(tmp_path, name):
    """A shell makes of it exactly what is meant, and argparse the same names."""
    given = read_call([f"--exp_name={name}", f"--output_dir={tmp_path}"]).given
    command = Run(tmp_path / name).continue_command(given)
    echoed = subprocess.run(["/bin/sh", "-c", "printf '%s\\0' " + command], capture_output=True, check=True,
                            cwd=tmp_path)
    words = echoed.stdout.decode().split("\0")[:-1]
    assert words == shlex.split(command) and not list(tmp_path.iterdir())
    given = read_call(words[2:]).given
    assert (given["exp_name"], given["output_dir"]) == (name, str(tmp_path))


def test_no_line_of_the_log_gives_a_terminal_orders(tmp_path, capsys):
    start_log()
    logger.info("before %s", "\x1b[2J\x07\r\x9b1m")
    log_to_file(tmp_path / "log.txt")
    logger.info("a\tb\n%s é 日本", "\udcff\u202e")
    logger.error("error: %s", "\x1b]0;title\x07")
    stop_log()
    out, err = capsys.readouterr()
    assert out == "before \\x1b[2J\\x07\\r\\x9b1m\na\tb\n\\udcff\\u202e é 日本\n"
    assert err == "error: \\x1b]0;title\\x07\n"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == out + err


@pytest.mark.parametrize(("text", "shown"), [
    ("deeplabv3_resnet50", "deeplabv3_resnet50"), ("a|b", "a\\|b"), ("a\nb", "a\\\\nb"), ("<b>x", "&lt;b>x"),
    ("`x`", "\\`x\\`"), ("[a](b)", "\\[a\\](b)"), ("\\|", "\\\\\\|"), ("0.4 (>= 0.3)", "0.4 (>= 0.3)")])
def test_text_stays_text_in_markdown(text, shown):
    assert escape_markdown(text) == shown


def test_text_that_needs_no_change_has_none():
    assert escape_unprintable("sky ü 日本 - [Val]") == "sky ü 日本 - [Val]"


@pytest.mark.parametrize("name", ["a$b$c", "$\\frac", "$$", "x\ny", "\x00\x1b", "\udcff", "_^{"])
@pytest.mark.filterwarnings("error")
def test_figures_take_any_name(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    figures.draw_curves(tmp_path / "a.png", [figures.Panel(name, "linf", {name: [(0.0, 50.0, 50.0)]})])
    figures.draw_sheet(tmp_path / "b.png", name, {name: {name: tmp_path / "picture.png"}})
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


# Records of a stranger's run, read by --report.

HEADER = {"format": 1, "attack": {"attack": "none", "norm": None, "eps": 0.0, "steps": 0}, "subject": {"weights": "a"},
          "class_names": ["road", "sky"]}
LINE = {"image": "one", "intersection": [1, 2], "union": [2, 3], "pixels": [2, 2], "radius": 0.0, "loss": 1.0,
        "forwards": 1, "backwards": 0}


def changed(value, **changes):
    """A copy with attack__eps=... changed in the dict `attack`."""
    value = copy.deepcopy(value)
    for key, new in changes.items():
        *folders, last = key.split("__")
        target = value
        for folder in folders:
            target = target[folder]
        target[last] = new
    return value


def record(tmp_path, header=HEADER, *lines, name="clean"):
    folder = tmp_path / "run" / "records"
    folder.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in (header, *(lines or (LINE,)))]
    (folder / f"{name}.jsonl").write_text("\n".join(texts) + "\n")


DEEP = "[" * 100_000 + "]" * 100_000
BAD_HEADERS = {
    "no JSON": "{", "deep": DEEP, "less deep": changed(HEADER, subject={"a": json.loads("[" * 50 + "]" * 50)}),
    "eps": changed(HEADER, attack__eps="0"), "eps NaN": json.dumps(HEADER).replace("0.0", "NaN"),
    "eps infinite": json.dumps(HEADER).replace("0.0", "1e999"), "eps -1": changed(HEADER, attack__eps=-1),
    "subject infinite": json.dumps(HEADER).replace('"a"', "1e999"),
    "attack": changed(HEADER, attack__attack="../../x"), "a list": changed(HEADER, attack__attack=["pgd"]),
    "norm": changed(HEADER, attack__attack="pgd", attack__norm="a/b"), "steps": changed(HEADER, attack__steps="1"),
    "restarts": changed(HEADER, attack__restarts=None), "target": changed(HEADER, attack__target=2),
    "step size": changed(HEADER, attack__step_size="x"), "huge": changed(HEADER, attack__steps=10**400),
    "classes": changed(HEADER, class_names=["a", "a"]), "no class": changed(HEADER, class_names=[]),
    "class of 1": changed(HEADER, class_names=[1, 2]), "twice": '{"format": 1, ' + json.dumps(HEADER)[1:],
    "more digits than Python reads": json.dumps(HEADER).replace("0.0", "1" * 5000),
}
BAD_LINES = {
    "deep": DEEP, "a count too few": changed(LINE, union=[1]), "negative": changed(LINE, pixels=[-1, 1]),
    "huge": changed(LINE, pixels=[10**30, 1]), "true": changed(LINE, pixels=[True, 1]),
    "text": changed(LINE, loss="1"), "no image": changed(LINE, image=None),
    "NaN": json.dumps(LINE).replace("1.0", "NaN"),
    "infinite": json.dumps(LINE).replace("1.0", "-1e999"), "beyond floats": changed(LINE, radius=10**400),
    "at_target": changed(LINE, at_target="x"), "twice": '{"image": "two", ' + json.dumps(LINE)[1:],
    "escape codes": changed(LINE, image="\x1b[2J\nerror: all is well", loss=None),
}


@pytest.mark.parametrize("kind", [*(("header", kind) for kind in BAD_HEADERS), *(("line", kind) for kind in BAD_LINES)],
                         ids=str)
def test_a_record_of_anything_else_is_one_line(tmp_path, capsys, kind):
    place, kind = kind
    record(tmp_path, BAD_HEADERS[kind]) if place == "header" else record(tmp_path, HEADER, BAD_LINES[kind])
    with pytest.raises(SystemExit) as stop:
        main(["--report", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.count("\n") == 1 and "clean.jsonl, line" in err and "damaged" in err
    assert "\x1b" not in err and not (tmp_path / "run" / "report").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_records_that_are_no_files_are_not_read(tmp_path, capsys):
    record(tmp_path)
    os.mkfifo(tmp_path / "run" / "records" / "pipe.jsonl")
    (tmp_path / "run" / "records" / "folder.jsonl").mkdir()
    assert main(["--report", str(tmp_path / "run")])["images"] == ["one"]


def test_the_report_of_a_strangers_records_reads_and_writes_nothing_elsewhere(tmp_path, capsys):
    """Names of images that lead elsewhere have no pictures; names of classes are text in every form of the report."""
    names = ["../secret", "=1+1", "a|b", "\udcff"]
    header = changed(HEADER, class_names=["<script>alert(1)</script>", "=HYPERLINK(1)"])
    attacked = changed(header, attack={"attack": "pgd", "attack_loss": "ce", "norm": "linf", "eps": 0.5, "steps": 1})
    for name, each in (("clean", header), ("=pgd", attacked)):
        record(tmp_path, each, *(changed(LINE, image=image) for image in names), name=name)
        pictures = tmp_path / "run" / "val_results" / name
        pictures.mkdir(parents=True)
        for kind in ("image", "target", "pred", "perturbation"):
            Image.new("RGB", (8, 8)).save(pictures.parent / f"secret_{kind}.png")
    report = main(["--report", str(tmp_path / "run")])
    folder = tmp_path / "run" / "report"
    assert report["images"] == names and {path.name for path in folder.iterdir()} == {
        "report.html", "report.md", "report.csv", "report.json", "curves.png"}
    assert "<script>" not in (folder / "report.md").read_text()
    cells = [cell for row in csv.reader(io.StringIO((folder / "report.csv").read_text())) for cell in row]
    assert "'=pgd" in cells and not [cell for cell in cells if cell.startswith("=")]
    json.loads((folder / "report.json").read_text())


# Our own source: what would run a stranger's text or pickle is nowhere in it.

OURS = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in {
    "main.py", "predict.py", "export.py", "demo.py", "engine", "network", "datasets", "optim", "attacks", "metrics",
    "utils", "benchmarks"})
# Objects that ranks of one run send one another are pickled by torch.distributed (utils/distributed.py): they come from
# this program, started by the same user, over a port that torchrun opened, and from no file; nothing else sends them.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "yaml.load", "tempfile.mktemp",
    "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load", "importlib.import_module",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
    "subprocess.getoutput", "shutil.unpack_archive",
}


# Where a name is right all the same: what is started and imported there is written in our source.
ALLOWED = {"utils/side_by_side.py": {"subprocess.Popen"}, "utils/optional.py": {"importlib.import_module"},
           "benchmarks/scaling.py": {"subprocess.run"}, "engine/about/versions.py": {"subprocess.run"}}


def dangers(source: str) -> list[str]:
    """What in a piece of source may run a stranger's text, unpack or unpickle it; (line) name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [f"{node.lineno} {name}" for name in names if name in FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        wrong = name in FORBIDDEN or any(given.get(word, "False") != "False" for word in ("shell", "allow_pickle"))
        wrong |= name == "torch.load" and given.get("weights_only") != "True"
        wrong |= name.endswith((".extractall", ".extract")) and given.get("filter") != "'data'"
        found += [f"{node.lineno} {name}"] * wrong
    return found


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_unpacked_or_given_to_a_shell(path):
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    found = dangers(path.read_text(encoding="utf-8"))
    assert [danger for danger in found if danger.split()[1] not in allowed] == []


@pytest.mark.parametrize("line", [
    "subprocess.run('x', shell=True)", "os.system('x')", "os.popen('x')", "eval('x')", "exec('x')", "pickle.load(f)",
    "from pickle import loads", "torch.load(p)", "torch.load(p, weights_only=False)", "yaml.load(f)",
    "tar.extractall(d)", "tar.extractall(d, filter='tar')", "tempfile.mktemp()", "__import__('x')",
    "np.load(p, allow_pickle=True)"])
def test_the_search_finds_each_danger(line):
    assert len(dangers(line)) == 1


def test_the_search_reads_all_of_it():
    assert len(OURS) > 60 and not dangers("torch.load(p, weights_only=True)\ntar.extractall(d, filter='data')")
