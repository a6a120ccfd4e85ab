"""--report: rows against plain NumPy and brute force, which records count, and the files that are written."""
import csv
import itertools
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from attacks import ENSEMBLE_LOSSES, SEA_LOSSES
from attacks.corruption import Corruption
from engine.records import naming
from engine.records.rows import make_rows
from engine.records.store import Record, read
from engine.report import curves, figures, tables
from engine.report import write as writing
from engine.report.write import write_report
from tests.recorded import CLASSES, CLEAN, NAMES, apgd, pgd, pixels_of, record, record_without_first_class
from utils.errors import UserError
from utils.logging import logger


def load(run):
    return [Record(path, *read(path)) for path in sorted((run / "records").iterdir())]


def rows_in(run, names=NAMES, class_names=CLASSES):
    return make_rows(load(run), names, class_names=class_names)


def counts(path, names=NAMES):
    """[3, N, S]: intersection, union, pixels, read with json alone."""
    lines = {line["image"]: line for line in map(json.loads, path.read_text().splitlines()[1:])}
    return np.array([[lines[name][key] for name in names] for key in ("intersection", "union", "pixels")])


def miou(intersection, union):
    return np.mean(intersection.sum(0) / union.sum(0))


def find(rows, attack, **wanted):
    (row,) = [row for row in rows if row["attack"] == attack and all(row[key] == wanted[key] for key in wanted)]
    return row


