"""The page of the experiment on sharpness: every figure in it is computed again from the committed records."""
import json
import re
import tarfile
from itertools import product

import numpy as np
import pytest
from scipy import stats

from experiments.sharpness.plan import METHODS
from experiments.sharpness.results import collect_tables, fill
from tests.test_docs import ROOT

PAGE = ROOT / "docs" / "experiments" / "sharpness.md"
RESULTS = ROOT / "results"
SETTINGS = {"0.02", "0.05", "0.1", "0.01", "0.25", "0.5", "0.2"}  # rho, eps and rates, which the text names


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text()


def test_the_tables_are_those_of_the_records(page):
    assert fill(page, collect_tables(RESULTS)) == page


def test_every_figure_of_the_text_is_in_a_table(page):
    """No decimal figure is in the text alone, except hours on GPUs, which are marked as estimated."""
    tables = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    known = {found.lstrip("+-") for found in re.findall(r"[+-]?\d+\.\d+", tables)} | SETTINGS
    text = re.sub(r"```.*?```|\]\(\S*\)|`[^`]*`", "", page[:page.index("## On VOC, with GPUs")], flags=re.DOTALL)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    figures = {found.strip("+-") for found in re.findall(r"(?<![\w.])[+-]?\d+\.\d+(?![\w.]*\d)", prose)}
    assert len(figures) > 5 and figures - known == set()
    assert "estimated" in page[page.index("## On VOC, with GPUs"):]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """{network: {(attack, eps in grey levels): [line of its record, for each image]}}, by json and tarfile alone."""
    found = {}
    with tarfile.open(RESULTS / "sharpness_camvid_records.tar.gz") as tar:
        for member in tar:
            if re.search(r"/records/(clean_|race_linf_.*_30steps|pgd_linf_)", member.name):
                header, *lines = map(json.loads, tar.extractfile(member).read().decode().splitlines())
                attack = header["attack"]
                found.setdefault(member.name.partition("/")[0], {})[
                    attack["attack"], round(255 * attack["eps"], 6)] = lines
    return found


def score(lines):
    """mIoU in percent: intersections and unions of all images summed, then the mean over classes that occur."""
    intersection, union = (np.sum([line[key] for line in lines], 0) for key in ("intersection", "union"))
    return 100 * np.mean(intersection[union > 0] / union[union > 0])


def read_table(page, title):
    """{method: {column: cell}} of a table of the page."""
    head, _, *rows = page[page.index(f"<!-- table: {title} -->"):].split("<!-- end -->")[0].splitlines()[1:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, *rows)]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def of_method(records, method):
    return {name: found for name, found in sorted(records.items()) if name.rpartition("-")[0] == method}


@pytest.mark.parametrize("method", ["sgd", "sgd_twice", "sam_0.02", "asam_0.2", "at_1"])
def test_scores_and_their_spread_by_numpy(page, records, method):
    networks = of_method(records, method)
    row, other = (read_table(page, title)[METHODS[method].title] for title in (
        "Mean IoU under race, in %", "Mean IoU under other attacks, in %"))
    assert row["networks"] == str(len(networks)) and networks
    for cell, key in ((row["clean, all images"], ("none", 0)), *((other[f"pgd-10 {eps}/255"], ("pgd", eps))
                                                                for eps in (0.25, 0.5, 1))):
        values = [score(found[key]) for found in networks.values()]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        assert cell == f"{np.mean(values):.1f}{spread}"


@pytest.mark.parametrize("eps", [0.25, 0.5, 1])
def test_the_choice_among_race_s_candidates_by_trying_all(page, records, eps):
    """The table has the greedy choice of a candidate for each image: no more than any single candidate leaves, and no
    less than the best of all choices."""
    row = read_table(page, "Mean IoU under race, in %")["SGD"]
    greedy = np.mean([all_choices(found["race", eps])[0] for found in of_method(records, "sgd").values()])
    assert float(row[f"race-30 {eps:g}/255"].split(" ")[0]) == pytest.approx(greedy, abs=0.35)
    for found in of_method(records, "sgd").values():
        lowest, singles = all_choices(found["race", eps])
        assert lowest <= min(singles)


def all_choices(lines):
    """The lowest mIoU in percent of all choices of a candidate for each image, and that of each candidate alone."""
    names = list(lines[0]["candidates"])
    counts = np.array([[[line["candidates"][name][key] for name in names] for line in lines]
                       for key in ("intersection", "union")], float)  # [2, images, candidates, classes]
    chosen = np.array(list(product(range(len(names)), repeat=len(lines))))  # [choices, images]
    totals = sum(counts[:, image][:, chosen[:, image]] for image in range(len(lines)))  # [2, choices, classes]
    ious = np.divide(totals[0], totals[1], out=np.full(totals[0].shape, np.nan), where=totals[1] > 0)
    miou = 100 * np.nanmean(ious, 1)
    return miou.min(), [miou[(chosen == place).all(1)].item() for place in range(len(names))]


@pytest.mark.parametrize("attack", ["clean, all images", "pgd-10 0.5/255"])
def test_differences_and_t_intervals_by_scipy(page, records, attack):
    key = ("none", 0) if "clean" in attack else ("pgd", 0.5)
    cell = read_table(page, "Difference to SGD and 95 % t interval, in points of mIoU")["SAM, rho 0.02"][attack]
    sam, sgd = (of_method(records, method) for method in ("sam_0.02", "sgd"))
    seeds = sorted({name[-1] for name in sgd} & {name[-1] for name in sam})
    found = np.array([score(sam[f"sam_0.02-{seed}"][key]) - score(sgd[f"sgd-{seed}"][key]) for seed in seeds])
    expected = f"{found.mean():+.1f}"
    if len(found) > 1:
        low, high = stats.t.interval(0.95, len(found) - 1, found.mean(), stats.sem(found))
        expected += f" ({low:+.1f} to {high:+.1f})"
    assert cell == expected
