"""A whole run watched on a real visdom server, its windows read back through the server's API."""
import pytest

from main import main

pytestmark = pytest.mark.slow

FLAGS = ["--dataset", "synthetic", "--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--crop_size", "65",
         "--batch_size", "2", "--num_workers", "0", "--val_batch_size", "16", "--lr", "0.1", "--print_interval", "1",
         "--optimizer", "SAM", "--rho", "0.05"]


def test_the_windows_of_a_run(tmp_path, visdom_port, visdom_windows):
    port = visdom_port
    results = main([
        *FLAGS, "--total_itrs", "3", "--val_interval", "2", "--output_dir", str(tmp_path), "--attack", "fgsm", "--eps",
        "8/255", "4/255", "--enable_vis", "--vis_port", str(port), "--vis_env", "watched", "--vis_num_samples", "3"])
    windows = visdom_windows(port, "watched")
    assert set(windows) == {"Options", "Loss", "[Val] Overall Acc", "[Val] Mean IoU", "[Val] Class IoU", "Sample 0",
                            "Sample 1", "Sample 2", "Robust Mean IoU", "Gradient norm", "Perturbation", "Sharpness",
                            "Learning rate", "Images/s", "Memory"}
    assert "<td>vis_env</td><td>watched</td>" in windows["Options"]["content"]
    (loss,) = windows["Loss"]["content"]["data"]
    assert loss["x"] == [1, 2, 3] and all(value > 0 for value in loss["y"])
    (radius,) = windows["Perturbation"]["content"]["data"]
    assert radius["x"] == [1, 2, 3] and radius["y"] == pytest.approx([0.05] * 3)
    (miou,) = windows["[Val] Mean IoU"]["content"]["data"]
    assert miou["x"] == [2, 3] and results["results"][0]["Mean IoU"] in miou["y"]
    assert all(f"<td>{name}</td>" in windows["[Val] Class IoU"]["content"] for name in ("background", "disc", "ring"))
    (line,) = windows["Robust Mean IoU"]["content"]["data"]
    clean, at_8, at_4 = (row["Mean IoU"] for row in results["results"])
    assert line["name"] == "fgsm linf" and line["y"] == [clean, at_4, at_8]


def test_a_server_that_dies_does_not_end_the_run(tmp_path, visdom_server, capsys, monkeypatch):
    port, process = visdom_server
    from engine.training import trainer as train

    step = train.Trainer.step

    def step_then_kill(trainer, *batch):
        process.kill()
        process.wait()
        return step(trainer, *batch)

    monkeypatch.setattr(train.Trainer, "step", step_then_kill)
    flags = [*FLAGS, "--total_itrs", "3", "--output_dir", str(tmp_path), "--enable_vis", "--vis_port", str(port)]
    results = main(flags)
    assert results["results"] and capsys.readouterr().out.count("visdom server stopped answering") == 1