@pytest.fixture
def log():
    """The lines that were logged, (level, text) each."""
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler, level = Keep(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def warnings(log):
    return [text for level, text in log if level == "WARNING"]


# Rows


def test_rows_of_records_are_those_of_numpy(tmp_path):
    paths = {"none": record(tmp_path, CLEAN), "pgd": record(tmp_path, pgd())}
    rows = rows_in(tmp_path)
    assert [row["attack"] for row in rows] == ["none", "pgd"], "a single attack has no worst case"
    for row in rows:
        path = paths[row["attack"]]
        intersection, union, pixels = counts(path)
        iou = intersection.sum(0) / union.sum(0)
        assert row["Mean IoU"] == pytest.approx(iou.mean(), abs=1e-12)
        assert row["Foreground IoU"] == pytest.approx(iou[1:].mean(), abs=1e-12)
        assert row["Class IoU"] == pytest.approx(dict(zip(CLASSES, iou, strict=True)), abs=1e-12)
        assert row["Image IoU"] == pytest.approx((intersection / union).mean(1).mean(), abs=1e-12)
        assert row["Overall Acc"] == pytest.approx(intersection.sum() / pixels.sum(), abs=1e-12)
        assert row["Mean Acc"] == pytest.approx((intersection.sum(0) / pixels.sum(0)).mean(), abs=1e-12)
        assert row["ratio"] == pytest.approx(iou.mean() / miou(*counts(paths["none"])[:2]), abs=1e-12)
        assert (row["records"], row["members"], row["images"], row["Mean IoU lower"]) == ([path.stem], [], 4, None)
    clean, attacked = rows
    assert clean["settings"] == CLEAN and clean["ratio"] == 1 and attacked["settings"] == pgd()
    assert [attacked[key] for key in ("attack_loss", "norm", "eps", "steps")] == ["ce", "linf", 4 / 255, 10]
    assert attacked["radius"] == pytest.approx(0.8 * 4 / 255) and attacked["loss"] == 3.0
    assert (attacked["forwards"], attacked["backwards"]) == (11.5, 10)


def test_unions_are_those_of_brute_force(tmp_path):
    paths = [record(tmp_path, CLEAN, change={"two": (np.zeros(3, int), pixels_of("two") + 50)})]
    paths += [record(tmp_path, apgd(loss)) for loss in SEA_LOSSES]
    record(tmp_path, apgd("js", 8 / 255), seed=0)  # another eps never counts
    sea, worst = (find(rows_in(tmp_path), name, eps=4 / 255) for name in ("sea", "worst case"))
    members = np.stack([counts(path) for path in paths])  # [K, 3, N, S], clean among them
    selections = [members[list(choice), :, range(4)] for choice in itertools.product(range(4), repeat=4)]  # [N, 3, S]
    lowest = min(miou(chosen[:, 0], chosen[:, 1]) for chosen in selections)
    bound = np.mean(members[:, 0].min(0).sum(0) / members[:, 1].max(0).sum(0))
    assert sea["Mean IoU lower"] == pytest.approx(bound, abs=1e-12)
    assert bound <= lowest <= sea["Mean IoU"] + 1e-12
    assert sea["Mean IoU"] < min(miou(*member[:2]) for member in members[1:]) - 0.01, "clean is worse on one image"
    pixels = members[0, 2].sum()
    assert sea["Overall Acc"] == pytest.approx(min(chosen[:, 0].sum() for chosen in selections) / pixels, abs=1e-12)
    image_iou = min((chosen[:, 0] / chosen[:, 1]).mean(1).mean() for chosen in selections)
    assert sea["Image IoU"] == pytest.approx(image_iou, abs=1e-12)
    assert sea["settings"] is None and sea["loss"] is None and sea["attack_loss"] is None
    assert sea["members"] == [naming.make_label(apgd(loss)) for loss in ("js", "mce", "mce_bal")]
    assert sorted(sea["records"]) == sorted(path.stem for path in paths[1:])
    assert (sea["steps"], sea["restarts"], sea["forwards"], sea["backwards"]) == (100, 1, 3 * 101.5, 300)
    assert sea["radius"] == pytest.approx(0.8 * 4 / 255) and sea["ratio"] < 1
    assert {**worst, "attack": "sea", "steps": 100, "restarts": 1} == sea


@pytest.mark.parametrize(("settings", "unions"), [
    ([apgd(loss) for loss in SEA_LOSSES], ["sea", "worst case"]),
    ([apgd(loss) for loss in ENSEMBLE_LOSSES], ["sea", "ensemble", "worst case"]),
    ([apgd(loss) for loss in ("mce", "js", "cospgd")], ["worst case"]),
    ([apgd(loss, red_eps=False) for loss in SEA_LOSSES], ["worst case"]),
    ([apgd(loss, steps=300 if loss == "js" else 100) for loss in SEA_LOSSES], ["worst case"]),
    ([apgd(loss, seed=2 if loss == "js" else 1) for loss in SEA_LOSSES], ["worst case"]),
    ([apgd(loss, seed=seed) for loss in SEA_LOSSES for seed in (1, 2)], ["sea", "sea", "worst case"]),
    ([apgd(loss, target=0) for loss in SEA_LOSSES], []),
    ([pgd(), pgd(target=1)], []),
    ([pgd(), pgd(norm="l2")], []),
    ([pgd(), pgd(2 / 255)], []),
    ([pgd(), pgd(seed=2)], ["worst case"]),
    ([], [])])
def test_what_makes_a_union(tmp_path, settings, unions):
    for one in [CLEAN, *settings]:
        record(tmp_path, one)
    rows = rows_in(tmp_path)
    assert [row["attack"] for row in rows if row["members"]] == unions
    assert len(rows) == 1 + len(settings) + len(unions)


def test_the_worst_case_differs_in_steps_and_leaves_targeted_ones_out(tmp_path):
    for settings in (CLEAN, pgd(), apgd("mce"), pgd(target=0)):
        record(tmp_path, settings)
    worst = find(rows_in(tmp_path), "worst case")
    assert worst["members"] == ["red-apgd-mce_linf_4-255_100steps", "pgd_linf_4-255_10steps"]
    assert worst["steps"] is worst["restarts"] is None


def test_rows_have_an_order(tmp_path):
    for settings in (pgd(1.0, norm="l2"), pgd(8 / 255), apgd("mce"), pgd(2 / 255, steps=20), pgd(2 / 255), CLEAN,
                     apgd("js")):
        record(tmp_path, settings)
    keys = ("attack", "attack_loss", "norm", "steps", "eps")
    assert [tuple(row[key] for key in keys) for row in rows_in(tmp_path)] == [
        ("none", None, None, 0, 0.0),
        ("apgd", "js", "linf", 100, 4 / 255), ("apgd", "mce", "linf", 100, 4 / 255),
        ("pgd", "ce", "linf", 10, 2 / 255), ("pgd", "ce", "linf", 10, 8 / 255), ("pgd", "ce", "linf", 20, 2 / 255),
        ("pgd", "ce", "l2", 10, 1.0),
        ("worst case", None, "linf", None, 2 / 255), ("worst case", None, "linf", None, 4 / 255)]


def test_without_a_background_class_there_is_no_foreground(tmp_path):
    record(tmp_path, CLEAN, class_names=["road", "sky", "tree"])
    (row,) = rows_in(tmp_path, class_names=["road", "sky", "tree"])
    assert "Foreground IoU" not in row and list(row["Class IoU"]) == ["road", "sky", "tree"]


# Which records count


@pytest.fixture
def run(tmp_path):
    """A run with several attacks."""
    folder = tmp_path / "sgd"
    for settings in (CLEAN, pgd(2 / 255), pgd(), pgd(1.0, norm="l2"), *map(apgd, SEA_LOSSES)):
        record(folder, settings)
    return folder


@pytest.mark.parametrize(("filters", "kept"), [
    ({}, 7), ({"attacks": ["pgd"]}, 4), ({"attacks": ["apgd", "pgd"]}, 7), ({"losses": ["mce", "js"]}, 3),
    ({"norm": "l2"}, 2), ({"eps": [4 / 255]}, 5), ({"eps": [0.015686274509803922 * (1 + 1e-12), 2 / 255]}, 6),
    ({"eps": 2 / 255}, 2), ({"attacks": ["pgd"], "norm": "linf", "eps": [2 / 255]}, 2), ({"attacks": ["sea"]}, 4),
    ({"attacks": ["ensemble"], "losses": ["mce"]}, 2)])
def test_filters(run, tmp_path, filters, kept):
    content = write_report([run], tmp_path / "out", **filters)
    assert sum(not row["members"] for row in content["rows"]) == kept
    assert content["rows"][0]["attack"] == "none"
    named = [name for row in content["rows"] for name in row["records"]]
    assert set(named) == {row["records"][0] for row in content["rows"] if row["settings"]}, "unions are of these alone"


def test_filters_that_leave_nothing_are_an_error(run, tmp_path):
    with pytest.raises(UserError, match="no record of sgd matches .*choose from .*pgd_l2_1_10steps"):
        write_report([run], tmp_path / "out", attacks=["fgsm"])
    assert not (tmp_path / "out").exists()


def test_noise_is_recorded_by_its_kinds(tmp_path):
    for name in ("uniform_noise", "sign_noise"):
        record(tmp_path / "sgd", {**pgd(), "attack": name, "attack_loss": None, "steps": 0})
    record(tmp_path / "sgd", CLEAN)
    record(tmp_path / "sgd", pgd())
    content = write_report([tmp_path / "sgd"], tmp_path / "out", attacks=["noise"])
    assert [row["attack"] for row in content["rows"]] == ["none", "sign_noise", "uniform_noise", "worst case"]


def test_records_of_other_weights_are_left_out(tmp_path, log):
    old, attack = record(tmp_path / "sgd", CLEAN, subject="old", seed=1), record(tmp_path / "sgd", pgd(), subject="old")
    new = record(tmp_path / "sgd", CLEAN, subject="new", seed=2)
    other = record(tmp_path / "sgd", pgd(), subject="new")
    for time, path in enumerate((old, new, attack, other)):
        os.utime(path, ns=(10**18 + time, 10**18 + time))
    content = write_report([tmp_path / "sgd"], tmp_path / "out")
    assert [row["records"] for row in content["rows"]] == [[new.stem], [other.stem]]
    (line,) = warnings(log)
    assert "2 of 4 records are left out, as weights differs" in line and old.stem in line and attack.stem in line
    os.utime(old, ns=(2 * 10**18, 2 * 10**18))
    content = write_report([tmp_path / "sgd"], tmp_path / "out")
    assert [row["records"] for row in content["rows"]] == [[old.stem], [attack.stem]]


def test_figures_are_over_the_images_that_all_have(tmp_path, log):
    names = "dcba"
    paths = [record(tmp_path / run, settings, names=names) for run, settings, names in (
        ("sgd", CLEAN, names), ("sgd", pgd(), "abc"), ("sam", CLEAN, "cbae"), ("sam", pgd(), "ba"))]
    content = write_report([tmp_path / "sgd", tmp_path / "sam"], tmp_path / "out")
    assert content["images"] == ["b", "a"]
    for row, path in zip(content["rows"], paths, strict=True):
        assert row["Mean IoU"] == pytest.approx(miou(*counts(path, ["a", "b"])[:2])) and row["images"] == 2
    expected = "figures are over the 2 images that all records have; pgd_linf_4-255_10steps of sam has 2 of 4"
    assert warnings(log) == [expected] and expected in (tmp_path / "out" / "report.md").read_text()


def test_the_same_images_in_another_order_are_no_warning(tmp_path, log):
    record(tmp_path / "sgd", CLEAN)
    record(tmp_path / "sgd", pgd(), names=NAMES[::-1])
    assert write_report([tmp_path / "sgd"], tmp_path / "out")["images"] == NAMES and not warnings(log)


def test_a_record_that_a_kill_left_is_read(tmp_path, log):
    record(tmp_path / "sgd", CLEAN)
    torn, empty, nothing = (record(tmp_path / "sgd", pgd(eps)) for eps in (0.1, 0.2, 0.3))
    torn.write_bytes(torn.read_bytes()[:-5])
    empty.write_bytes(empty.read_bytes().split(b"\n")[0] + b"\n")
    nothing.write_bytes(b"")
    content = write_report([tmp_path / "sgd"], tmp_path / "out")
    assert content["images"] == NAMES[:3] and [row["eps"] for row in content["rows"]] == [0.0, 0.1]
    line = warnings(log)[0]
    assert "left out 2 records without an image: " in line and empty.stem in line and nothing.stem in line


ERRORS = {
    "no records": (lambda runs: None, "sgd/records holds no records: evaluate first with --test_only --attack"),
    "no clean": (lambda runs: record(runs / "sgd", pgd()), "no clean record in .*records: evaluate with --test_only"),
    "empty": (lambda runs: (record(runs / "sgd", pgd()), record(runs / "sgd", CLEAN, names=[])), "no clean record in"),
    "classes": (lambda runs: (record(runs / "sgd", CLEAN), record(runs / "sam", CLEAN, class_names=["x", "y", "z"])),
                "sgd has the classes background, road, sky, sam has x, y, z"),
    "images": (lambda runs: (record(runs / "sgd", CLEAN), record(runs / "sgd", pgd(), names=["other"])),
               "no image is in all records .pgd_linf_4-255_10steps of sgd has 1 of 4"),
    "damaged": (lambda runs: record(runs / "sgd", CLEAN).write_text("{}\n"), "line 1 is damaged")}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(tmp_path, name):
    make, message = ERRORS[name]
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        write_report([tmp_path / "sgd", *([tmp_path / "sam"] if name == "classes" else [])], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_labels_are_an_error(tmp_path):
    record(tmp_path / "sgd", CLEAN)
    path = record(tmp_path / "sam", CLEAN)
    path.write_text(path.read_text().replace(str(pixels_of("three").tolist()).replace(" ", ""), "[1,2,3]"))
    with pytest.raises(UserError, match="labels of three differ between clean_.* of sam and clean_.* of sgd"):
        write_report([tmp_path / "sgd", tmp_path / "sam"], tmp_path / "out")


# Side by side


def cells(text):
    """The first Markdown table of a text, as lists."""
    lines = [line for line in text.split("\n\n") if line.startswith("|")][0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not set(line) <= set("|- ")]


def test_two_runs_side_by_side(run, tmp_path):
    record(tmp_path / "sam", CLEAN, seed=5)
    record(tmp_path / "sam", pgd(), seed=5)
    content = write_report([run, tmp_path / "sam"], tmp_path / "out")
    assert content["runs"] == ["sgd", "sam"] and {row["run"] for row in content["rows"]} == {"sgd", "sam"}
    head, *lines = cells((tmp_path / "out" / "report.md").read_text())
    assert head[:5] == ["attack", "loss", "norm", "eps", "steps"]
    titles = ("mIoU", "aAcc", "Image IoU", "ratio")
    assert head[5:] == [f"{name}: {title}" for name in ("sgd", "sam") for title in titles]
    assert len(lines) == 8 and all(len(line) == len(head) for line in lines)
    line = next(line for line in lines if line[:5] == ["pgd", "ce", "linf", "4/255", "10"])
    for name, found in (("sgd", line[5:9]), ("sam", line[9:])):
        row = find(content["rows"], "pgd", run=name, eps=4 / 255)
        assert found == [f"{row[key]:.4f}" for key in ("Mean IoU", "Overall Acc", "Image IoU", "ratio")]
    sea = find(content["rows"], "sea")
    line = next(line for line in lines if line[0] == "sea")
    assert line[5] == f"{sea['Mean IoU']:.4f} (>= {sea['Mean IoU lower']:.4f})" and line[9:] == ["-"] * 4
    assert [line[0] for line in lines] == ["none", "red-apgd", "red-apgd", "red-apgd", "pgd", "pgd", "pgd", "sea"]


def test_one_run_has_no_name_in_its_columns(run, tmp_path):
    write_report([run], tmp_path / "out")
    assert cells((tmp_path / "out" / "report.md").read_text())[0][5:] == ["mIoU", "aAcc", "Image IoU", "ratio"]


def test_what_one_run_alone_has_is_a_line_in_its_place(tmp_path):
    for name, settings in (("sgd", [CLEAN, pgd(), pgd(2 / 255)]), ("sam", [CLEAN, pgd(), pgd(seed=2), apgd("mce")])):
        for one in settings:
            record(tmp_path / name, one)
    content = write_report([tmp_path / "sgd", tmp_path / "sam"], tmp_path / "out")
    _, *lines = cells((tmp_path / "out" / "report.md").read_text())
    assert [(line[0], line[3], [cell != "-" for cell in line[5::4]]) for line in lines] == [
        ("none", "0", [True, True]), ("red-apgd", "4/255", [False, True]), ("pgd (seed 1)", "2/255", [True, False]),
        ("pgd (seed 1)", "4/255", [True, True]), ("pgd (seed 2)", "4/255", [False, True])]
    assert not any("worst" in panel.title for panel in curves.make_panels(content["rows"]))


def test_worst_cases_are_of_the_records_that_all_runs_have(tmp_path):
    for name, more in (("sgd", ()), ("sam", [pgd()]), ("adv", ())):
        for one in (CLEAN, apgd("mce"), apgd("js"), *more):
            record(tmp_path / name, one)
    content = write_report([tmp_path / name for name in ("sgd", "sam", "adv")], tmp_path / "out")
    _, *lines = cells((tmp_path / "out" / "report.md").read_text())
    assert [(line[0], [cell != "-" for cell in line[5::4]]) for line in lines[-2:]] == [
        ("pgd", [False, True, False]), ("worst case of 2", [True, True, True])]
    assert [panel.title for panel in curves.make_panels(content["rows"])][-1] == "worst case of 2"
    alone = write_report([tmp_path / "sam"], tmp_path / "alone")
    assert len(find(alone["rows"], "worst case")["members"]) == 3


def test_runs_of_one_name_get_their_parents(tmp_path):
    for folder in ("a/sgd", "b/sgd", "b/sam"):
        record(tmp_path / folder, CLEAN)
    runs = [tmp_path / "a" / "sgd", tmp_path / "b" / "sgd"]
    assert write_report(runs, tmp_path / "out")["runs"] == ["a/sgd", "b/sgd"]
    again = runs[0] / ".." / "sgd"  # the same folder
    assert write_report([*runs, again], tmp_path / "out")["runs"] == ["a/sgd", "b/sgd"]
    assert write_report([runs[1], tmp_path / "b" / "sam"], tmp_path / "out")["runs"] == ["sgd", "sam"]


def lines_of(*settings, runs=1, row=None):
    """side_by_side of made-up rows, settings k in run k % runs."""
    rows = [{"run": str(k % runs), "settings": one, "members": [], "records": [str(k)], "attack": one["attack"],
             "Class IoU": dict.fromkeys(CLASSES), **{key: one.get(key) for key in (
                 "attack_loss", "norm", "eps", "steps", "restarts")}} for k, one in enumerate(settings)]
    return tables.align_rows(rows)


def test_lines_of_equal_titles_are_told_apart():
    names = [(line["attack"], line["eps"], line["steps"]) for line in lines_of(
        pgd(), pgd(seed=2), pgd(8 / 255), pgd(restarts=5), pgd(target=1), pgd(target=[0, 1] * 99), pgd(steps=20))]
    (mapped,) = [name for name in names if name[0].startswith("pgd to #")]
    assert names == [("pgd (seed 1)", "4/255", "10"), ("pgd (seed 1)", "8/255", "10"), ("pgd (seed 2)", "4/255", "10"),
                     ("pgd", "4/255", "5 x 10"), ("pgd to road", "4/255", "10"), mapped, ("pgd", "4/255", "20")]


def test_runs_share_a_line_only_where_settings_are_equal():
    same, = lines_of(pgd(), pgd(), runs=2)
    assert list(same["rows"]) == ["0", "1"] and same["attack"] == "pgd"
    first, second = lines_of(pgd(), pgd(step_size=0.01), runs=2)
    assert (first["attack"], second["attack"]) == ("pgd (step_size eps x 0.25)", "pgd (step_size eps x 0.6375)")


def test_settings_along_a_curve_are_told_in_terms_of_eps():
    """Two shares of eps, warm and cold: four curves of two radii each, and no point on another's."""
    def at(level, share, warm):
        eps = level / 255
        smaller = [{"eps": 1 / 255, "step_size": share / 255}] if warm and level > 1 else []
        return pgd(eps, step_size=share * eps, warm_start=smaller)

    warm = [at(level, share, True) for share in (0.25, 0.5) for level in (1, 2)]
    names = [(line["curve"], line["eps"]) for line in lines_of(*warm)]
    assert names == [("pgd (step_size eps x 0.25)", "1/255"), ("pgd (step_size eps x 0.25)", "2/255"),
                     ("pgd (step_size eps x 0.5)", "1/255"), ("pgd (step_size eps x 0.5)", "2/255")]


def test_a_copy_of_a_record_is_named(run, tmp_path):
    path = next((run / "records").glob("clean_*"))
    (run / "records" / "clean_backup.jsonl").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="clean_backup.*record the same attack"):
        write_report([run], tmp_path / "out")


# Files


def test_every_file_is_written_and_well_formed(run, tmp_path, log):
    record(tmp_path / "sam", CLEAN)
    record(tmp_path / "sam", pgd())
    content = write_report([run, tmp_path / "sam"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curves.png", "report.csv", "report.html", "report.json", "report.md"]

    def no_constant(text):
        raise ValueError(text)

    assert json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=no_constant) == content
    with open(tmp_path / "out" / "report.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(content["rows"])
    for line, row in zip(lines, content["rows"], strict=True):
        flat = {**row, "transfer_from": "", "members": " ".join(row["members"]), "records": " ".join(row["records"]),
                **{f"IoU {name}": iou for name, iou in row["Class IoU"].items()}}
        settings = line.pop("settings")
        assert (json.loads(settings) if settings else None) == flat.pop("settings")
        del flat["Class IoU"]
        assert line == {key: "" if value is None else str(value) for key, value in flat.items()}
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        picture.load()
        assert picture.width > picture.height > 300
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Runs: 2. Images: 4." in text and "Note" not in text and "![curves.png](curves.png)" in text
    assert any(str(tmp_path / "out") in line and tables.format_comparison(content["rows"]) in line for _, line in log)


def test_class_and_cost_tables(run, tmp_path):
    content = write_report([run], tmp_path / "out")
    _, classes, cost = (part for part in (tmp_path / "out" / "report.md").read_text().split("\n\n") if part[0] == "|")
    head, *lines = cells(classes)
    assert head[5:] == ["run", *CLASSES] and len(lines) == len(content["rows"])
    row = find(content["rows"], "pgd", eps=2 / 255)
    line = next(line for line in lines if line[:4] == ["pgd", "ce", "linf", "2/255"])
    assert line[5:] == ["sgd", *(f"{row['Class IoU'][name]:.4f}" for name in CLASSES)]
    passes = {line[0]: line[5] for line in cells(cost)}
    assert passes["sea"] == "304.5 + 300" and passes["none"] == "1.5 + 0" and passes["pgd"] == "11.5 + 10"


def test_what_is_undefined_is_null(tmp_path):
    record_without_first_class(tmp_path / "sgd")
    (row,) = write_report([tmp_path / "sgd"], tmp_path / "out")["rows"]
    assert row["Class IoU"] == {"background": None, "road": 0.0, "sky": 0.0} and row["Mean IoU"] == 0
    assert row["Classes"] == 2 and row["ratio"] is None, "no share of nothing"
    head, line = cells((tmp_path / "out" / "report.md").read_text())
    assert dict(zip(head, line, strict=True))["over"] == "2 of 3 classes"
    with open(tmp_path / "out" / "report.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["IoU background"], line["ratio"], line["IoU road"]) == ("", "", "0.0")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_no_half_of_a_report(run, tmp_path, monkeypatch, error):
    write_report([run], tmp_path / "out", attacks=["pgd"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(path, text):
        path.write_text(text)
        if path.name == "report.json":
            raise error

    monkeypatch.setattr(writing, "_write", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        write_report([run], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_an_error(run, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="can't be written"):
        write_report([run], tmp_path / "out")


# Pictures


def test_panels_start_at_clean_and_bracket_unions(run, tmp_path):
    rows = [{"run": "sgd", **row} for row in rows_in(run)]
    found = {(panel.title, panel.norm): panel for panel in curves.make_panels(rows)}
    assert list(found) == [("red-apgd, js, 100 steps", "linf"), ("red-apgd, mce, 100 steps", "linf"),
                           ("red-apgd, mce_bal, 100 steps", "linf"), ("pgd, ce, 10 steps", "linf"),
                           ("pgd, ce, 10 steps", "l2"), ("sea, 100 steps", "linf"), ("worst case of 4", "linf")]
    clean, sea = 100 * rows[0]["Mean IoU"], find(rows, "sea")
    linf, l2 = (found["pgd, ce, 10 steps", norm].curves["sgd"] for norm in ("linf", "l2"))
    assert [point[0] for point in linf] == pytest.approx([0, 2, 4]) and [point[0] for point in l2] == [0, 1]
    assert linf[0] == l2[0] == (0, clean, clean)
    weaker = find(rows, "pgd", eps=2 / 255)
    assert linf[1][1:] == (100 * weaker["Mean IoU"],) * 2, "no bracket"
    assert found["sea, 100 steps", "linf"].curves["sgd"][1][1:] == (100 * sea["Mean IoU"], 100 * sea["Mean IoU lower"])


def test_at_most_twelve_panels_unions_first(tmp_path):
    for settings in (CLEAN, *(pgd(steps=steps) for steps in range(1, 20)), pgd(2 / 255, steps=3)):
        record(tmp_path, settings)
    titles = [panel.title for panel in curves.make_panels([{"run": "sgd", **row} for row in rows_in(tmp_path)])]
    assert titles == ["pgd, ce, 3 steps", *(f"pgd, ce, {steps} steps" for steps in range(10, 20)), "worst case of 19"]


@pytest.mark.filterwarnings("error")
def test_a_clean_record_alone_has_a_panel(tmp_path):
    record(tmp_path / "sgd", CLEAN)
    content = write_report([tmp_path / "sgd"], tmp_path / "out")
    assert [panel.title for panel in curves.make_panels(content["rows"])] == ["clean"]
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert min(picture.size) > 100


def test_curves_show_every_run_and_the_bracket(tmp_path):
    def colours(lower):
        panel = figures.Panel("sea", "linf", {"a": [(0, 80, 80), (4, 60, lower)], "b": [(0, 70, 70), (4, 20, 20)]})
        figures.draw_curves(tmp_path / "curves.png", [panel])
        with Image.open(tmp_path / "curves.png") as picture:
            return {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 20)}

    def shade(colour):
        return tuple(round(255 - 0.25 * (255 - int(colour[k:k + 2], 16))) for k in (1, 3, 5))

    drawn, plain = colours(30), colours(60)
    for colour in figures.COLOURS[:2]:
        assert plain.get(tuple(int(colour[k:k + 2], 16) for k in (1, 3, 5)), 0) > 50
    near = [sum(count for found, count in counted.items() if max(
        abs(a - b) for a, b in zip(found, shade(figures.COLOURS[0]), strict=True)) <= 1) for counted in (drawn, plain)]
    assert near[0] > 1000 > 100 > near[1]


def pictures(run, path, names, *, value):
    folder = run / "val_results" / path.stem
    folder.mkdir(parents=True)
    for name in names:
        for kind in ("image", "target", "pred", "perturbation", "overlay"):
            Image.fromarray(np.full((24, 32, 3), value, np.uint8)).save(folder / f"{name}_{kind}.png")


def test_sheets_show_the_strongest_attack_that_left_pictures(tmp_path):
    run, names = tmp_path / "sgd", [f"img_{k}" for k in range(9)]
    strong = {name: (pixels_of(name) // 9, pixels_of(name)) for name in names}
    clean, weak, strongest, l2 = (record(run, settings, names=names, change=change) for settings, change in (
        (CLEAN, None), (pgd(), None), (pgd(seed=2), strong), (pgd(1.0, norm="l2"), None)))
    stronger = {name: (pixels_of(name) // 18, pixels_of(name)) for name in names}
    unseen = record(run, pgd(seed=3), names=names, change=stronger)
    pictures(run, clean, names[1:], value=50)
    pictures(run, weak, names, value=100)
    pictures(run, strongest, names[:8], value=150)
    pictures(run, l2, names[:1], value=200)  # of an image without clean pictures
    rows = rows_in(run, names)
    lowest, shown = (find(rows, "pgd", records=[path.stem])["Mean IoU"] for path in (unseen, strongest))
    assert lowest < shown
    ((name, title, grid, *_),) = curves.make_sheets("a/sgd", run / "val_results", rows, names=names)
    assert name == "sheet_a-sgd_linf_4-255.png"
    assert title.startswith(f"a/sgd, pgd, 10 steps at 4/255 (linf): mIoU over {len(names)} images {100 * shown:.2f} %,")
    assert list(grid) == ["img_1", "img_3", "img_5", "img_7"]
    folders = {"clean": run / "val_results" / clean.stem, "attacked": run / "val_results" / strongest.stem}
    assert grid["img_3"] == {
        "image": folders["clean"] / "img_3_image.png", "target": folders["clean"] / "img_3_target.png",
        "clean prediction": folders["clean"] / "img_3_pred.png",
        "adversarial image": folders["attacked"] / "img_3_image.png",
        "perturbation": folders["attacked"] / "img_3_perturbation.png",
        "attacked prediction": folders["attacked"] / "img_3_pred.png"}


def test_a_sheet_of_a_severity_has_a_column_for_each_corruption(tmp_path):
    """The label, clean and every corruption with its own mIoU, images above predictions; a severity is a file."""
    run, names = tmp_path / "sgd", [f"img_{k}" for k in range(3)]
    kept = {"fog": 9, "snow": 18, "contrast": 12}
    paths = {"clean": record(run, CLEAN, names=names)}
    paths |= {name: record(run, Corruption(name, severity=3).settings(), names=names, change={
        image: (pixels_of(image) // kept[name], pixels_of(image)) for image in names}) for name in kept}
    later = record(run, Corruption("fog", severity=5).settings(), names=names)
    for value, path in enumerate([*paths.values(), later], start=1):
        if path != paths["contrast"]:
            pictures(run, path, names if path != paths["snow"] else names[1:], value=20 * value)
    rows = rows_in(run, names)
    sheets = {sheet.file: sheet for sheet in curves.make_sheets("sgd", run / "val_results", rows, names=names)}
    assert sheets.keys() == {"sheet_sgd_severity_3.png", "sheet_sgd_severity_5.png"}
    drawn = sheets["sheet_sgd_severity_3.png"].drawn
    assert list(drawn) == ["img_1", "img_1, predicted", "img_2", "img_2, predicted"], "those that all have"
    scores = {name: find(rows, name, eps=3)["Mean IoU"] for name in ("fog", "snow")}
    columns = ["label", f"clean, {100 * find(rows, 'none')['Mean IoU']:.1f} %",
               *(f"{name}, {100 * score:.1f} %" for name, score in scores.items())]
    assert scores["fog"] != scores["snow"] and all(list(row) == columns for row in drawn.values())
    for row, kind in (("img_2", "image"), ("img_2, predicted", "pred")):
        assert list(drawn[row].values()) == [
            run / "val_results" / paths[name].stem / f"img_2_{what}.png"
            for name, what in (("clean", "target"), ("clean", kind), ("fog", kind), ("snow", kind))]
    assert len(next(iter(sheets["sheet_sgd_severity_5.png"].drawn.values()))) == 3
    write_report([run], tmp_path / "out")
    with Image.open(tmp_path / "out" / "sheet_sgd_severity_3.png") as sheet:
        picture = np.array(sheet.convert("L"))
    middle = picture[np.flatnonzero((picture == 20).sum(1) > 100)[5]]
    shown = [level for level, group in itertools.groupby(middle) if level in (20, 40, 60)
             and len(list(group)) > 50]
    assert shown == [20, 20, 40, 60]


def test_sheets_are_drawn_for_the_runs_with_pictures(tmp_path, log):
    paths = {name: [record(tmp_path / name, settings) for settings in (CLEAN, pgd())] for name in ("sgd", "sam")}
    for path, value in zip(paths["sgd"], (50, 200), strict=True):
        pictures(tmp_path / "sgd", path, NAMES, value=value)
    write_report([tmp_path / "sgd", tmp_path / "sam"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("sheet*")] == ["sheet_sgd_linf_4-255.png"]
    with Image.open(tmp_path / "out" / "sheet_sgd_linf_4-255.png") as sheet:
        drawn = np.array(sheet.convert("L"))
    middle = drawn[np.flatnonzero((drawn == 50).sum(1) > 100)[5]]
    runs = [level for level, group in itertools.groupby(middle) if level in (50, 200) and len(list(group)) > 50]
    assert runs == [50, 50, 50, 200, 200, 200], "image, target, clean prediction, then the attack's three"
    assert [text for level, text in log if "pictures" in text] == [
        "sam has no pictures of these records: write them with --sheet_images or --save_val_results"]
    assert "![sheet_sgd_linf_4-255.png](sheet_sgd_linf_4-255.png)" in (tmp_path / "out" / "report.md").read_text()
