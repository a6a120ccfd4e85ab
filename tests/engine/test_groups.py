"""--report A1,A2 B1,B2: mean, spread and difference of groups of runs, against NumPy from the records themselves."""
import json

import numpy as np
import pytest

from engine.report.groups import name_groups
from main import main
from tests.recorded import CLEAN, NAMES, apgd, pgd, record
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Six runs, of two groups, with three attacks; b lacks one of them."""
    for number, run in enumerate(("a_1", "a_2", "a_3", "b_1", "b_2", "b_3")):
        record(tmp_path / run, CLEAN, seed=number)
        record(tmp_path / run, pgd(), seed=10 + number)
        record(tmp_path / run, apgd("mce"), seed=20 + number)
        if run[0] == "a":
            record(tmp_path / run, pgd(8 / 255), seed=30 + number)
    return tmp_path


def report(folder, *groups):
    return main(["--report", *groups, "--output_dir", str(folder), "--report_dir", str(folder / "out")])


def read_counts(folder, run, label):
    """[3, N, S], read with json alone: intersection, union, pixels."""
    (path,) = (folder / run / "records").glob(f"{label}_*")
    lines = {line["image"]: line for line in map(json.loads, path.read_text().splitlines()[1:])}
    return np.array([[lines[name][key] for name in NAMES] for key in ("intersection", "union", "pixels")])


def find(content, attack, eps="4/255"):
    (line,) = [line for line in content["groups"] if (line["attack"], line["eps"]) == (attack, eps)]
    return line


def test_means_spreads_and_differences(folder):
    content = report(folder, "a_1,a_2,a_3", "b_1,b_2,b_3")
    line = find(content, "pgd")
    values = {}
    for group in "ab":
        found = [read_counts(folder, f"{group}_{seed}", "pgd_linf_4-255") for seed in (1, 2, 3)]
        values[group] = np.array([np.mean(i.sum(0) / u.sum(0)) for i, u, _ in found])
        right = [i.sum() / pixels.sum() for i, _, pixels in found]
        of_group = line["groups"][f"{group} (3 runs)"]
        assert of_group["mIoU"]["values"] == pytest.approx(values[group])
        assert of_group["mIoU"]["mean"] == pytest.approx(values[group].mean())
        assert of_group["mIoU"]["spread"] == pytest.approx(values[group].std(ddof=1))
        assert of_group["aAcc"]["mean"] == pytest.approx(np.mean(right))
    found = line["differences"]["b (3 runs)"]["mIoU"]
    pairs = values["b"] - values["a"]
    assert found["mean"] == pytest.approx(pairs.mean())
    half = 4.303 * pairs.std(ddof=1) / 3**0.5
    assert found["t"] == pytest.approx([pairs.mean() - half, pairs.mean() + half])
    assert found["bootstrap"][0] < found["mean"] < found["bootstrap"][1]
    assert found["bootstrap"][0] >= pairs.min() - 0.1 and found["bootstrap"][1] <= pairs.max() + 0.1
    assert line["differences"].keys() == {"b (3 runs)"}


def test_an_attack_that_one_group_lacks_has_no_difference(folder):
    line = find(report(folder, "b_1,b_2,b_3", "a_1,a_2,a_3"), "pgd", "8/255")
    assert list(line["groups"]) == ["a (3 runs)"] and line["differences"] == {}


def test_of_a_union_the_scores_are_those_of_its_row(folder):
    content = report(folder, "a_1,a_2,a_3", "b_1,b_2,b_3")
    line = find(content, "worst case of 2")
    rows = {row["run"]: row for row in content["rows"] if row["attack"] == "worst case" and row["eps"] == 4 / 255}
    for score, key in (("mIoU", "Mean IoU"), ("aAcc", "Overall Acc")):
        means = [np.mean([rows[f"{group}_{seed}"][key] for seed in (1, 2, 3)]) for group in "ab"]
        assert line["differences"]["b (3 runs)"][score]["mean"] == pytest.approx(means[1] - means[0])


def test_groups_of_other_sizes_and_single_runs(folder):
    line = find(report(folder, "a_1,a_2,a_3", "b_1", "b_2,b_3"), "pgd")
    assert list(line["groups"]) == ["a (3 runs)", "b_1", "b (2 runs)"]
    assert line["groups"]["b_1"]["mIoU"]["spread"] is None
    assert line["differences"]["b_1"]["mIoU"]["t"] is None
    assert line["differences"]["b_1"]["mIoU"]["bootstrap"][0] < line["differences"]["b_1"]["mIoU"]["bootstrap"][1]


def test_the_table_is_in_the_report_and_runs_alone_have_none(folder):
    report(folder, "a_1,a_2,a_3", "b_1,b_2,b_3")
    text = (folder / "out" / "report.md").read_text()
    assert "## Groups" in text and "bootstrap" in text and "; t " in text
    assert "groups" not in report(folder, "a_1", "b_1")
    assert "## Groups" not in (folder / "out" / "report.md").read_text()


def test_a_folder_whose_name_has_a_comma_is_one_run(folder):
    record(folder / "c,d", CLEAN)
    assert report(folder, "c,d")["runs"] == ["c,d"]


@pytest.mark.parametrize(("groups", "names"), [
    ([["sgd_1", "sgd_2"], ["sam_0.02_1", "sam_0.02_2"]], ["sgd (2 runs)", "sam_0.02 (2 runs)"]),
    ([["toy", "toy2"], ["toy3", "toy4"]], ["toy and 1 more", "toy3 and 1 more"]),
    ([["x", "y"], ["z"]], ["x and 1 more", "z"]),
    ([["run1", "run2"], ["run3", "run4"]], ["run1 and 1 more", "run3 and 1 more"])])
def test_a_group_is_named_by_what_its_runs_share(groups, names):
    assert name_groups(groups) == dict(zip(names, groups, strict=True))


def test_a_run_given_twice_is_refused():
    with pytest.raises(UserError, match="a_1 is given twice"):
        name_groups([["a_1", "a_2"], ["a_1"]])


@pytest.mark.parametrize("given", ["a_1,", ",a_1", "a_1,,a_2"])
def test_an_empty_name_is_refused(folder, given, capsys):
    with pytest.raises(SystemExit) as stop:
        report(folder, given)
    assert stop.value.code == 2 and f"{given!r} has an empty name" in capsys.readouterr().err


def test_a_missing_run_of_a_group_is_named(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        report(folder, "a_1,a_9")
    assert stop.value.code == 2 and "no folder a_9" in capsys.readouterr().err
