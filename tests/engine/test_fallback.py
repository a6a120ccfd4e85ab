"""Checkpoints that are torn, gone, foreign, or can't be written: what a run does then."""
import gc
import os
import re
import shutil
import subprocess
import sys
import warnings
from glob import glob

import pytest
import torch

from engine.run.folder import Run
from main import main
from utils import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread_in_module")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, train, one_thread_in_module, scores):
    """A run of 6 iterations whose latest_* is of 6, previous1_* of 5, previous2_* of 4, and best_* of 3."""
    scores.update({3: 0.9, 6: 0.8})
    folder = tmp_path_factory.mktemp("saved")
    train(folder, "--save_interval", "1", "--val_interval", "3", "--keep", "3", itrs=6)
    return folder


@pytest.fixture
def runs(saved, tmp_path):
    """A copy, to be damaged: (output_dir, {kind: file})."""
    shutil.copytree(saved, tmp_path / "runs")
    files = {path.name.partition("_")[0]: path for path in (tmp_path / "runs" / "exp").glob("*.pth")}
    return tmp_path / "runs", files


def go_on(folder, capsys, *flags):
    capsys.readouterr()
    main(["--continue_training", "--output_dir", str(folder), "--num_workers", "0", *flags])
    return capsys.readouterr().out


def itr_of(path) -> int:
    return checkpoint.load(path)["cur_itrs"]


def tear(path):
    path.write_bytes(path.read_bytes()[:-4000])


def zero(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(4096) + content[half + 4096:])


def foreign(path):
    torch.save({"weight": torch.ones(3)}, path)


def test_save_interval_and_keep(saved):
    files = {path.name.partition("_")[0]: itr_of(path) for path in (saved / "exp").glob("*.pth")}
    assert files == {"latest": 6, "previous1": 5, "previous2": 4, "best": 3}


def test_format_version_options_classes_and_seed_are_inside(saved):
    state = torch.load(next((saved / "exp").glob("latest_*")), weights_only=True)
    assert state["format"] == checkpoint.FORMAT == 2 and re.fullmatch(r"\d+\.\d+\.\d+", state["version"])
    assert state["options"]["total_itrs"] == 6 and state["seed"] == 1 and state["class_names"][0] == "background"
    assert state["torch"] == str(torch.__version__) and len(state["ranks"]) == 1


def test_the_version_is_that_of_the_project(root):
    from utils.version import VERSION

    assert f'\nversion = "{VERSION}"\n' in (root / "pyproject.toml").read_text()


@pytest.mark.parametrize("damage", [tear, zero, foreign, lambda path: path.write_bytes(b"")])
def test_a_damaged_latest_is_named_and_the_one_before_it_goes_on(runs, capsys, damage):
    folder, files = runs
    whole = files["latest"].read_bytes()
    damage(files["latest"])
    damaged = files["latest"].read_bytes()
    out = go_on(folder, capsys)
    (line,) = [line for line in out.splitlines() if line.startswith("Warning")]
    assert str(files["latest"]) in line and f"Continuing with {files['previous1']}, of iteration 5" in line
    assert itr_of(files["latest"]) == 6  # trained anew
    assert files["latest"].with_name(files["latest"].name + ".damaged").read_bytes() == damaged
    new, old = torch.load(files["latest"], weights_only=True), files["latest"].with_name("old.pth")
    old.write_bytes(whole)
    for key, value in torch.load(old, weights_only=True)["model_state"].items():
        assert torch.equal(value, new["model_state"][key]), key


def test_the_newest_good_one_and_in_the_end_the_best(runs, capsys):
    folder, files = runs
    for kind in ("latest", "previous1"):
        tear(files[kind])
    assert f"Continuing with {files['previous2']}, of iteration 4" in go_on(folder, capsys, "--total_itrs", "4")
    for path in files["latest"].parent.glob("[lp]*.pth"):
        tear(path)
    assert f"Continuing with {files['best']}, of iteration 3" in go_on(folder, capsys, "--total_itrs", "3")
    assert itr_of(files["latest"]) == itr_of(files["best"]) == 3  # a second one, not the best itself


def test_a_best_of_a_later_iteration_is_gone_on_with_and_never_replaced_by_a_worse_one(runs, capsys):
    folder, files = runs
    state = torch.load(files["latest"], weights_only=True)
    checkpoint.save(files["best"], {**state, "cur_itrs": 6, "best_score": 0.99})
    before = files["best"].read_bytes()
    for kind in ("latest", "previous1"):
        tear(files[kind])
    assert f"Continuing with {files['best']}, of iteration 6" in go_on(folder, capsys, "--total_itrs", "7")
    assert files["best"].read_bytes() == before and itr_of(files["latest"]) == 7
    checkpoint.save(files["latest"], {**state, "cur_itrs": 5, "validated": 3, "best_score": 0.1})  # before best_* was
    go_on(folder, capsys)
    assert files["best"].read_bytes() == before


def test_a_best_as_new_as_the_latest_goes_on_before_the_previous_ones(runs, capsys):
    folder, files = runs
    shutil.copy(files["latest"], files["best"])
    tear(files["latest"])
    assert f"Continuing with {files['best']}, of iteration 6" in go_on(folder, capsys)
    assert itr_of(files["latest"]) == 6


def test_a_damaged_best_is_found_before_training_and_made_anew(runs, capsys):
    folder, files = runs
    tear(files["best"])
    damaged = files["best"].read_bytes()
    out = go_on(folder, capsys, "--total_itrs", "7")
    assert f"Warning: can't continue with {files['best']} (" in out
    assert itr_of(files["best"]) == 7
    assert files["best"].with_name(files["best"].name + ".damaged").read_bytes() == damaged


