"""A short real SAM training watched in visdom's and TensorBoard's own pages: what is drawn is what was logged."""
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import served

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SEG_DATA", ROOT.parent / "shared" / "data"))
ITERATIONS = int(os.environ.get("WATCHED_ITERATIONS", "6"))
TRAINING = ["--model", "deeplabv3_mobilenet", "--optimizer", "SAM", "--rho", "0.02", "--lr", "0.05", "--bn_momentum",
            "0.1", "--total_itrs", str(ITERATIONS), "--val_interval", str(ITERATIONS // 3), "--print_interval",
            str(max(1, ITERATIONS // 20)), "--vis_num_samples", "2"]
ATTACK = ["--test_only", "--attack", "pgd", "--steps", "2", "--eps", "0.5/255", "1/255", "2/255", "--val_images", "8"]
BACKBONE = DATA / "weights" / "mobilenetv2_imagenet_backbone.pth"
READ_PLOTS = """() => Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].map(plot => [
    plot.layout.title.text || plot.layout.title,
    plot.data.map(({name, type, x, y, z}) => ({name, type, x, y, z}))]))"""
DRAWN = """count => [...document.querySelectorAll('.js-plotly-plot')].filter(
    plot => plot.querySelector('path.js-line, .bars path, .heatmaplayer image')).length >= count"""


@pytest.fixture(scope="module")
def run(visdom_with_scripts, tmp_path_factory):
    """The folder of the run, which both dashboards have seen."""
    folder = tmp_path_factory.mktemp("runs")
    if (DATA / "CamVid").is_dir() and BACKBONE.is_file():
        data = ["--dataset", "camvid", "--data_root", str(DATA / "CamVid"), "--crop_size", "160", "--batch_size", "4",
                "--backbone_weights", str(BACKBONE), "--backbone_lr_mult", "0.2"]
    else:
        data = ["--dataset", "synthetic", "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "4"]
    shown = ["--exp_name", "sam", "--output_dir", str(folder), "--num_workers", "0", "--enable_vis", "--vis_port",
             str(visdom_with_scripts), "--vis_env", "watched", "--tensorboard"]
    for flags in ([*data, *TRAINING], ATTACK):
        subprocess.run([sys.executable, "main.py", *flags, *shown], cwd=ROOT, check=True)
    return folder / "sam"


@pytest.fixture(scope="module")
def history(run) -> dict[str, list[tuple[int, float]]]:
    """{column: points} of history.csv."""
    found = {}
    with open(run / "history.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if cell and name not in ("Iteration", "Epoch", "Split"):
                    found.setdefault(name, []).append((int(row["Iteration"]), float(cell)))
    return found


def shorten(points):
    """Points with six digits, as dashboards show them."""
    return [(itr, float(f"{value:.6g}")) for itr, value in points]


def read_log(run: Path) -> list[tuple[int, float]]:
    text = (run / "log.txt").read_text()
    return [(int(itr), float(loss)) for itr, loss in re.findall(r"Itrs (\d+)/\d+, Loss=([\d.]+)", text)]


def test_visdom_draws_what_was_logged(run, history, page, visdom_with_scripts, screenshots):
    page.goto(f"http://127.0.0.1:{visdom_with_scripts}/env/watched")
    page.wait_for_function(DRAWN, arg=11)  # curves, a bar chart, a heat map
    plots = page.evaluate(READ_PLOTS)
    for name in ("Loss", "Sharpness", "Learning rate", "Images/s"):
        (curve,) = plots[name]
        assert list(zip(curve["x"], curve["y"], strict=True)) == shorten(history[name]) and curve["name"] == "sam"
    loss = list(zip(plots["Loss"][0]["x"], plots["Loss"][0]["y"], strict=True))
    assert loss == [(itr, pytest.approx(value, rel=6e-6, abs=1e-6)) for itr, value in read_log(run)]
    for name in ("Mean IoU", "Overall Acc"):
        (curve,) = plots[f"[Val] {name}"]
        assert list(zip(curve["x"], curve["y"], strict=True)) == shorten(history[name])
    (bars,) = plots["[sam] [Val] Class IoU"]
    last = {name.removeprefix("IoU "): points[-1][1] for name, points in history.items() if name.startswith("IoU ")}
    assert dict(zip(bars["x"], bars["y"], strict=True)) == {name: iou for name, iou in last.items() if iou == iou}
    rows = json.loads((run / "results.json").read_text())["results"]
    (robust,) = plots["Robust Mean IoU"]
    assert robust["name"] == "sam: pgd linf"
    assert list(zip(robust["x"], robust["y"], strict=True)) == [
        (pytest.approx(255 * row["eps"]), row["Mean IoU"]) for row in rows]
    (matrix,) = plots["[sam] [Val] Confusion (%)"]
    labelled = [sum(row) for row in matrix["z"] if sum(row)]
    assert labelled == pytest.approx([100] * len(labelled)) and labelled
    assert page.errors == []
    page.screenshot(path=screenshots / "visdom.png", full_page=True)


def test_tensorboard_draws_what_was_logged(run, history, page, screenshots):
    pytest.importorskip("tensorboard", reason="an extra: make extras")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--load_fast=false"]
    with served(command, lambda port: ["--port", str(port), "--host", "127.0.0.1"]) as port:
        page.goto(f"http://127.0.0.1:{port}/?darkMode=false&tagFilter=Train#timeseries")
        page.wait_for_function("""() => [...document.querySelectorAll('scalar-card')].filter(card =>
            card.querySelector('line-chart') && card.innerText.includes('tensorboard')).length >= 3""")
        cards = page.evaluate("() => [...document.querySelectorAll('scalar-card')].map(card => card.innerText)")
        last = {f"Train/{name}": points[-1] for name, points in history.items()}
        for card in cards:  # its table has the last step and its value, with four digits after the point
            title, _, rest = card.partition("Alt + Scroll to Zoom")
            if "tensorboard" in rest:  # the run's row; charts further down the page wait
                itr, value = last[title.replace("\n", "")]
                numbers = [float(word) for word in rest.split() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", word)]
                assert itr in numbers and pytest.approx(value, abs=6e-5, rel=6e-6) in numbers, card
        found = page.evaluate("""async () => (await fetch(
            'data/plugin/scalars/scalars?run=tensorboard&tag=Train%2FLoss')).json()""")
        assert [(step, value) for _, step, value in found] == [
            (itr, pytest.approx(value, rel=6e-6)) for itr, value in history["Loss"]]
        page.wait_for_timeout(1500)  # the charts' animation
        page.screenshot(path=screenshots / "tensorboard.png")
    assert page.errors == []
