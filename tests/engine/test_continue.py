"""Runs that stop and go on: by Ctrl-C, by --continue_training, under the options of their checkpoint."""
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from main import main


def test_continue_goes_on_where_the_run_stopped(tmp_path, capsys, small, train):
    train(tmp_path, "--optimizer", "SAM", "--rho", "0.05", itrs=2)
    capsys.readouterr()
    main(["--continue_training", "--output_dir", str(tmp_path), "--total_itrs", "4", "--num_workers", "0",
          "--print_interval", "1"])
    out = capsys.readouterr().out
    assert "Training state restored from" in out and "Itrs 3/4" in out and "Itrs 2/4" not in out
    assert "Using SAM optimizer, rho=0.05" in out  # options not given are the run's own
    log = (tmp_path / "exp" / "log.txt").read_text()
    assert log.count("Dataset: ") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_saves_and_exits_130_and_the_run_goes_on(tmp_path, start, small):
    process = start(*small, "--output_dir", str(tmp_path), "--print_interval", "1", "--total_itrs", "100000",
                    "--val_interval", "100000")
    for line in process.stdout:
        if "Itrs 3/" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130 and "Traceback" not in err
    assert "Model saved as" in out and "--continue_training" in out
    latest = torch.load(next((tmp_path / "exp").glob("latest_*.pth")), weights_only=True)
    assert latest["cur_itrs"] >= 3
    end = str(latest["cur_itrs"] + 1)
    main(["--continue_training", "--output_dir", str(tmp_path), "--total_itrs", end, "--num_workers", "0"])
    assert torch.load(next((tmp_path / "exp").glob("latest_*.pth")), weights_only=True)["cur_itrs"] == int(end)


def checkpoint_of(folder, kind="latest"):
    return next(folder.glob(f"{kind}_*.pth"))


def test_the_printed_command_goes_on_with_a_fine_tuned_run(tmp_path, train, capsys, monkeypatch):
    """Not with the checkpoint it was tuned from, which the run began with."""
    from engine.training import trainer as training

    train(tmp_path, "--exp_name", "a", itrs=2)
    step = training.Trainer.step

    def stop_at_one(trainer, *batch):
        if trainer.cur_itrs == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, *batch)

    monkeypatch.setattr(training.Trainer, "step", stop_at_one)
    with pytest.raises(SystemExit) as stop:
        train(tmp_path, "--exp_name", "b", "--ckpt", str(checkpoint_of(tmp_path / "a")), "--optimizer", "SAM", itrs=3)
    assert stop.value.code == 130
    monkeypatch.undo()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Stopped after iteration 1/3")]
    command = line.split("; to continue: python main.py ")[1].split()
    main([*command, "--num_workers", "0", "--print_interval", "1"])
    out = capsys.readouterr().out
    assert "Itrs 2/3" in out and "Using SAM optimizer" in out
    assert f"Training state restored from {checkpoint_of(tmp_path / 'b')}" in out


def test_a_run_is_never_continued_from_another_ones_state_into_its_folder(tmp_path, train, refused):
    for name in "ab":
        train(tmp_path, "--exp_name", name)
    before = checkpoint_of(tmp_path / "b").read_bytes()
    line = refused(["--output_dir", str(tmp_path), "--exp_name", "b", "--continue_training", "--total_itrs", "9",
                    "--ckpt", str(checkpoint_of(tmp_path / "a"))])
    assert "leave out --ckpt" in line and checkpoint_of(tmp_path / "b").read_bytes() == before


@pytest.mark.parametrize(("flags", "part"), [
    (["--optimizer", "adam"], "--optimizer adam can't continue the state of sgd"),
    (["--output_stride", "8"], "--output_stride 8"),
    (["--model", "deeplabv3plus_mobilenet"], "only best_deeplabv3_mobilenet_synthetic_os16.pth, latest_deeplabv3_"),
])
def test_to_continue_means_the_same_network_and_optimizer(trained, refused, flags, part):
    line = refused(["--output_dir", str(trained), "--continue_training", "--total_itrs", "9", *flags])
    assert part in line


def test_a_finished_run_is_only_evaluated_also_in_a_new_folder(trained, tmp_path, capsys):
    flags = ["--continue_training", "--num_workers", "0", "--output_dir", str(tmp_path)]
    results = main([*flags, "--ckpt", str(checkpoint_of(trained / "exp"))])
    assert "Nothing to train: iteration 4 has reached --total_itrs 4" in capsys.readouterr().out
    assert len(results["results"]) == 1 and not list(tmp_path.rglob("*.pth"))


def test_overwrite_never_deletes_the_weights_it_starts_from(trained, refused):
    best = checkpoint_of(trained / "exp", "best")
    assert "would delete --ckpt" in refused(["--output_dir", str(trained), "--overwrite", "--ckpt", str(best)])
    assert best.exists()


def test_a_test_scores_the_validation_images_of_the_run_and_says_how_it_was_trained(tmp_path, train):
    """The synthetic images depend on --random_seed."""
    trained = train(tmp_path, "--random_seed", "7", "--optimizer", "SAM")
    tested = main(["--test_only", "--output_dir", str(tmp_path), "--num_workers", "0"])
    assert tested["results"][0]["Mean IoU"] == trained["results"][0]["Mean IoU"]
    assert (tested["options"]["optimizer"], tested["options"]["random_seed"]) == ("SAM", 7)


def test_training_in_a_folder_that_only_holds_test_results_is_no_overwriting(trained, tmp_path, train):
    best = str(checkpoint_of(trained / "exp", "best"))
    main(["--test_only", "--ckpt", best, "--output_dir", str(tmp_path), "--num_workers", "0"])
    train(tmp_path)
    assert (tmp_path / "exp" / "results.1.json").exists() and checkpoint_of(tmp_path / "exp").exists()


def test_results_found_before_an_error_are_written(trained, capsys, monkeypatch):
    from attacks import APGD

    def not_finite(*_, **__):
        raise FloatingPointError("the gradient is not finite")

    monkeypatch.setattr(APGD, "attempt", not_finite)
    with pytest.raises(SystemExit) as stop:
        main(["--test_only", "--attack", "fgsm", "apgd", "--eps", "2/255", "--num_workers", "0",
              "--output_dir", str(trained)])
    assert stop.value.code == 1 and "not finite" in capsys.readouterr().err
    rows = json.loads((trained / "exp" / "results.json").read_text())["results"]
    assert [row["attack"] for row in rows] == ["none", "fgsm"]


def test_a_test_needs_no_training_images(tmp_path, train, capsys):
    folders = ("train", "trainannot", "val", "valannot")
    for folder in folders:
        (tmp_path / "data" / folder).mkdir(parents=True)
        for k in range(2):
            picture = np.full((70, 70) if "annot" in folder else (70, 70, 3), k, np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / folder / f"{k}.png")
    train(tmp_path, "--dataset", "camvid", "--data_root", str(tmp_path / "data"), itrs=1)
    for folder in folders[:2]:
        shutil.rmtree(tmp_path / "data" / folder)
    capsys.readouterr()
    main(["--test_only", "--output_dir", str(tmp_path), "--num_workers", "0"])
    assert "Dataset: camvid, Val set: 2" in capsys.readouterr().out