def test_an_older_checkpoint_of_the_same_run_keeps_the_latest(runs, capsys):
    folder, files = runs
    go_on(folder, capsys, "--ckpt", str(files["previous2"]), "--total_itrs", "5", "--val_interval", "100")
    assert itr_of(files["latest"]) == 5 and itr_of(files["previous1"]) == 6  # which was the latest


def test_a_latest_that_is_gone(runs, capsys):
    folder, files = runs
    files["latest"].unlink()
    assert f"no checkpoint at {files['latest']}" in go_on(folder, capsys) and itr_of(files["latest"]) == 6


def test_without_a_good_one_it_is_an_error_that_touches_nothing(runs, refused):
    folder, files = runs
    for path in files.values():
        tear(path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = refused(["--continue_training", "--output_dir", str(folder)])
    assert f"{files['latest']} can't be read as a checkpoint" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_best_or_ckpt_has_no_stand_in(runs, refused):
    folder, files = runs
    tear(files["best"])
    line = refused(["--test_only", "--output_dir", str(folder)])
    assert str(files["best"]) in line and f"give --ckpt {files['latest']}" in line
    assert str(files["best"]) in refused(["--continue_training", "--ckpt", str(files["best"]), "--exp_name", "new",
                                          "--output_dir", str(folder)])


def test_a_checkpoint_of_a_later_version(runs, refused):
    folder, files = runs
    state = torch.load(files["best"], weights_only=True)
    torch.save({**state, "format": checkpoint.FORMAT + 1}, files["best"])
    line = refused(["--test_only", "--output_dir", str(folder)])
    assert "was written by a later version of this program (format 3" in line


@pytest.mark.parametrize(("change", "part"), [
    ({"class_names": ["a", "b"]}, "was trained for other classes (a, b)"),
    ({"optimizer_state": {}}, "doesn't fit this --optimizer, or is damaged"),
    ({"ranks": [{"rng": {"torch": torch.zeros(3)}, "buffers": []}]}, "doesn't fit this --optimizer, or is damaged"),
])
def test_a_state_that_does_not_fit_is_an_error(runs, refused, change, part):
    folder, files = runs
    torch.save({**torch.load(files["latest"], weights_only=True), **change}, files["latest"])
    assert part in refused(["--continue_training", "--output_dir", str(folder), "--num_workers", "0"])


def test_other_training_images_are_told(runs, capsys):
    folder, files = runs
    state = torch.load(files["latest"], weights_only=True)
    torch.save({**state, "train_images": "others"}, files["latest"])
    assert "Training images changed" in go_on(folder, capsys)


def test_a_disk_that_fills_up_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, train, refused, monkeypatch, small):
    fsync, count = os.fsync, []

    def full(handle):
        count.append(handle)
        if len(count) > 6:  # the fourth checkpoint, after those of 0, 2 and 4: each syncs its file and its folder
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    line = refused([*small, "--output_dir", str(tmp_path), "--total_itrs", "6", "--save_interval", "2"])
    latest, = (tmp_path / "exp").glob("latest_*.pth")
    assert f"{latest} can't be written (No space left on device): make room there" in line
    assert itr_of(latest) == 4 and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    main(["--continue_training", "--output_dir", str(tmp_path), "--num_workers", "0"])
    assert itr_of(latest) == 6


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_training(
        tmp_path, small, refused, monkeypatch, real_network):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    line = refused([*small, "--output_dir", str(tmp_path), "--total_itrs", "100", "--keep", "3",
                    "--val_interval", "10"])
    mega = int(re.search(r"take (\d+) MB, but there is room for 50:", line)[1])
    assert not (tmp_path / "exp").exists() and 150 < mega < 300  # five of them: weights and momenta
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    train = [*small, "--output_dir", str(tmp_path), "--total_itrs", "1", "--val_interval", "1"]
    main(train)
    one = next((tmp_path / "exp").glob("latest_*")).stat().st_size / 1e6
    assert mega == pytest.approx(5 * one, rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_a_folder_that_can_not_be_written_is_refused_at_the_start(tmp_path, small, root):
    """A disk that is mounted for reading: permissions don't hold every user back."""
    script = f'mount -t tmpfs -o ro none {tmp_path} && exec "$@"'
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable,
                           "main.py", *small, "--output_dir", str(tmp_path), "--total_itrs", "1"], cwd=root, text=True,
                          capture_output=True)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this system mounts nothing for users")
    line, = (line for line in done.stderr.splitlines() if "error" in line)
    assert done.returncode == 2 and f"{tmp_path}/exp can't be written" in line and "Read-only file system" in line
    assert "Traceback" not in done.stderr and "Itrs" not in done.stdout


def test_the_lock_file_is_closed_even_where_run_and_file_are_collected_at_once(tmp_path, monkeypatch):
    """An exception's traceback can keep both until then."""
    remarks = []
    monkeypatch.setattr(sys, "unraisablehook", remarks.append)
    circle = [Run(tmp_path / "exp")]
    circle.append(circle)
    circle[0].open(training=True)
    held = [path for path in map(os.path.realpath, glob("/proc/self/fd/*")) if path.endswith("exp/.lock")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        del circle
        gc.collect()
    assert held == [str((tmp_path / "exp/.lock").resolve())] and not remarks
    assert not [path for path in map(os.path.realpath, glob("/proc/self/fd/*")) if path.endswith("exp/.lock")]
