"""A run that was stopped, anywhere, and continued ends with the same bits as one that never was."""
import csv
import gc
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import bad_images
from engine.training.trainer import Trainer
from main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread_in_module")]
TOTAL = 8  # two epochs and a half of the three batches; lines at 3 and 6, validations at 4 and 8
FLAGS = ["--dataset", "camvid", "--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--crop_size", "65",
         "--batch_size", "2", "--lr", "0.1", "--backbone_lr_mult", "1", "--print_interval", "3", "--val_interval", "4",
         "--total_itrs", str(TOTAL)]
TEST = ["--attack", "fgsm", "--eps", "2/255", "--num_workers", "0"]
ADV = ["--adv", "--train_step", "1"]  # from a random start
RECIPES = {
    "sgd": [], "adam": ["--optimizer", "adam"], "SAM": ["--optimizer", "SAM", "--rho", "0.1"],
    "SAM over adam": ["--optimizer", "SAM", "--base_optimizer", "adam"],
    "sgd adv": ADV, "adam adv": ["--optimizer", "adam", *ADV], "SAM adv": ["--optimizer", "SAM", *ADV],
    "late ASAM": ["--optimizer", "SAM", "--adaptive", "--sam_start_itr", "0.5"],
    "LookSAM": ["--optimizer", "LookSAM", "--sam_interval", "3"], "FriendlySAM": ["--optimizer", "FriendlySAM"],
    "AWP": [*ADV, "--awp_gamma", "0.01"], "step schedule": ["--lr_policy", "step", "--step_size", "3"],
    "adamw": ["--optimizer", "adamw", "--lr_policy", "cosine", "--warmup_itrs", "6", "--clip_grad", "0.5"],
    "nesterov": ["--nesterov", "--momentum", "0.8", "--loss_type", "ohem", "--label_smoothing", "0.1"],
    "robust validation": ["--val_attack", "pgd", "--val_attack_images", "2"],
    "SAM, Lovasz": ["--optimizer", "SAM", "--loss_type", "lovasz", "--clip_grad", "0.5", "--warmup_itrs", "3"],
    "average": ["--ema", "0.9"], "SAM, average": ["--optimizer", "SAM", "--rho", "0.1", "--ema", "0.5"],
    "TRADES": [*ADV, "--adv_loss", "trades"], "SAM, TRADES": ["--optimizer", "SAM", *ADV, "--adv_loss", "trades"],
    "dice": ["--loss_type", "dice", "--optimizer", "adamw"],
    "focal, weights": ["--loss_type", "focal_loss", "--class_weights", "balanced"],
    "weights, smoothing, in parts": ["--class_weights", "balanced", "--label_smoothing", "0.1", "--batch_size", "4",
                                     "--accumulate", "2", "--optimizer", "SAM"],
    "SAM, best by robust": ["--optimizer", "SAM", "--val_attack", "pgd", "--val_attack_images", "2", "--best_by",
                            "robust"],
    "TRADES in parts, average": [*ADV, "--adv_loss", "trades", "--batch_size", "4", "--accumulate", "2", "--ema",
                                 "0.9"],
    "bfloat16 in parts": ["--amp", "--batch_size", "4", "--accumulate", "2"],
}
REAL = "SAM adv"  # with the real network; the others with a thin one


@pytest.fixture(scope="module", autouse=True)
def _rising(scores):
    """The last validation is the best, where a test says nothing else."""
    scores.update({3: 0.1, 4: 0.1, 6: 0.2, TOTAL: 0.2})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six noisy training images and two for validation."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for folder, shape, high in ((split, (70, 90, 3), 256), (f"{split}annot", (70, 90), 12)):
            (root / folder).mkdir()
            for k in range(count):
                Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(root / folder / f"{k}.png")
    return root


@pytest.fixture
def run(data, tmp_path):
    """A function that trains the run `name` with these flags, or continues it, and returns its results."""
    def call(name, *flags):
        recipe = [] if "--continue_training" in flags else [*FLAGS, "--data_root", str(data)]
        return main([*recipe, *TEST, "--output_dir", str(tmp_path), "--exp_name", name, *flags])
    return call


@pytest.fixture
def stopped(monkeypatch, run):
    """Like run, but a signal comes in the iteration `itr`, from 1, or, with validating, in the validation after it."""
    def call(name, *flags, itr, validating=False, signum=signal.SIGTERM):
        def step(trainer, *batch):
            if trainer.cur_itrs + 1 == itr and not validating:
                os.kill(os.getpid(), signum)
            return plain_step(trainer, *batch)

        def validate_and_save(trainer):
            score = trainer.validate
            if trainer.cur_itrs == itr and validating:
                trainer.validate = lambda it: os.kill(os.getpid(), signum) or score(it)
            plain_validation(trainer)

        plain_step, plain_validation = Trainer.step, Trainer.validate_and_save
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(Trainer, "step", step)
            patch.setattr(Trainer, "validate_and_save", validate_and_save)
            run(name, *flags)
        assert stop.value.code == 128 + signum
        del stop
        gc.collect()  # the loaders in its traceback, before the next ones start their processes
    return call


