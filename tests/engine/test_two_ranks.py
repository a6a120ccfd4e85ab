"""Property 25: two processes are one run. gloo, on the CPU; what a single process does is the truth."""
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from datasets import build_datasets
from main import main
from tests import ranks
from tests.ranked.training import STEPS, train, train_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
DOUBLE = {"dtype": torch.float64}
AS_ONE = {  # BatchNorm in eval mode, or over the whole batch: two processes take the step of one
    "sgd": {}, "adam": {"optimizer": "adam"}, "in parts": {"accumulate": 2},
    "SAM": {"optimizer": "SAM", "rho": 0.1}, "ASAM": {"optimizer": "SAM", "rho": 0.5, "adaptive": True, "eta": 0.01},
    "SAM in parts": {"optimizer": "SAM", "rho": 0.1, "accumulate": 2},
    "late, every other": {"optimizer": "SAM", "rho": 0.1, "start_step": 1, "interval": 2},
    "GSAM": {"optimizer": "GSAM", "rho": 0.1}, "LookSAM": {"optimizer": "LookSAM", "rho": 0.1, "interval": 2},
    "FriendlySAM": {"optimizer": "FriendlySAM", "rho": 0.1}, "AWP": {"optimizer": "AWP", "gamma": 0.02, "adv": True},
    "TRADES": {"adv": True, "trades_beta": 6.0},
    "TRADES, SAM": {"optimizer": "SAM", "rho": 0.1, "adv": True, "trades_beta": 6.0},
    "class weights": {"class_weights": [0.2, 1.0, 3.0, 0.7]},
    "class weights, smoothing, in parts": {"class_weights": [0.2, 1.0, 3.0, 0.7], "label_smoothing": 0.2,
                                           "accumulate": 2},
    "clip_grad": {"clip_grad": 0.1}, "clip_grad, SAM": {"optimizer": "SAM", "rho": 0.1, "clip_grad": 0.1},
    "focal, class weights": {"loss": "focal_loss", "class_weights": [0.2, 1.0, 3.0, 0.7]},
    "ohem, smoothing": {"loss": "ohem", "label_smoothing": 0.2}, "ohem, SAM": {"loss": "ohem", "optimizer": "SAM"},
    "dice, in parts": {"loss": "dice", "accumulate": 2}, "lovasz, in parts": {"loss": "lovasz", "accumulate": 2},
    "dice, SAM": {"loss": "dice", "optimizer": "SAM", "rho": 0.1}, "lovasz": {"loss": "lovasz"},
    "adamw, cosine": {"optimizer": "adamw", "schedule": ["cosine", 2]}, "nesterov": {"nesterov": True},
}
FROZEN = {name: {**settings, "frozen": True} for name, settings in AS_ONE.items()}
# Parts have their own statistics. A bias before BatchNorm has a gradient of rounding's noise, which AdamW divides by
# its size.
SYNCED = {name: settings for name, settings in AS_ONE.items() if "accumulate" not in settings and
          settings.get("optimizer") != "adamw"}
LOCAL = {
    "SAM": {"optimizer": "SAM", "rho": 0.1}, "own statistics": {"optimizer": "SAM", "rho": 0.1, "sync_bn": False},
    "every other": {"optimizer": "SAM", "rho": 0.1, "interval": 2}, "AWP": {"optimizer": "AWP", "gamma": 0.02},
    "clip_grad": {"optimizer": "SAM", "rho": 0.1, "clip_grad": 0.1},
    "micro": {"optimizer": "SAM", "rho": 0.1, "accumulate": 2, "micro": True},
    "class weights": {"optimizer": "SAM", "rho": 0.1, "class_weights": [0.2, 1.0, 3.0, 0.7]},
    "ohem": {"optimizer": "SAM", "rho": 0.1, "loss": "ohem"}, "dice": {"optimizer": "SAM", "rho": 0.1, "loss": "dice"},
    "no labels on one": {"optimizer": "SAM", "rho": 0.1, "frozen": True, "void_rank": 0},
}
POISONED = {"sgd": {}, "SAM": {"optimizer": "SAM", "rho": 0.1}, "adv": {"adv": True},
            "local": {"optimizer": "SAM", "sync": "local", "rho": 0.1}}


def runs() -> list[dict]:
    return [*FROZEN.values(), *({**settings, **DOUBLE} for settings in FROZEN.values()),
            *SYNCED.values(), *({**settings, **DOUBLE} for settings in SYNCED.values()),
            *({**settings, "sync": "local"} for settings in LOCAL.values()),
            *({**settings, "poisoned": [(1, 1), (0, 3)]} for settings in POISONED.values())]


@pytest.fixture(scope="module")
def two_ranks():
    """What each rank found for each of runs(), in the order of runs()."""
    return list(zip(*ranks.run(train_all, runs(), timeout=600), strict=True))


def found_for(two_ranks, settings: dict):
    return two_ranks[runs().index(settings)]


