"""What race and min_radius leave in records, tables and reports: candidates to choose from, and radii."""
import itertools
import json

import numpy as np
import pytest
import torch

from attacks import MinRadius, Race
from datasets import build_datasets
from engine.evaluation import sweep
from engine.records.radii import describe_radii, format_radii
from engine.records.rows import make_rows
from engine.records.schema import check_line
from engine.records.store import Record, read
from main import main
from metrics import scores
from predict import predict

FLAGS = ["--eps", "2/255", "4/255", "--steps", "6", "--val_images", "3", "--num_workers", "0", "--sheet_images", "0"]


@pytest.fixture
def run(trained, tmp_path):
    """A function (name, flags) -> results of --test_only in a fresh run folder; its folder is tmp_path / name."""
    best, = (trained / "exp").glob("best_*.pth")
    return lambda name, *flags: main(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name",
                                      name, *FLAGS, *flags])


def read_one(folder, beginning):
    path, = (folder / "records").glob(f"{beginning}*.jsonl")
    return Record(path, *read(path))


def test_a_race_is_scored_by_the_best_choice_among_its_candidates(run, tmp_path):
    """The row against brute force over all choices of recorded candidates."""
    rows = run("a", "--attack", "race")["results"]
    assert [row["attack"] for row in rows] == ["none", "race", "race"] and rows[1]["backwards"] == 6
    record = read_one(tmp_path / "a", "race_linf_4-255")
    lines = record.lines(record.names)
    row, = [row for row in rows if row["settings"] == record.settings]
    for line in lines:
        left = {name: sum(counts["intersection"]) for name, counts in line["candidates"].items()}
        assert len(left) == 2 and sum(line["intersection"]) == min(left.values()) == left[line["winner"]]
        assert line["radius"] <= 4 / 255
    total = sum(sum(line["pixels"]) for line in lines)
    assert row["Overall Acc"] == pytest.approx(sum(sum(line["intersection"]) for line in lines) / total)
    choices = itertools.product(*([line, *line["candidates"].values()] for line in lines))
    pixels = [line["pixels"] for line in lines]
    lowest = min(scores([one["intersection"] for one in choice], [one["union"] for one in choice], pixels)["Mean IoU"]
                 for choice in choices)
    assert lowest <= row["Mean IoU"] <= lowest + 0.01 and row["Mean IoU lower"] <= lowest


def test_other_aims_are_other_records(run, tmp_path):
    accuracy = run("a", "--attack", "race", "--race_aim", "accuracy", "--eps", "4/255")["results"][1]
    run("a", "--attack", "race", "--race_aim", "miou", "--eps", "4/255")
    assert accuracy["Mean IoU lower"] is None and len(list((tmp_path / "a" / "records").glob("race_*"))) == 2
    aims = [Record(path, *read(path)) for path in (tmp_path / "a" / "records").glob("race_*")]
    for record in aims:
        assert all("candidates" in line for line in record.lines(record.names))


def test_a_worst_case_chooses_among_the_candidates_too(tmp_path):
    """Of two images, race's candidate b is the worst for the mean IoU of one; only the union with it is that low."""
    def line(image, intersection, union, **more):
        return {"image": image, "intersection": intersection, "union": union, "pixels": [50, 50], "radius": 0.0,
                "loss": 0.0, "forwards": 1, "backwards": 1, **more}

    def record(settings, lines):
        header = {"attack": settings, "subject": {}, "class_names": ["x", "y"]}
        return Record(tmp_path / f"{settings['attack']}.jsonl", header, {each["image"]: each for each in lines})

    other = {"intersection": [30, 0], "union": [100, 50]}
    clean = record({"attack": "none", "norm": None, "eps": 0.0, "steps": 0}, [line("i", [50, 50], [50, 50])])
    race = record({"attack": "race", "norm": "linf", "eps": 0.1, "steps": 9}, [
        line("i", [10, 10], [60, 60], candidates={"a": {"intersection": [10, 10], "union": [60, 60]}, "b": other})])
    pgd = record({"attack": "pgd", "norm": "linf", "eps": 0.1, "steps": 9}, [line("i", [40, 40], [60, 60])])
    rows = {row["attack"]: row for row in make_rows([clean, race, pgd], ["i"], class_names=["x", "y"])}
    for name in ("race", "worst case"):
        assert rows[name]["Mean IoU"] == pytest.approx((30 / 100 + 0) / 2)  # b's
        assert rows[name]["Overall Acc"] == pytest.approx(0.2)  # a's


@pytest.mark.parametrize("candidates", [[], {"a": 1}, {"a": {"intersection": [1, 2]}},
                                        {"a": {"intersection": [1, 2], "union": [1]}},
                                        {"a": {"intersection": [1, -2], "union": [1, 2]}},
                                        {"a": {"intersection": [1, 3], "union": [1, 4]}}])