def state_of(folder, kind="latest") -> dict:
    """A checkpoint as {path of keys: leaf}, without what tells how the run was called."""
    leaves = {}

    def walk(value, path):
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        else:
            leaves[path] = value
            return
        for key, item in items:
            walk(item, f"{path}/{key}")

    file, = folder.glob(f"{kind}_*.pth")
    state = torch.load(file, weights_only=True)
    for name in ("ckpt", "continue_training", "exp_name", "num_workers", "output_dir"):
        state["options"].pop(name, None)
    walk(state, "")
    return leaves


def assert_same(one, other, kind="latest"):
    one, other = state_of(one, kind), state_of(other, kind)
    assert one.keys() == other.keys() and len(one) > (200 if sum("model_state" in key for key in one) < 100 else 300)
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, f"{kind}{key}: {value} and {other[key]}"


def lines(folder) -> dict[str, str]:
    """What log.txt says of each iteration, without time and memory, and of validations; what comes last holds."""
    text = (folder / "log.txt").read_text()
    found = dict(re.findall(r"^Epoch \d+, Itrs (\d+)/\d+, (.*), [\d.e+]+ images/s", text, re.MULTILINE))
    scores = re.findall(r"^(Overall Acc|Mean Acc|FreqW Acc|Mean IoU): (.*)$", text, re.MULTILINE)
    return found | dict(scores) | {"table": text[text.index("| Attack"):text.index("Results written")],
                                   "history": read_history(folder)}


def read_history(folder) -> list[dict]:
    """The rows of history.csv, without time and memory."""
    with open(folder / "history.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in ("Images/s", "Memory")}
                for row in csv.DictReader(file)]


def rows(results: dict) -> list[dict]:
    return results["results"]


@pytest.fixture
def whole(run):
    """A function that gives the results of a run that was never stopped."""
    return lambda *flags: run("whole", *flags)


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_and_continued_is_never_stopped(recipe, whole, run, stopped, tmp_path, capsys, monkeypatch, scores,
                                                       request):
    """Twice: inside an epoch and between two lines, then where the optimizer has a state. The best is the validation
    before both for every other recipe, the one after both for the rest.
    """
    if recipe == REAL:
        request.getfixturevalue("real_network")
    flags, best = RECIPES[recipe], (4, TOTAL)[list(RECIPES).index(recipe) % 2]
    monkeypatch.setitem(scores, 4, 0.3 if best == 4 else 0.1)
    results = whole(*flags)
    stopped("cut", *flags, itr=2)
    stopped("cut", "--continue_training", itr=5)
    capsys.readouterr()
    continued = run("cut", "--continue_training")
    out = capsys.readouterr().out
    assert "iteration 5" in out and "Itrs 6/8" in out and "Itrs 3/8" not in out
    for kind in ("latest", "best"):
        assert_same(tmp_path / "whole", tmp_path / "cut", kind)
    assert state_of(tmp_path / "cut", "best")["/cur_itrs"] == best
    assert rows(results) == rows(continued)
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut") and {"3", "6"} < lines(tmp_path / "cut").keys()
    told = [(row["Iteration"], row["Split"]) for row in read_history(tmp_path / "cut")]
    assert told == [("3", "train"), ("4", "val"), ("6", "train"), ("8", "val")]


@pytest.mark.parametrize("itr", range(1, TOTAL + 1))
def test_at_every_iteration(itr, data, run, stopped, tmp_path, whole_once):
    stopped("cut", *RECIPES["SAM adv"], itr=itr)
    assert rows(run("cut", "--continue_training")) == whole_once[0]
    assert_same(whole_once[1], tmp_path / "cut")
    assert_same(whole_once[1], tmp_path / "cut", "best")
    assert lines(whole_once[1]) == lines(tmp_path / "cut")


@pytest.fixture(scope="module")
def whole_once(data, tmp_path_factory, one_thread_in_module):
    """(rows, folder) of RECIPES["SAM adv"] in one go."""
    folder = tmp_path_factory.mktemp("runs")
    results = main([*FLAGS, *RECIPES["SAM adv"], *TEST, "--data_root", str(data), "--output_dir", str(folder)])
    return rows(results), folder / "exp"


