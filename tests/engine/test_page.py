"""report.html: its numbers are those of report.json and of the records, nothing in it is loaded or run, it is small."""
import base64
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import ImageSet
from datasets.camvid import CamVid
from datasets.synthetic import Synthetic
from engine.page.answer import list_terms, make_answer
from engine.page.chart import draw_chart, list_ticks
from engine.page.markup import LONGEST, Markup, fit, show, tag, write_minus
from engine.page.pictures import choose_images, encode, find_colours, make_class_legend, make_sheets
from engine.page.runs import describe_runs, hide_folders, loses_in_rounding, make_findings, make_options, read_options
from engine.page.tables import explain_scores, name_worst_cases
from engine.page.write import cite
from engine.report.curves import Sheet
from engine.report.figures import Panel
from engine.report.groups import name_groups
from engine.report.strongest import _find_doubt
from engine.report.write import write_report
from tests.parsed_page import Element, Page, cells_of, find_table, parse
from tests.recorded import CLASSES, CLEAN, apgd, pgd, pixels_of, record, record_without_first_class

MANY = [f"image {k}" for k in range(12)]
ATTACKS = (CLEAN, pgd(), pgd(2 / 255), apgd("mce"), apgd("js"), apgd("mce_bal"), pgd(1.0, norm="l2"))
FOG = {"attack": "fog", "attack_loss": None, "norm": "severity", "eps": 3, "steps": 0, "target": None}
RACE = {**pgd(), "attack": "race", "attack_loss": None, "steps": 120}
MIN_RADIUS = {**pgd(64 / 255), "attack": "min_radius", "min_radius_share": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs with attacks, a corruption and radii, and their report."""
    root = tmp_path_factory.mktemp("page")
    for seed, run in enumerate(("sgd", "sam")):
        for number, settings in enumerate((*ATTACKS, FOG, MIN_RADIUS)):
            record(root / run, settings, names=MANY, seed=10 * number + seed)
    write_report([root / "sgd", root / "sam"], root / "out")
    return root


@pytest.fixture(scope="module")
def page(folder):
    return parse(folder / "out" / "report.html")


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "out" / "report.json").read_text())


def find(rows, run, attack, loss, eps=None, norm="linf"):
    (row,) = [row for row in rows if (row["run"], row["attack"], row["attack_loss"]) == (run, attack, loss)
              and (attack == "none" or (norm == row["norm"] and eps == pytest.approx(row["eps"])))]
    return row


def read_eps(text):
    return float(text.removesuffix("/255")) / (255 if "/255" in text else 1)


def row_of(content, run, cells):
    """The row of report.json that a line of a page's table is about; cells: attack, loss, norm, eps."""
    attack, loss, norm, eps = cells[:4]
    attack = re.sub(r"^red-|(?<=worst case) of .*$", "", attack)
    return find(content["rows"], run, attack, None if loss == "-" else loss, read_eps(eps), norm)


# Numbers


def test_every_score_is_that_of_report_json(page, content):
    top, below, *lines = cells_of(find_table(page, "Scores under attacks (%)"))
    assert top == ["attack", "loss", "norm", "eps", "steps", "mIoU", "aAcc", "Image IoU", "ratio"]
    assert below == ["sgd", "sam"] * 4, "runs side by side, however many scores there are"
    assert len(lines) == len([row for row in content["rows"] if row["run"] == "sgd"]) - 1
    for line in lines:
        for run, cells in (("sgd", line[5::2]), ("sam", line[6::2])):
            row = row_of(content, run, line)
            lower = row["Mean IoU lower"]
            bound = "" if lower is None else f" (\u2265 {100 * lower:.2f})"
            assert cells == [f"{100 * row['Mean IoU']:.2f}{bound}", *(f"{100 * row[key]:.2f}" for key in (
                "Overall Acc", "Image IoU", "ratio"))]
    _, _, (name, severity, *cells) = cells_of(find_table(page, "Scores under corruptions (%)"))
    assert (name, severity) == ("fog", "3")
    assert cells[:2] == [f"{100 * find(content['rows'], run, 'fog', None, 3, 'severity')['Mean IoU']:.2f}"
                           for run in ("sgd", "sam")]


def test_every_class_of_every_attack_is_that_of_report_json(page, content):
    sections = page.all("section", class_="choice")
    tables = [section for section in sections if section.all("table")]
    assert len(tables) == len([row for row in content["rows"] if row["run"] == "sgd"]) - 1
    for section in tables:
        norm, eps, name = re.fullmatch(r"(\w+), (?:eps|severity) ([\d./]+): (.*)", section.all("h3")[0].text()).groups()
        norm = norm.replace("corruption", "severity")
        attack, loss, *_ = [name, None] if name.startswith("worst case") else [*name.split(", "), None]
        loss = None if loss and loss.endswith("steps") else loss
        for line in cells_of(section.all("table")[0])[2:]:
            for run, cells in (("sgd", line[1:5]), ("sam", line[5:])):
                after = row_of(content, run, [attack, loss or "-", norm, eps])["Class IoU"][line[0]]
                before = find(content["rows"], run, "none", None)["Class IoU"][line[0]]
                assert cells[1:3] == [f"{100 * before:.2f}", f"{100 * after:.2f}"]
                lost = float(cells[3].replace("\u2212", "-"))
                assert lost == pytest.approx(float(cells[1]) - float(cells[2]), abs=1e-9)


def read_counts(folder, run, label):
    """[3, N, S], read with json alone: intersection, union, pixels."""
    (path,) = (folder / run / "records").glob(f"{label}_*")
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return np.array([[line[key] for line in lines] for key in ("intersection", "union", "pixels")])


def test_the_first_table_says_what_numpy_finds_in_the_records(page, folder):
    (body,) = page.all("tbody", **{"data-radius": "linf 2/255"})
    iou = {run: [np.divide(*read_counts(folder, run, label).sum(1)[:2]) for label in ("clean", "pgd_linf_2-255")]
           for run in ("sgd", "sam")}
    _, *rows = cells_of(body)
    for run, (name, _, score, most, drop) in zip(iou, rows, strict=True):
        clean, attacked = iou[run]
        worst = (clean - attacked).argmax()
        assert (name, most) == (run, CLASSES[worst]) and score == f"{100 * attacked.mean():.2f}"
        before, after = (f"{100 * value:.2f}" for value in (clean[worst], attacked[worst]))
        assert re.findall(r"[\d.]+", drop) == [before, after, f"{float(before) - float(after):.2f}"]
    highest = max(iou, key=lambda run: iou[run][1].mean())
    assert body.all("b")[0].text() == highest
    gap = abs(round(100 * iou["sgd"][1].mean(), 2) - round(100 * iou["sam"][1].mean(), 2))
    assert f"{gap:.2f} points above" in body.all("p")[0].text()


def test_the_strongest_attack_of_a_radius_is_the_worst_case(page, content):
    lines = {(line["norm"], line["eps"]): line for line in content["strongest"]}
    assert list(lines) == [("-", "0"), ("linf", "2/255"), ("linf", "4/255"), ("l2", "1")]
    found = lines["linf", "4/255"]
    assert found["attack"] == "worst case of 4"
    for run in ("sgd", "sam"):
        row = find(content["rows"], run, "worst case", None, 4 / 255)
        assert (found["groups"][run]["mIoU"], found["groups"][run]["lower"]) == (row["Mean IoU"], row["Mean IoU lower"])
    assert lines["-", "0"]["groups"]["sgd"]["most"] is None


def test_a_run_is_called_higher_only_if_everything_allows_it():
    difference = {"mean": 0.1, "bootstrap": [0.05, 0.15], "t": None}
    groups = {"mIoU": 0.5, "lower": None}, {"mIoU": 0.4, "lower": 0.3}

    def doubt(change=None, higher=groups[0], sizes=(1, 1), images=50):
        return _find_doubt({**difference, **(change or {})}, higher, groups[1], sizes=sizes, images=images)

    assert doubt() == "" and doubt({"t": [0.01, 0.2]}, sizes=(3, 3)) == ""
    assert "too few" in doubt(images=9)
    assert "chance" in doubt({"bootstrap": [-0.01, 0.2]}) and "chance" in doubt({"t": [-0.01, 0.2]}, sizes=(3, 3))
    assert "brackets" in doubt(higher={"mIoU": 0.5, "lower": 0.39})
    assert "t interval" in doubt(sizes=(3, 2))


def test_with_few_images_no_run_is_called_higher(tmp_path):
    for seed, run in enumerate(("sgd", "sam")):
        for settings in (CLEAN, pgd()):
            record(tmp_path / run, settings, seed=seed)
    write_report([tmp_path / "sgd", tmp_path / "sam"], tmp_path / "out")
    root = parse(tmp_path / "out" / "report.html")
    assert not root.all("tr", class_="first") and "4 images are too few" in root.text()
    assert "at eps 4/255 (linf) no difference is sure" in root.all("p", class_="lede")[0].text()


def share_of(correct, names=MANY, seed=0):
    """Counts of each image in which about this share of every class is right, for record(change=)."""
    rng = np.random.default_rng(seed)
    return {name: (rng.binomial(pixels_of(name), correct), pixels_of(name) + 20) for name in names}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three runs, of which low is clearly below the two others; low alone has race, which is stronger."""
    root = tmp_path_factory.mktemp("three")
    for seed, (run, share) in enumerate({"low": 0.2, "near": 0.6, "high": 0.605}.items()):
        record(root / run, CLEAN, names=MANY, change=share_of(0.9, seed=seed))
        record(root / run, pgd(), names=MANY, change=share_of(share, seed=seed))
    record(root / "low", RACE, names=MANY, change=share_of(0.1))
    write_report([root / run for run in ("low", "near", "high")], root / "out")
    return root


def test_the_highest_of_three_runs_is_compared_with_each_other_one(three):
    page, content = parse(three / "out" / "report.html"), json.loads((three / "out" / "report.json").read_text())
    line = content["strongest"][1]
    ranked = sorted(line["groups"], key=lambda name: -line["groups"][name]["mIoU"])
    assert [line["highest"], *line["others"]] == ranked and ranked[2] == "low"
    first, second, _ = ranked
    assert line["others"]["low"]["unclear"] == "" and "chance" in line["others"][second]["unclear"]
    gap = line["groups"][first]["mIoU"] - line["groups"]["low"]["mIoU"]
    assert line["others"]["low"]["difference"]["mean"] == pytest.approx(gap)
    assert page.all("p", class_="lede")[0].text().endswith(
        f"at eps 4/255 (linf) {first} is surely above low, but not surely above {second}.")
    (body,) = page.all("tbody", **{"data-radius": "linf 4/255"})
    judged = body.all("p")[0].text()
    assert judged.startswith(f"{first} is highest. No sure difference: it is ") and f"points above {second} (" in judged
    assert re.search(r"Surely higher: it is \d+\.\d\d points above low \(95 % interval \+", judged)
    assert not body.all("tr", class_="first"), "the highest is not surely above all"


def test_a_run_above_all_others_and_one_above_none_are_said():
    def say(*doubts):
        others = {name: {"difference": {"bootstrap": [0.1, 0.2], "t": None}, "unclear": doubt}
                  for name, doubt in zip(("near", "low"), doubts, strict=True)}
        groups = {name: {"mIoU": 0.5, "lower": None, "spread": None, "most": None} for name in ("high", "near", "low")}
        line = {"attack": "pgd", "loss": "ce", "norm": "linf", "eps": "1/255", "steps": "10", "groups": groups,
                "highest": "high", "others": others, "stronger": {}}
        return Page(make_answer([line], [*groups], members={name: [name] for name in groups})).root

    page = say("", "")
    assert "have, high keeps the highest mIoU at eps 1/255 (linf)." in page.text()
    assert [row.all("th")[0].text() for row in page.all("tr", class_="first")] == ["high"]
    page = say("why", "why")
    assert "at eps 1/255 (linf) high is highest, but not surely above any other." in page.text()


def test_the_attack_is_one_that_all_runs_have_and_stronger_ones_are_named(three, page, content):
    text = parse(three / "out" / "report.html")
    found = json.loads((three / "out" / "report.json").read_text())
    row = find(found["rows"], "low", "race", None, 4 / 255)
    line = found["strongest"][1]
    assert line["attack"] == "pgd" and list(line["stronger"]) == ["low"]
    assert line["stronger"]["low"] == {"attack": "race", "loss": "-", "norm": "linf", "eps": "4/255", "steps": "120",
                                       "mIoU": row["Mean IoU"]}
    (body,) = text.all("tbody", **{"data-radius": "linf 4/255"})
    assert body.all("p")[1].text() == (
        f"Stronger attacks, recorded here for single runs: low {100 * row['Mean IoU']:.2f} % under race, 120 steps.")
    assert "Under the strongest attack that all runs have, " in text.text()
    assert all(line["stronger"] == {} for line in content["strongest"]), "the worst case is the strongest of all"
    assert "single runs" not in page.text()


def test_points_of_the_curves_are_the_rows_of_report_json(page, content):
    labels = [point.attributes["aria-label"] for point in page.all("g", class_="point")]
    row = find(content["rows"], "sam", "worst case", None, 4 / 255)
    bound = f"(at least {100 * row['Mean IoU lower']:.2f} %)"
    assert f"sam, eps 4/255: mIoU {100 * row['Mean IoU']:.2f} % {bound}" in labels
    values = [cells for table in page.all("table") for cells in cells_of(table) if cells[0].startswith("pgd, ce, ")]
    row = find(content["rows"], "sgd", "pgd", "ce", 2 / 255)
    assert ["pgd, ce, 10 steps, linf", "sgd", "2/255", f"{100 * row['Mean IoU']:.2f}", "-"] in values
    captions = [each.text() for each in page.all("figcaption")]
    assert {"pgd, ce, 10 steps, linf", "pgd, ce, 10 steps, l2"} <= {*captions} and len({*captions}) == len(captions)
    assert len(labels) >= 2 * 3


def test_a_point_is_where_its_value_is():
    panel = Panel("pgd", "linf", {"a": [(0.0, 100.0, 100.0), (4.0, 50.0, 25.0)]})
    root = Page(draw_chart(panel, [panel], ["a"], ylabel="mIoU (%)", value="mIoU")).root
    places = [tuple(map(float, re.findall(r"[\d.]+", point.attributes["transform"])))
              for point in root.all("g", class_="point")]
    ticks = {text.text(): float(text.attributes["y"]) for text in root.all("text") if "dy" in text.attributes}
    eps = {text.text(): float(text.attributes["x"]) for text in root.all("text") if "dy" not in text.attributes
           and "transform" not in text.attributes}
    assert places[0] == (eps["0"], ticks["100"])
    assert places[1] == pytest.approx((eps["4"], (ticks["40"] + ticks["60"]) / 2), abs=0.11)
    (area,) = root.all("path", class_="area")
    low = ticks["20"] + (ticks["40"] - ticks["20"]) / 4
    assert f"L{eps['4']} {low:.1f}" in area.attributes["d"]


@pytest.mark.parametrize("furthest", [1e-6, 0.25, 1, 1.5, 3, 4, 5, 8, 15.2, 64, 255, 1e9])
def test_ticks_are_few_and_within(furthest):
    ticks = list_ticks(furthest)
    assert 3 <= len(ticks) <= 6 and ticks[0] == 0 and ticks[-1] <= furthest * (1 + 1e-9)


def test_radii_groups_cost_and_members_are_what_report_md_has(folder):
    for groups in (None, [[folder / "sgd", folder / "sam"]]):
        write_report([folder / "sgd", folder / "sam"], folder / "again", groups=groups)
        root, text = parse(folder / "again" / "report.html"), (folder / "again" / "report.md").read_text()
        shown = {tuple(re.sub(r"\s+", " ", cell).strip() for cell in cells) for table in root.all("table")
                 for cells in cells_of(table)}
        lines = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in text.splitlines()
                 if line.startswith("|") and not line.startswith("| -")]
        wanted = [line for line in lines if "median" in line or line[1].startswith("min_radius")
                  or "+-" in line[6] or re.search(r"^\d+\.?\d* \+ ", line[-1])]
        wanted = [tuple(re.sub(r"\d\.\d{4}", lambda found: f"{100 * float(found[0]):.2f}", cell).replace(
            "+-", "\u00b1").replace("(-", "(\u2212").replace(" -", " \u2212") for cell in line)
                  if "+-" in line[6] else line for line in wanted]
        assert len(wanted) >= 12 and set(wanted) <= shown
        members = re.findall(r"^- sgd: (.*)$", text, re.MULTILINE)
        assert members and set(members) <= {item.text() for item in root.all("li")}
    assert "Groups of runs" in [heading.text() for heading in root.all("h2")]


def test_groups_have_their_means_at_the_top(tmp_path):
    runs = {f"{name}_{seed}": 10 * seed + shift for shift, name in enumerate("ab") for seed in (1, 2, 3)}
    for run, seed in runs.items():
        for number, settings in enumerate((CLEAN, pgd())):
            record(tmp_path / run, settings, names=MANY, seed=seed + 100 * number)
    groups = [[tmp_path / f"{name}_{seed}" for seed in (1, 2, 3)] for name in "ab"]
    content = write_report([run for group in groups for run in group], tmp_path / "out", groups=groups)
    (body,) = parse(tmp_path / "out" / "report.html").all("tbody", **{"data-radius": "linf 4/255"})
    _, *rows = cells_of(body)
    names = list(name_groups([[f"{name}_{seed}" for seed in (1, 2, 3)] for name in "ab"]))
    for name, cells in zip(names, rows, strict=True):
        values = [row["Mean IoU"] for row in content["rows"] if row["run"].startswith(name[0]) and row["eps"]]
        assert cells[0] == name and cells[2] == f"{100 * np.mean(values):.2f} \u00b1 {100 * np.std(values, ddof=1):.2f}"
    assert "single trainings" not in (tmp_path / "out" / "report.html").read_text()


# Nothing from outside, nothing run


def test_nothing_is_loaded_and_only_our_style_and_script_may_work(page, folder):
    text = (folder / "out" / "report.html").read_text()
    assert "http:" not in text and "https:" not in text and "://" not in text
    for element in page.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on") and name not in ("style", "srcset", "action", "data", "ping"), name
            assert name != "src" or value.startswith("data:image/")
            assert name not in ("href", "xlink:href") or value.startswith("#")
    assert not page.all("link") and not page.all("iframe") and not page.all("base")
    (style,), (script,) = page.all("style"), page.all("script")
    assert "url(" not in style.text() and "@import" not in style.text()
    for word in ("fetch", "XMLHttp", "innerHTML", "eval", "import(", "document.write", "Function("):
        assert word not in script.text()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for element in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(element.text().encode()).digest()).decode()}'" in policy


def test_our_own_words_are_never_cut(page):
    assert " ..." not in page.all("main")[0].text().replace("(>= ...)", "")


def test_anchors_lead_to_sections(page):
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert {link.attributes["href"][1:] for link in page.all("a")} <= set(ids)


DIFFER = "Options of the training that differ between the runs"
SAME = "Options of the training that are the same in all runs"
HOSTILE = "<script>alert(1)</script>\"'`$x ${y} $$\n</title></style><!-- ]]>\u202e\x00"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_hostile_names_are_text(tmp_path):
    run = tmp_path / "<img src=x onerror=alert(1)> $title \"'"
    for settings in (CLEAN, pgd(), pgd(8 / 255)):
        record(run, settings, names=[HOSTILE, "b"], class_names=[HOSTILE, "</table>"], subject=HOSTILE)
    (run / "opts.txt").write_text("--- Options ---\n<b>: </td><script>x</script> $style\n--- End ---\n")
    (run / "verify.json").write_text(json.dumps({"checks": [{
        "name": HOSTILE, "passed": False, "figures": {HOSTILE: HOSTILE}, "tolerance": HOSTILE, "why": HOSTILE}]}))
    record(tmp_path / "other", CLEAN, names=["b"], class_names=[HOSTILE, "</table>"])
    write_report([run, tmp_path / "other"], tmp_path / "out")
    root = parse(tmp_path / "out" / "report.html")
    assert len(root.all("script")) == len(root.all("style")) == len(root.all("head")[0].all("title")) == 1
    assert not root.all("img") and "alert(1)" not in root.all("script")[0].text()
    assert not [name for element in root.all() for name in element.attributes if name.startswith("on")]
    text = root.text()
    for shown in (run.name, "</table>", "</td><script>x</script> $style", HOSTILE.replace("\n", "\\n").replace(
            "\u202e", "\\u202e").replace("\x00", "\\x00")):
        assert shown in text
    assert "$title" in root.all("h1")[0].text()


@pytest.mark.parametrize(("value", "shown"), [
    ("<b>\"'&", "&lt;b&gt;&quot;&#x27;&amp;"), ("a\nb\x1b", "a\\nb\\x1b"), ("\udcff", "\\udcff"),
    (Markup("<b>"), "<b>"), (1, "1"), ("ü 日本", "ü 日本"), ("x" * LONGEST, "x" * LONGEST),
    ("<" * (LONGEST + 5), "&lt;" * LONGEST + " ...")])
def test_text_is_escaped_once_and_cut(value, shown):
    assert show(value) == shown


def test_elements_have_the_attributes_that_have_values():
    assert tag("p", "<", tag("b", 1), class_="a\"b", data_x=0, hidden=None, open=True, checked=False) == (
        '<p class="a&quot;b" data-x="0" open>&lt;<b>1</b></p>')
    assert tag("input", type="radio") == '<input type="radio">'


# Size


def test_what_does_not_fit_is_counted():
    kept, note = fit(lambda size: Markup("x" * size), (3, 4, 5, 1), 8, of="rows")
    assert kept == ["xxx", "xxxx"] and "2 of 4 rows are left out" in note
    assert fit(Markup, ["x"], 1, of="rows") == ([Markup("x")], "")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (450, 700, 3), dtype=np.uint8)).save(path)
    return path


def make_sheet(path, run, ball, images):
    columns = ("image", "target", "clean prediction", "adversarial image", "perturbation", "attacked prediction")
    grid = {f"image {k}": dict.fromkeys(columns, path) for k in range(images)}
    return Sheet("file", f"{run} {ball}", grid, run, ball)


def test_pictures_stay_within_the_limit_and_each_sheet_gets_its_first(noise):
    sheets = [make_sheet(noise, f"run {k}", "linf, eps 1/255", 4) for k in range(3)]
    one = sum(len(uri) for uri in choose_images(sheets[:1], 10**9)[0][0]["image 0"].values())
    chosen, left_out = choose_images(sheets, 4 * one + 10)
    assert [len(images) for images in chosen] == [2, 1, 1] and left_out == 8
    html = make_sheets(sheets, limit=4 * one + 10)
    assert len(html) < 4 * one + 10_000 and "8 images of these sheets are left out" in html


@pytest.mark.slow
def test_many_runs_with_long_names_stay_below_ten_megabytes(tmp_path, noise):
    from engine.page import write

    runs = [f"{'x' * 220}<{number}" for number in range(120)]
    classes = [f"{'c' * 300}{number}" for number in range(60)]
    iou = dict.fromkeys(classes, 0.5)

    def row(run, attack, members=()):
        return {"run": run, "attack": attack, "norm": "linf", "eps": 0.1, "members": list(members), "Mean IoU": 0.5,
                "Mean IoU lower": 0.4, "Overall Acc": 0.5, "Image IoU": 0.5, "ratio": 0.5, "Class IoU": iou}

    keys = ("attack", "loss", "norm", "eps", "steps")
    lines = [{**dict(zip(keys, (f"attack {k}", "ce", norm, "1", "10"), strict=True)),
              "rows": {run: row(run, "pgd", ["m" * 90] * 5 * (k % 2)) for run in runs}}
             for norm, count in (("-", 1), ("linf", 60), ("severity", 40)) for k in range(count)]
    most = {"class": classes[0], "clean": 0.5, "attacked": 0.1}
    found = {run: {"mIoU": 0.5, "lower": 0.4, "spread": None, "most": most} for run in runs}
    difference = {"mean": 0.1, "bootstrap": [0.1, 0.2], "t": None}
    others = dict.fromkeys(runs[1:], {"difference": difference, "unclear": ""})
    strongest = [{**{key: line[key] for key in keys}, "groups": found, "highest": runs[0], "others": others,
                  "stronger": {run: {**line, "mIoU": 0.1} for run in runs}} for line in lines]
    panels = [Panel(f"worst case {k}", "linf", {run: [(float(x), 50.0, 40.0) for x in range(30)] for run in runs})
              for k in range(12)]
    columns = {run: ["y" * 300] * 60 for run in runs}
    for run in runs[:50]:
        (tmp_path / run).mkdir()
        (tmp_path / run / "opts.txt").write_text(
            "--- Options ---\n" + "".join(f"flag{k}: {'v' * 400}{run}\n" for k in range(100)) + "--- End ---\n")
        (tmp_path / run / "verify.json").write_text(json.dumps({"checks": [{
            "name": f"check {k}", "passed": True, "figures": {"a": "f" * 400}, "tolerance": "t" * 400, "why": ""}
            for k in range(15)]}))
    text = write.make_page(write.Content(
        images=5, recorded=9, lines=lines, strongest=strongest, members={run: [run] for run in runs},
        subjects={run: {f"key {k}": run for k in range(50)} for run in runs}, cost=columns, groups=columns,
        radii=[columns] * 9, legend="- c", panels=panels, radius_panels=panels,
        folders={run: tmp_path / run for run in runs}, sheets=[make_sheet(noise, run, "linf", 4) for run in runs]))
    assert 5_000_000 < len(text.encode()) < 10_000_000
    notes = Page(text).root.all("p", class_="note")
    assert len([note for note in notes if "left out" in note.text()]) >= 8


def test_equal_records_give_equal_bytes(folder):
    write_report([folder / "sgd", folder / "sam"], folder / "second")
    assert (folder / "second" / "report.html").read_bytes() == (folder / "out" / "report.html").read_bytes()


# Pictures


def test_masks_keep_their_colours_and_photos_are_jpeg(tmp_path):
    colours = np.array([[255, 0, 0], [0, 128, 64], [1, 2, 3]], np.uint8)
    mask = colours[np.random.default_rng(0).integers(0, 3, (700, 500))]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kind, shown = decode(encode(tmp_path / "mask.png", classes=True))
    assert kind == "png" and shown.size == (257, 360)
    assert set(map(tuple, np.asarray(shown.convert("RGB")).reshape(-1, 3))) == set(map(tuple, colours))
    kind, shown = decode(encode(tmp_path / "mask.png", classes=False))
    assert kind == "jpeg" and shown.size == (257, 360)


def test_small_pictures_are_not_enlarged_and_a_mask_of_many_colours_is_a_photo(tmp_path, noise):
    Image.new("RGB", (20, 10), (9, 8, 7)).save(tmp_path / "small.png")
    kind, shown = decode(encode(tmp_path / "small.png", classes=True))
    assert (kind, shown.size, shown.convert("RGB").getpixel((0, 0))) == ("png", (20, 10), (9, 8, 7))
    assert decode(encode(noise, classes=True))[0] == "jpeg"


def decode(uri):
    head, content = uri.split(",")
    return re.fullmatch("data:image/(.*);base64", head)[1], Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_page_shows_the_pictures_that_the_records_have(tmp_path):
    paths = [record(tmp_path / "sgd", settings) for settings in (CLEAN, pgd())]
    for shade, path in enumerate(paths):
        (tmp_path / "sgd" / "val_results" / path.stem).mkdir(parents=True)
        for number, kind in enumerate(("image", "target", "pred", "perturbation")):
            Image.new("RGB", (30, 20), (100 * shade, 50 * number, 0)).save(
                tmp_path / "sgd" / "val_results" / path.stem / f"one_{kind}.png")
    write_report([tmp_path / "sgd"], tmp_path / "out")
    root = parse(tmp_path / "out" / "report.html")
    shown = {image.attributes["alt"]: decode(image.attributes["src"])[1].convert("RGB").getpixel((3, 3))
             for image in root.all("img")}
    expected = {"image": (0, 0), "label": (0, 50), "clean prediction": (0, 100), "adversarial image": (100, 0),
                "perturbation": (100, 150), "attacked prediction": (100, 100)}
    assert {f"{name} of one" for name in expected} == set(shown)
    for name, (red, green) in expected.items():
        assert shown[f"{name} of one"] == pytest.approx((red, green, 0), abs=4)
    assert [each.attributes["value"] for each in root.all("input")] == ["clean", "attacked", "perturbation"]


def test_the_legend_has_the_colours_that_were_recorded_or_those_of_the_data_set(tmp_path):
    shown = ["#000000", "#0102ff"]
    (tmp_path / "results.json").write_text('{"class_colours": {"a": [0, 0, 0], "b": [1, 2, 255]}}')
    assert list(find_colours({"run": tmp_path}, {}, ["a", "b"]).values()) == shown
    assert find_colours({"run": tmp_path}, {}, ["b", "a"]) == {}
    for colours in ('{"a": [0, 0, 0], "b": "red"}', '{"a": [0, 0, 0], "b": [0, 0, 256]}', "[1]", "null"):
        (tmp_path / "results.json").write_text(f'{{"class_colours": {colours}}}')
        assert find_colours({"run": tmp_path}, {"run": {"dataset": "voc"}}, ["a", "b"]) == {}
    camvid = find_colours({"run": tmp_path}, {"run": {"dataset": "camvid"}}, list(CamVid.class_names))
    assert camvid["Sky"] == "#808080" and len(camvid) == 11
    items = Page(make_class_legend({"a<": "#000000", "b": "#0102ff"})).root.all("li")
    assert [(item.text(), item.all("rect")[0].attributes["fill"]) for item in items] == [
        ("a<", shown[0]), ("b", shown[1])]


def test_an_evaluation_records_the_colours_of_its_classes():
    data = Synthetic("val")
    assert ImageSet(data).list_colours() == {
        name: data.palette[k].tolist() for k, name in enumerate(data.class_names)}


# Words and facts


def words_of(lines, strongest=None, **more):
    return list_terms(lines, strongest or [{"groups": {"a": {}}, "highest": None, "others": {}}], **{
        "groups": False, **more})


def line_of(norm="linf", attack="pgd", lower=None, eps=0.1):
    row = {"Mean IoU lower": lower, "eps": eps, "Class IoU": {"a": 0.5}, "members": []}
    return {"attack": attack, "norm": norm, "loss": "-", "steps": "10", "rows": {"a": row}}


def test_terms_are_those_that_the_page_uses():
    said = " ".join(words_of([line_of("-")]))
    for word in ("linf", "l2", "race", "Worst case", "\u2265", "interval", "groups"):
        assert word not in said, word
    assert "the strongest attack recorded" in said and "mIoU: intersection over union" in said
    said = " ".join(words_of([line_of("l2", "race", lower=0.1), line_of("linf", "worst case of pgd, race")]))
    for word in ("linf: every", "l2: the length", "race: an attack", "Worst case of A, B", "\u2265: a lower bound"):
        assert word in said, word


def test_terms_of_several_runs_say_how_they_are_compared():
    two = {"groups": {"a": {}, "b": {}}, "highest": "a", "others": {"b": {}}}
    three = {"groups": {"a": {}, "b": {}, "c": {}}, "highest": "a", "others": {"b": {}, "c": {}}}
    assert "that all runs have" in " ".join(words_of([line_of()], [two]))
    assert "with one another" not in " ".join(words_of([line_of()], [two]))
    assert "with one another" in " ".join(words_of([line_of()], [three]))
    assert "that the most runs have" in " ".join(words_of([line_of()], [two, three]))
    assert "Student" in " ".join(words_of([line_of()], [two], groups=True))


def test_scores_are_explained_as_far_as_they_are_there():
    row = {"Class IoU": {"a": 0.5}, "Mean IoU lower": None}
    clean = {"attack": "none", "norm": "-", "rows": {"x": row}}
    said = " ".join(explain_scores([clean]))
    assert "aAcc" in said and not {"marks", "sea:", "ensemble:", "worst case:", "over how many"} & {*said.split()}
    assert "\u25c2" not in said and "says over" not in said
    lines = [clean, *({"attack": name, "norm": "linf", "rows": dict.fromkeys("xy", row)}
                      for name in ("sea", "ensemble", "worst case of 2"))]
    said = " ".join(explain_scores(lines))
    for word in ("\u25c2 marks the strongest attack that all runs have", "sea: APGD", "ensemble: APGD",
                 "worst case: of"):
        assert word in said, word
    missing = {**clean, "rows": {"x": {**row, "Class IoU": {"a": float("nan"), "b": 0.5}}}}
    assert "says over how many" in " ".join(explain_scores([missing]))


def test_worst_cases_are_named_by_their_members():
    members = ["pgd_linf_4-255_10steps", "race_linf_4-255_10steps", "race_linf_4-255_30steps"]
    row = {"members": members, "norm": "linf", "eps": 4 / 255}
    keys = {"loss": "-", "norm": "linf", "eps": "4/255", "steps": "-"}
    worst = {**keys, "attack": "worst case of 3", "curve": "worst case", "rows": {"a": row}}
    other = {**keys, "attack": "pgd", "curve": "pgd", "rows": {"a": {**row, "members": []}}}
    strongest = [{**other, "stronger": {"a": {**keys, "attack": "worst case of 3", "mIoU": 0.1}}}]
    panels = [Panel("worst case of 3", "linf", {}), Panel("pgd", "linf", {}), Panel("worst case of 3", "l2", {})]
    lines, found, titled = name_worst_cases([worst, other], strongest, panels)
    name = "worst case of pgd, race (10, 30 steps)"
    assert [line["attack"] for line in lines] == [name, "pgd"]
    assert found[0]["attack"] == "pgd" and found[0]["stronger"]["a"]["attack"] == name
    assert [panel.title for panel in titled] == ["worst case of pgd, race", "pgd", "worst case of 3"]


@pytest.mark.parametrize(("line", "lost"), [
    (line_of(eps=0.5 / 255), True), (line_of(eps=1 / 255), False), (line_of("l2", eps=1e-3), False),
    (line_of(eps=4 / 255), False), (line_of("-", eps=0.0), False)])
def test_a_note_on_8_bits_is_for_an_eps_below_their_step(line, lost):
    assert loses_in_rounding([line_of("-", eps=0.0), line]) is lost


def test_the_page_has_that_note_only_then(page):
    assert "8-bit" not in page.text()


def test_the_citation_is_that_of_the_file():
    text = Page(cite(12)).root.text()
    file = (Path(__file__).parents[2] / "CITATION.cff").read_text().partition("references:")[0]
    given = dict(re.findall(r"^(?:  - )?([\w-]+): (.+)$", file, re.MULTILINE))
    year = given["date-released"][:4]
    assert f"{given['name']} ({year}): {given['title']}, version {given['version']}." in text and "(12 here)" in text
    for line in (f"author = {{{{{given['name']}}}}},", f"title = {{{given['title']}}},", f"year = {{{year}}},",
                 f"version = {{{given['version']}}},"):
        assert line in text, line


# Options and findings


def test_a_minus_is_a_minus_sign_and_names_keep_their_hyphens():
    assert write_minus("0.1 +- 0.2 (-0.1 to +0.3), t -1") == "0.1 \u00b1 0.2 (\u22120.1 to +0.3), t \u22121"
    assert write_minus("pgd-10, sgd-1, -") == "pgd-10, sgd-1, -"


def test_corruptions_take_no_passes_and_have_no_line_under_cost(page):
    cost = find_table(page, "Forward + backward passes per image")
    names = [cells[0] for cells in cells_of(cost)]
    assert "fog" not in names and {"none", "pgd"} <= {*names}


def test_the_first_line_names_what_differs(tmp_path):
    for run, text in (("sgd-1", "optimizer: sgd\nrho: 0.05\nsam_mode: full\nckpt: /a/b.pth"),
                      ("sam-1", "optimizer: SAM\nrho: 0.05\nsam_mode: full\nckpt: /a/c.pth"),
                      ("sam-2", "optimizer: SAM\nrho: 0.2\nsam_mode: full\nckpt: /a/c.pth")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "opts.txt").write_text(
            f"--- Options ---\ntotal_itrs: 30\n{text}\ndata_root: /home/me/{run}\n--- End ---\n")
    runs = [path.name for path in sorted(tmp_path.iterdir(), reverse=True)]
    found = describe_runs({run: tmp_path / run for run in runs}, dict.fromkeys(runs, {"model": "net"}))
    assert found == ("Model: net. Iterations: 30. Differing options: optimizer sgd / SAM / SAM, rho - / 0.2 / 0.05, "
                     "data_root sgd-1 / sam-2 / sam-1.")
    few = describe_runs({"sgd-1": tmp_path / "sgd-1"}, {"sgd-1": {}})
    assert few == "Iterations: 30."


@pytest.mark.parametrize(("text", "shown"), [
    ("/home/me/data/CamVid", "CamVid"), ("~/x/y.pth", "y.pth"), ("C:\\Users\\me\\z", "z"), ("a/b c", "a/b c"),
    ("/data/a /other/b/", "a b"), ("0.5/255", "0.5/255")])
def test_folders_of_a_machine_are_left_out(text, shown):
    assert hide_folders(text) == shown


def options_of(folders, subjects=None):
    root = Page(make_options(folders, subjects or {run: {} for run in folders})).root
    return {tuple(each.text() for each in table.all("caption")): cells_of(table) for table in root.all("table")}, root


def test_what_differs_comes_first_and_the_rest_is_there(tmp_path):
    for run, rho in (("sgd", "0.0"), ("sam", "0.05")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "opts.txt").write_text(
            f"------ Options ------\nlr: 9\n-- End --\n--- Options ---\nlr: 0.1\nrho: {rho}\n---- End ----\nodd: 1\n")
    found, _ = options_of({run: tmp_path / run for run in ("sgd", "sam")},
                          {run: {"data": "x", "weights": run} for run in ("sgd", "sam")})
    assert list(found) == [(DIFFER,), (SAME,)]
    assert found[DIFFER,] == [
        ["", "name", "sgd", "sam"], ["option", "rho", "0.0", "0.05"], ["recorded with", "weights", "sgd", "sam"]]
    assert found[SAME,][1:] == [["option", "lr", "0.1"], ["recorded with", "data", "x"]]


def test_without_opts_txt_the_options_are_those_of_the_evaluation(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"options": {"lr": 0.1, "eps": [0.5, 1.0], "ckpt": None}}))
    assert read_options(tmp_path) == {"lr": "0.1", "eps": "0.5 1.0"}
    for damaged in ("[", "[]", '{"options": [1]}', "[" * 100_000, '{"options": {}}'):
        (tmp_path / "results.json").write_text(damaged)
        assert read_options(tmp_path) is None
    _, root = options_of({"run": tmp_path})
    assert "options are not known: run" in root.text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_not_a_file_is_not_read(tmp_path):
    for name in ("opts.txt", "results.json", "verify.json"):
        os.mkfifo(tmp_path / name)
    assert read_options(tmp_path) is None and "not run" in make_findings({"run": tmp_path})


def test_findings_of_verify(tmp_path):
    for name in ("good", "bad", "odd", "none"):
        (tmp_path / name).mkdir()
    check = {"name": "step order", "passed": True, "figures": {"clean": 84.2118, "sizes": [1, 2]},
             "tolerance": "noise <= clean", "why": "", "seconds": 1.0}
    (tmp_path / "good" / "verify.json").write_text(json.dumps({"checks": [check]}))
    failed = {**check, "name": "losses", "passed": False, "why": "violated: race <= ce"}
    (tmp_path / "bad" / "verify.json").write_text(json.dumps({"checks": [check, failed]}))
    (tmp_path / "odd" / "verify.json").write_text(json.dumps({"checks": [{**check, "figures": [1]}]}))
    root = Page(make_findings({name: tmp_path / name for name in ("good", "bad", "odd", "none")})).root
    good, bad = root.all("details")
    assert good.all("summary")[0].text() == "good: 1 of 1 checks passed" and "open" not in good.attributes
    assert bad.all("summary")[0].text() == "bad: 1 of 2 checks passed \u2013 failed: losses"
    assert "open" in bad.attributes
    figures = "clean 84.21, sizes [1, 2]"
    assert cells_of(bad)[1:] == [["step order", "passed", figures, "noise <= clean"],
                                 ["losses", "FAILED", figures, "noise <= clean: violated: race <= ce"]]
    assert "odd: verify.json can't be read" in root.text()
    assert "none: not run. python main.py --verify --exp_name none" in root.text()


def test_tables_without_values_and_clean_records_alone(tmp_path):
    """The least that can be reported: no attack, a class without a pixel."""
    record_without_first_class(tmp_path / "sgd")
    write_report([tmp_path / "sgd"], tmp_path / "out")
    root = parse(tmp_path / "out" / "report.html")
    assert "The records hold no attack" in root.text() and "nan" not in root.all("main")[0].text()
    assert cells_of(find_table(root, "Scores under attacks (%)"))[2][5:] == ["0.00", "2 of 3 classes", "0.00", "0.00",
                                                                         "-"]
    assert isinstance(root.all("main")[0], Element)


def test_resources_are_beside_the_code():
    import engine.page

    folder = Path(engine.page.__file__).parent
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".py", ".html", ".css", ".js"}
    for path in folder.glob("page.*"):
        assert "</" not in path.read_text() or path.suffix == ".html"
        assert path.read_text().count("\n") <= 200
