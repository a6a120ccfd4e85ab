"""A whole run watched on a real visdom server, its windows read back through the server's API."""
import csv

import pytest
from PIL import Image

from engine.evaluation.dashboard import show_results
from main import main
from utils.dashboards import Dashboard
from utils.dashboards.none import round_figure

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
    confusion = "[Val] Confusion (%)"
    names = ("val_0000", "val_0015", "val_0031")
    assert set(windows) == {"Options", "Loss", "[Val] Overall Acc", "[Val] Mean IoU", "[Val] Class IoU", "Sample 0",
                            "Sample 1", "Sample 2", "Robust Mean IoU", "Gradient norm", "Perturbation", "Sharpness",
                            "Learning rate", "Images/s", "Memory", confusion, "Results",
                            *(f"{name}: fgsm linf {eps}/255" for name in names for eps in (8, 4))}
    assert "<td>vis_env</td><td>watched</td>" in windows["Options"]["content"]
    (loss,) = windows["Loss"]["content"]["data"]
    assert loss["x"] == [1, 2, 3] and all(value > 0 for value in loss["y"])
    (radius,) = windows["Perturbation"]["content"]["data"]
    assert radius["x"] == [1, 2, 3] and radius["y"] == pytest.approx([0.05] * 3)
    (miou,) = windows["[Val] Mean IoU"]["content"]["data"]
    assert miou["x"] == [2, 3] and round_figure(results["results"][0]["Mean IoU"]) in miou["y"]
    (bars,) = windows["[Val] Class IoU"]["content"]["data"]
    best = [*results["results"][0]["Class IoU"].values()]
    assert {"background", "disc", "ring"} <= {*bars["x"]} and len(bars["y"]) == len(best)
    (matrix,) = windows[confusion]["content"]["data"]
    assert [sum(row) for row in matrix["z"]] == pytest.approx([100] * 5)
    with open(tmp_path / "exp" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [round_figure(float(row["Loss"])) for row in rows if row["Split"] == "train"] == loss["y"]
    assert [round_figure(float(row["Mean IoU"])) for row in rows if row["Split"] == "val"] == miou["y"]
    last = [float(row) for name, row in rows[-1].items() if name.startswith("IoU ")]
    assert last == pytest.approx(bars["y"])
    (line,) = windows["Robust Mean IoU"]["content"]["data"]
    clean, at_8, at_4 = (row["Mean IoU"] for row in results["results"])
    assert line["name"] == "fgsm linf" and line["y"] == [clean, at_4, at_8]


def test_attacks_of_other_steps_have_windows_and_lines_of_their_own(tmp_path):
    class Shown(Dashboard):
        enabled, images, lines = True, [], {}

        def image(self, name, image, **_):
            self.images.append(name)

        def curves(self, name, lines, **_):
            self.lines = lines

    rows = [{"attack": "none", "settings": {"attack": "none"}, "norm": None, "steps": 0, "eps": 0.0, "records": ["c"]}]
    for steps in (10, 30):
        settings = {"attack": "race", "norm": "linf", "eps": 4 / 255, "steps": steps}
        rows.append({**settings, "settings": settings, "records": [f"r{steps}"]})
    for row in rows:
        row.update({"Mean IoU": 0.5, "Overall Acc": 0.5, "Image IoU": 0.5, "Mean IoU lower": None, "Class IoU": {}})
        (tmp_path / row["records"][0]).mkdir()
        for kind in ("image", "target", "pred", "perturbation"):
            Image.new("RGB", (4, 4)).save(tmp_path / row["records"][0] / f"a_{kind}.png")
    shown = Shown()
    show_results(shown, rows, tmp_path, ["a"])
    assert shown.images == ["a: race linf 4/255, 10 steps", "a: race linf 4/255, 30 steps"]
    assert list(shown.lines) == ["race linf, 10 steps", "race linf, 30 steps"]


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
    assert results["results"] and capsys.readouterr().out.count("Warning: the visdom server stopped") == 1