@pytest.mark.parametrize("itr", [4, 8])
def test_in_a_validation(itr, run, stopped, tmp_path, whole_once):
    """The iteration isn't lost and its validation is made up for: best_* is the same too."""
    stopped("cut", *RECIPES["SAM adv"], itr=itr, validating=True)
    assert not list((tmp_path / "cut").glob("best_*")) or itr == 8
    assert rows(run("cut", "--continue_training")) == whole_once[0]
    assert_same(whole_once[1], tmp_path / "cut")
    assert_same(whole_once[1], tmp_path / "cut", "best")


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 0), (0, 1)])
def test_whatever_the_number_of_workers(before, after, run, stopped, tmp_path, whole_once):
    stopped("cut", *RECIPES["SAM adv"], "--num_workers", str(before), itr=5)
    run("cut", "--continue_training", "--num_workers", str(after))
    assert_same(whole_once[1], tmp_path / "cut")


def test_a_longer_total_rebuilds_the_schedule_and_says_so(run, tmp_path, capsys):
    run("short", "--total_itrs", "3")
    capsys.readouterr()
    run("short", "--continue_training", "--total_itrs", "6")
    out = capsys.readouterr().out
    assert "Changed: --total_itrs is 6 from here on, it was 3; the poly schedule is rebuilt for it" in out
    state = torch.load(next((tmp_path / "short").glob("latest_*")), weights_only=True)
    assert state["cur_itrs"] == 6 and state["scheduler_state"]["max_iters"] == 6
    rates = re.findall(r"Itrs (\d)/6.*lr=([\d.e-]+)", out)
    # The mean of the iterations 3, 4, 5 of 6, from 0.
    assert rates == [("6", f"{np.mean([0.1 * (1 - itr / 6) ** 0.9 for itr in (3, 4, 5)]):.3g}")]


def test_a_finished_run_is_only_evaluated(whole_once, capsys):
    before = {path.name: path.read_bytes() for path in whole_once[1].glob("*.pth")}
    results = main(["--continue_training", "--output_dir", str(whole_once[1].parent), *TEST])
    assert rows(results) == whole_once[0] and "Nothing to train" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in whole_once[1].glob("*.pth")} == before


def test_bad_images_are_left_out_again_without_being_looked_for(data, run, stopped, tmp_path, capsys, monkeypatch,
                                                                whole_once):
    """The same bits as if they had never been there."""
    shutil.copytree(data, tmp_path / "data")
    for folder in ("train", "trainannot", "val", "valannot"):
        Image.new("L", (90, 70), 40 * ("annot" not in folder)).save(tmp_path / "data" / folder / "2b.png")
    bad = tmp_path / "data" / "train" / "2b.png", tmp_path / "data" / "valannot" / "2b.png"
    for path in bad:
        path.write_bytes(path.read_bytes()[:50])
    stopped("cut", *RECIPES["SAM adv"], "--data_root", str(tmp_path / "data"), "--skip_bad_images", itr=5)
    assert "Skipped 1 of 7 training and 1 of 3 validation images (--skip_bad_images)" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(bad_images, "survey", None)  # nobody reads all
        results = run("cut", "--continue_training")
        again = main(["--test_only", "--output_dir", str(tmp_path), "--exp_name", "cut", *TEST])
    out = capsys.readouterr().out
    assert out.count("Skipped 1 of 7 training and 1 of 3 validation images (as before") == 1
    assert out.count("Skipped 1 of 3 validation images (as before") == 1
    one, other = (torch.load(next(folder.glob("latest_*")), weights_only=True)
                  for folder in (whole_once[1], tmp_path / "cut"))
    assert other["skipped_images"] == {"train": ["2b"], "val": ["2b"]}
    assert again["skipped_images"] == results["skipped_images"] == ["2b"] and again["images"] == ["0", "1"]
    for key, value in one["model_state"].items():
        assert torch.equal(value, other["model_state"][key]), key
    assert [row["Mean IoU"] for row in rows(results)] == [row["Mean IoU"] for row in whole_once[0]]


@pytest.mark.parametrize("last", ["best", "latest"])
def test_a_signal_while_the_last_checkpoint_is_written_is_not_forgotten(last, run, tmp_path, monkeypatch, whole_once):
    save, sent = Trainer.save, []

    def saved(trainer, kind):
        if kind == last and trainer.validated == TOTAL and not sent:
            sent.append(kind)
            os.kill(os.getpid(), signal.SIGTERM)
        save(trainer, kind)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Trainer, "save", saved)
        run("cut", *RECIPES["SAM adv"])
    assert stop.value.code == 143 and not (tmp_path / "cut" / "results.json").exists()
    assert rows(run("cut", "--continue_training")) == whole_once[0]
    assert_same(whole_once[1], tmp_path / "cut")
