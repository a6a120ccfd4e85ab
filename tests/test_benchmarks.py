"""benchmarks: the comparison of two files, ratios by hand, and that the plain way loads what ours loads."""
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import compare as comparison
from benchmarks import data_loading, plain, table, timing


def result(median, *, low=None, high=None, case="SGD", better="higher"):
    return timing.Result("train_step", case, "plain", better, "times as fast as", median, low or median, high or median,
                         rounds=5)


@pytest.fixture
def write(tmp_path):
    def run(name, *results, device="CPU"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({**asdict(each), "device": device}) + "\n" for each in results))
        return str(path)

    return run


@pytest.mark.parametrize(("old", "new", "better", "worse"), [
    (1.5, 1.5, "higher", False), (1.5, 1.36, "higher", False), (1.5, 1.34, "higher", True), (1.5, 3.0, "higher", False),
    (2.0, 2.15, "lower", False), (2.0, 2.3, "lower", True), (2.0, 1.0, "lower", False)])
def test_a_ratio_that_is_worse_by_a_tenth_fails(write, capsys, old, new, better, worse):
    files = write("old", result(old, better=better)), write("new", result(new, better=better))
    assert comparison.main(files) == worse
    assert (f"train_step SGD plain times as fast as: {old:.2f} -> {new:.2f}" in capsys.readouterr().out) == worse


def test_ranges_that_overlap_do_not_fail(write):
    assert comparison.main([write("old", result(1.5, low=1.2, high=1.6)),
                            write("new", result(1.3, low=1.1, high=1.4))]) == 0


def test_a_missing_ratio_fails_and_another_device_is_named(write, capsys):
    files = write("old", result(1.5), result(1.5, case="SAM")), write("new", result(1.5), device="GPU")
    assert comparison.main(files) == 1
    found = capsys.readouterr().out
    assert "train_step SAM plain times as fast as: missing" in found and "different devices" in found


def test_what_is_not_results_is_an_error(tmp_path, capsys):
    (tmp_path / "a").write_text("no JSON")
    with pytest.raises(SystemExit) as stop:
        comparison.main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert stop.value.code == 2 and "can't read the results" in capsys.readouterr().err


@pytest.mark.parametrize(("better", "median", "missed"), [
    ("higher", 1.25, False), ("higher", 1.24, True), ("lower", 1.25, False), ("lower", 1.26, True)])
def test_a_goal_is_missed_on_one_side_of_its_bound(write, monkeypatch, better, median, missed):
    monkeypatch.setattr(table, "GOALS", (("a goal", 1.25, {"": ("train_step", "SGD", "plain")}),))
    path = Path(write("a", result(median, better=better)))
    assert f"| {median:.2f}{' (missed)' * missed}" in table.format_goals([path])


def test_ratios_are_those_of_pairs():
    found = {"ours": timing.Measured([1.0, 2.0, 4.0], [3.0, 3.0, 3.0]),
             "plain": timing.Measured([2.0, 6.0, 4.0], [6.0, 6.0, 9.0])}
    one = timing.compare("b", "ours", "plain", found, per=2)
    assert (one.median, one.low, one.high, one.seconds, one.other_seconds) == (2.0, 1.0, 3.0, 1.0, 2.0)
    assert timing.compare("b", "ours", "plain", found, cpu=True).high == 3.0
    assert timing.compare_cost("b", "ours", "plain", found).median == 0.5


@pytest.mark.slow
def test_subjects_run_in_processes_of_their_own_in_turn():
    found = timing.measure_in_turn({"a": make_counter, "plain b": make_counter}, rounds=2)
    assert set(found) == {"a", "plain b"}
    for measured in found.values():
        assert len(measured.seconds) == len(measured.cpu_seconds) == 2 and measured.gib > 0


def make_counter():
    calls = []
    return lambda: calls.append(sum(range(1000)))


def test_the_plain_way_scales_pads_crops_and_flips(tmp_path):
    data_loading.draw_images(tmp_path)
    image, label = plain.load(tmp_path / "train" / "0.png", tmp_path / "trainannot" / "0.png", 64, void_from=11)
    assert image.shape == (3, 64, 64) and label.shape == (64, 64) and image.abs().max() < 3
    assert {*label.unique().tolist()} <= {*range(11), 255}
    Image.new("RGB", (20, 10), (255, 255, 255)).save(tmp_path / "a.png")
    Image.fromarray(np.full((10, 20), 3, np.uint8)).save(tmp_path / "b.png")
    _, label = plain.load(tmp_path / "a.png", tmp_path / "b.png", 64)
    assert {*label.unique().tolist()} == {3, 255}
