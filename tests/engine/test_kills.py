"""SIGKILL at random moments of a run on real images, resumed each time: the end has the bits of a run without.

SEG_KILLS says how many (default 2). With --log-cli-level=WARNING it tells of each.
"""
import json
import logging
import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from utils import checkpoint

KILLS = int(os.environ.get("SEG_KILLS", 2))
LONGEST = 1.0  # seconds of training before a kill: up to some twenty iterations, a checkpoint after each
TOTAL = 60
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


@pytest.fixture
def data(camvid_root, tmp_path):
    """Twelve training and three validation images of CamVid, as symbolic links."""
    root = tmp_path / "CamVid"
    for split, count in (("train", 12), ("val", 3)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
            for image in sorted((camvid_root / folder).iterdir())[:count]:
                (root / folder / image.name).symlink_to(image)
    return root


@pytest.fixture
def start_run(start, data, tmp_path):
    """A function that starts the run of a name, or goes on with it."""
    def run(name):
        train = ["--dataset", "camvid", "--data_root", str(data), "--model", "deeplabv3_mobilenet", "--crop_size", "97",
                 "--no-pretrained_backbone", "--batch_size", "2", "--optimizer", "SAM", "--adv", "--train_step", "1",
                 "--lr", "0.1", "--total_itrs", str(TOTAL), "--val_interval", "10", "--print_interval", "1",
                 "--save_interval", "1", "--keep", "3"]
        there = list((tmp_path / name).glob("*_*.pth"))
        flags = ["--continue_training"] if there else [*train, "--overwrite"]
        return start(*flags, "--output_dir", str(tmp_path), "--exp_name", name, "--num_workers", "2")
    return run


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err


def killed(process, seconds: float) -> bool:
    """SIGKILL so many seconds after training began, if it is not done by then."""
    for line in process.stdout:
        if line.startswith(("[!] Retrain", "Model restored")):
            break
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def assert_equal(one, other, path=""):
    """Two states, leaf by leaf."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if path or key != "options":  # how each was called
                assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_runs(one, other):
    for kind in ("latest", "best"):
        assert_equal(*(checkpoint.load(next(folder.glob(f"{kind}_*.pth"))) for folder in (one, other)))
    rows = [json.loads((folder / "results.json").read_text())["results"] for folder in (one, other)]
    assert rows[0] == rows[1]


def test_killed_at_random_moments_and_resumed(start_run, tmp_path):
    finish(start_run("whole"))
    moments, kills, runs, unfinished = random.Random(20), 0, 0, 0
    while kills < KILLS:
        if killed(start_run("cut"), moments.uniform(0, LONGEST)):
            kills += 1
            at = [checkpoint.load(path)["cur_itrs"] for path in sorted((tmp_path / "cut").glob("*_*.pth"))]  # all whole
            unfinished += bool(list((tmp_path / "cut").glob("*.tmp")))
            logging.getLogger(__name__).warning("kill %d: checkpoints of iterations %s", kills, at)
        if (tmp_path / "cut" / "results.json").exists():
            assert_same_runs(tmp_path / "whole", tmp_path / "cut")
            runs += 1
            (tmp_path / "cut").rename(tmp_path / f"done{runs}")
    finish(start_run("cut"))
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    logging.getLogger(__name__).warning(
        "%d kills, %d of them inside a write; %d runs with the bits of the unbroken one", kills, unfinished, runs + 1)