def test_damaged_candidates_are_an_error(candidates):
    good = {"image": "i", "intersection": [1, 2], "union": [2, 3], "pixels": [1, 2], "radius": 0, "loss": 0,
            "forwards": 0, "backwards": 0}
    check_line(good, classes=2)
    check_line({**good, "candidates": {"a": {"intersection": [1, 2], "union": [1, 2]}}}, classes=2)
    with pytest.raises(ValueError, match="candidates of i"):
        check_line({**good, "candidates": candidates}, classes=2)


@pytest.mark.parametrize(("name", "steps", "words"), [
    ("race", 3, "--steps: steps 3: race needs at least 4"),
    ("min_radius", 1, "--steps: steps 1: min_radius needs at least 2")])
def test_too_few_steps_are_refused(name, steps, words, trained, refused):
    line = refused(["--test_only", "--output_dir", str(trained), "--attack", name, "--steps", str(steps)])
    assert words in line and "share" not in line


def test_predict_refuses_a_radius_that_8_bits_undo(trained, refused, tmp_path):
    best, = (trained / "exp").glob("best_*.pth")
    line = refused(["--ckpt", str(best), "--input", str(tmp_path), "--attack", "min_radius"], call=predict)
    assert "--attack min_radius" in line


def test_the_table_of_radii_is_that_of_numpy(tmp_path):
    """Seven images: two wrong when clean, one never, one without a label."""
    radii = {"a": 0.0, "b": 0.0, "c": 0.5 / 255, "d": 1.5 / 255, "e": 3 / 255, "f": 64 / 255, "g": 0.0}
    lines = [{"image": name, "intersection": [0, 3 if name == "f" else 1], "union": [100, 100], "radius": radius,
              "pixels": [0, 0] if name == "g" else [50, 50], "loss": 0.0, "forwards": 4, "backwards": 4}
             for name, radius in radii.items()]
    settings = {"attack": "min_radius", "norm": "linf", "eps": 64 / 255, "steps": 4, "min_radius_share": 0.99}
    record = Record(tmp_path / "r.jsonl", {"attack": settings, "subject": {}, "class_names": ["x", "y"]},
                    {line["image"]: line for line in lines})
    found = describe_radii(record, list(radii), asked=(1 / 255, 3 / 255))
    assert found["images"] == 6 and found["wrong when clean"] == 2 and found["not found"] == 1
    assert [found[name] for name in ("lower quartile", "median", "upper quartile")] == [0.0, 0.5 / 255, 3 / 255]
    assert found["at most"] == [[1 / 255, 3 / 6], [3 / 255, 5 / 6]]
    assert found["radii"] == {**{name: radii[name] for name in "abcde"}, "f": None}
    cells = [cell.strip() for cell in format_radii([found]).splitlines()[2].split("|")[1:-1]]
    assert cells == ["min_radius linf", "99 %", "4", "6", "0/255", "0.5/255", "3/255", "2", "1", "50 %", "83 %"]


def test_radii_are_recorded_and_reported(run, tmp_path):
    results = run("a", "--attack", "min_radius", "pgd")
    assert [row["attack"] for row in results["results"]] == ["none", "pgd", "pgd"]  # a radius of one's own is no eps
    found, = results["radii"]
    record = read_one(tmp_path / "a", "min_radius_linf")
    for line in record.lines(record.names):
        wrong = 1 - sum(line["intersection"]) / sum(line["pixels"])
        assert found["radii"][line["image"]] == (line["radius"] if wrong >= 0.99 - 1e-9 else None)
    assert [eps for eps, _ in found["at most"]] == [2 / 255, 4 / 255]
    main(["--report", str(tmp_path / "a"), "--eps", "8/255", "2/255", "--report_dir", str(tmp_path / "r")])
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [eps for eps, _ in report["radii"][0]["at most"]] == [8 / 255, 2 / 255]
    text = (tmp_path / "r" / "report.md").read_text()
    assert "## Smallest radius" in text and "radii.png" in text and (tmp_path / "r" / "radii.png").stat().st_size > 5000


def test_a_script_gets_both():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 5, 1)).eval()
    _, data = build_datasets("synthetic", data_root="", train=False)
    data = torch.utils.data.Subset(data, range(2))
    results = sweep(model, torch.utils.data.DataLoader(data), data, [Race(eps=0.02, steps=5), MinRadius(steps=8)],
                    class_names=["0", "1", "2", "3", "4"])
    assert [row["attack"] for row in results["results"]] == ["none", "race"]
    assert np.isclose([eps for eps, _ in results["radii"][0]["at most"]], np.array([0.25, 0.5, 1, 2, 4, 8]) / 255).all()