def assert_as_one(found: tuple[dict, dict], single: dict, *, tolerance: float):
    for one in found:
        for key, value in single["state"].items():
            torch.testing.assert_close(one["state"][key], value, rtol=0, atol=tolerance)
        for here, there in zip(one["measured"], single["measured"], strict=True):
            for name in ("Loss", "Gradient norm"):
                assert here[name] == pytest.approx(there[name], abs=10 * tolerance, rel=10 * tolerance)


@pytest.mark.parametrize("name", FROZEN)
def test_25_global_perturbations_are_those_of_the_joined_batch(two_ranks, name):
    settings = FROZEN[name]
    assert_as_one(found_for(two_ranks, settings), train(**settings), tolerance=1e-6)
    assert_as_one(found_for(two_ranks, {**settings, **DOUBLE}), train(**settings, **DOUBLE), tolerance=1e-13)


@pytest.mark.parametrize("name", SYNCED)
def test_25_synchronised_batchnorm_is_that_of_the_joined_batch(two_ranks, name):
    settings = SYNCED[name]
    assert_as_one(found_for(two_ranks, settings), train(**settings), tolerance=1e-4)
    assert_as_one(found_for(two_ranks, {**settings, **DOUBLE}), train(**settings, **DOUBLE), tolerance=1e-11)


@pytest.mark.parametrize("name", LOCAL)
def test_25_local_perturbations_differ_and_the_weights_never_do(two_ranks, name):
    first, second = found_for(two_ranks, {**LOCAL[name], "sync": "local"})
    for key, value in first["state"].items():
        if LOCAL[name].get("sync_bn", True) or "running" not in key:
            assert torch.equal(second["state"][key], value), key
    differ = [not torch.equal(one, other) for one, other in zip(first["heads"], second["heads"], strict=True)]
    passes = {"every other": [0, 1, 0] * 2 + [0, 1], "micro": [0, 1, 0, 1] * STEPS}.get(name, [0, 1] * STEPS)
    assert differ == [bool(turn) for turn in passes]  # at w alike, at w + e not
    for here, there in zip(first["measured"], second["measured"], strict=True):  # rank 0's line is for both
        for key in ("Loss", "Gradient norm", *(["Sharpness"] if "Sharpness" in here else [])):
            assert here[key] == there[key], key
    if name == "no labels on one":
        alone = train(optimizer="SAM", rho=0.1, frozen=True, share=(1, None, 2))
        for here, there in zip(second["measured"], alone["measured"], strict=True):
            assert here == pytest.approx({**there, "Gradient norm": here["Gradient norm"]}, rel=1e-4)


@pytest.mark.parametrize("name", POISONED)
def test_what_is_not_finite_on_one_rank_is_skipped_by_both(two_ranks, name):
    found = found_for(two_ranks, {**POISONED[name], "poisoned": [(1, 1), (0, 3)]})
    for one in found:
        assert one["skipped"] == [1, 3]
        assert all(value.isfinite().all() for value in one["state"].values())
    for key, value in found[0]["state"].items():
        assert torch.equal(found[1]["state"][key], value), key


def test_torchrun_trains_attacks_and_writes_once(tmp_path, start, small):
    flags = [*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--total_itrs", "2", "--val_interval", "2"]
    done = start(*flags, "--optimizer", "SAM", "--attack", "fgsm", "--eps", "2/255", "--print_interval", "1", ranks=2)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    assert out.count("Itrs 2/2") == 1 and "Device: cpu, 2 processes" in out
    assert out.count("fgsm linf 2/255: 1 gradient per image, 32 images") == 1
    folder = tmp_path / "exp"
    log = (folder / "log.txt").read_text()
    assert log.count("Itrs 1/2") == 1 and log.count("Model saved as") == 2
    results = json.loads((folder / "results.json").read_text())
    assert [row["attack"] for row in results["results"]] == ["none", "fgsm"]
    assert not list(folder.glob("results.*.json"))
    main(["--test_only", "--output_dir", str(tmp_path), "--exp_name", "one", "--num_workers", "0",
          "--ckpt", str(next(folder.glob("best_*")))])  # what a single process finds: the same pixels
    alone = json.loads((tmp_path / "one" / "results.json").read_text())["results"][0]
    assert alone["Class IoU"] == results["results"][0]["Class IoU"]


def test_the_average_that_ranks_validate_is_the_one_that_is_saved(tmp_path, start, small):
    """Without --sync_bn their own averages of BatchNorm's statistics differ."""
    flags = [*small, "--batch_size", "8", "--output_dir", str(tmp_path), "--total_itrs", "4", "--val_interval", "4"]
    done = start(*flags, "--ema", "0.5", "--no-sync_bn", "--lr", "0.1", "--bn_momentum", "0.5", "--backbone_lr_mult",
                 "1", ranks=2)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    best = next((tmp_path / "exp").glob("best_*"))
    alone, = main(["--test_only", "--output_dir", str(tmp_path), "--exp_name", "one", "--num_workers", "0", "--ckpt",
                   str(best)])["results"]
    assert alone["Mean IoU"] == pytest.approx(torch.load(best, weights_only=True)["best_score"], abs=1e-9)


def test_ranks_weigh_classes_and_choose_the_best_as_one_process_does(tmp_path, start, small):
    """Weights are the median frequency by a class's, counted here with NumPy; the score is that of a single process."""
    flags = [*small, "--batch_size", "8", "--output_dir", str(tmp_path), "--total_itrs", "4", "--val_interval", "2"]
    done = start(*flags, "--optimizer", "SAM", "--lr", "0.1", "--bn_momentum", "0.5", "--backbone_lr_mult", "1",
                 "--class_weights", "balanced", "--val_attack", "fgsm", "--val_attack_images", "32", "--best_by",
                 "robust", ranks=2)
    _, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    best = next((tmp_path / "exp").glob("best_*"))
    content = torch.load(best, weights_only=True)
    train, _ = build_datasets("synthetic", data_root=tmp_path, seed=1)
    pixels = np.stack([np.bincount(train.read_label(i).numpy().ravel(), minlength=256)[:5] for i in range(len(train))])
    frequencies = pixels.sum(0) / ((pixels > 0) * pixels.sum(1, keepdims=True)).sum(0)
    assert content["class_weights"] == pytest.approx((np.median(frequencies) / frequencies).tolist(), rel=1e-6)
    rows = main(["--test_only", "--output_dir", str(tmp_path), "--exp_name", "one", "--num_workers", "0", "--ckpt",
                 str(best), "--attack", "fgsm", "--eps", "2/255", "--val_batch_size", "16"])["results"]
    assert rows[1]["Mean IoU"] == pytest.approx(content["best_score"], abs=1e-9) != rows[0]["Mean IoU"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_stops_all_processes_together_and_saves(tmp_path, start, small):
    flags = [*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--total_itrs", "100000", "--val_interval",
             "100000", "--print_interval", "1", "--optimizer", "SAM"]
    process = start(*flags, ranks=2)
    for line in process.stdout:
        if "Itrs 2/" in line:
            process.send_signal(signal.SIGINT)  # to torchrun, which passes it on
            break
    out, err = process.communicate(timeout=600)
    assert "Stopped after iteration" in out and "gloo" not in err
    latest = torch.load(next((tmp_path / "exp").glob("latest_*.pth")), weights_only=True)
    assert latest["cur_itrs"] >= 2
    assert {group["sam_step"] for group in latest["optimizer_state"]["param_groups"]} == {latest["cur_itrs"]}


def test_under_torchrun_a_mistake_is_told_once(tmp_path, start, small):
    done = start(*small, "--batch_size", "3", "--output_dir", str(tmp_path), ranks=2)
    _, err = done.communicate(timeout=600)
    assert done.returncode != 0
    lines = [line for line in err.splitlines() if "can't be cut into equal parts for 2 processes" in line]
    assert len(lines) == 1 and not list(tmp_path.iterdir())


def write_pid():
    """Write this process's number to a file named after its rank."""
    Path(os.environ["PIDS"], os.environ["RANK"]).write_text(str(os.getpid()))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_that_torchrun_restarts_after_a_kill_ends_as_one_that_was_never_killed(tmp_path, start, small):
    flags = [*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--total_itrs", "12", "--val_interval", "6",
             "--save_interval", "2", "--print_interval", "1", "--optimizer", "SAM", "--lr", "0.1"]
    whole = start(*flags, "--exp_name", "whole", ranks=2)
    whole.communicate(timeout=600)
    killed = start(*flags, "--exp_name", "killed", ranks=2, restarts=1, first=write_pid,
                   environment={"PIDS": str(tmp_path)})
    for line in killed.stdout:
        if "Itrs 5/" in line:
            os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
            break
    out, err = killed.communicate(timeout=600)
    assert (whole.returncode, killed.returncode) == (0, 0), err
    assert "torchrun has restarted the processes" in out and out.count("Itrs 12/12") == 1
    one, other = (torch.load(next((tmp_path / name).glob("latest_*.pth")), weights_only=True)
                  for name in ("whole", "killed"))
    assert one["cur_itrs"] == other["cur_itrs"] == 12 and one["best_score"] == other["best_score"]
    for key in ("model_state", "optimizer_state"):
        flat, others = (pytree.tree_leaves(state[key]) for state in (one, other))
        assert len(flat) == len(others) > 50
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
                   for a, b in zip(flat, others, strict=True))


def test_a_used_folder_is_refused_by_the_restarted_processes_too(tmp_path, start, small):
    flags = [*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--total_itrs", "1"]
    main(flags)
    process = start(*flags, ranks=2, restarts=1)
    out, err = process.communicate(timeout=600)
    assert process.returncode != 0 and "holds an earlier run" in err and "has restarted" not in out
    assert "via 15" not in err  # torchrun had to kill no process that waited for another
