"""The page of the experiment on sharpness: every figure in it is computed again from the committed records."""
import json
import re
import tarfile
from itertools import product

import numpy as np
import pytest
from scipy import stats

from experiments.sharpness.plan import CORE, METHODS
from experiments.sharpness.results import collect_tables
from experiments.sharpness.results import fill as fill_page
from tests.experiments.test_sharpness import fit
from tests.test_docs import ROOT

PAGE = ROOT / "docs" / "experiments" / "sharpness.md"
RESULTS = ROOT / "results"
SETTINGS = {"0.02", "0.05", "0.1", "0.01", "0.25", "0.5", "0.2"}  # rho, eps and rates, which the text names


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text()


def test_the_tables_are_those_of_the_records(page):
    assert fill_page(page, collect_tables(RESULTS)) == page


def test_every_figure_of_the_text_is_in_a_table(page):
    """No decimal figure is in the text alone, except hours on GPUs, which are marked as estimated."""
    tables = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    known = {found.lstrip("+-") for found in re.findall(r"[+-]?\d+\.\d+", tables)} | SETTINGS
    text = re.sub(r"```.*?```|\]\(\S*\)|`[^`]*`", "", page[:page.index("## On VOC, with GPUs")], flags=re.DOTALL)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    figures = {found.strip("+-") for found in re.findall(r"(?<![\w.])[+-]?\d+\.\d+(?![\w.]*\d)", prose)}
    assert len(figures) > 5 and figures - known == set()
    assert "estimated" in page[page.index("## On VOC, with GPUs"):]


RACE, OTHER = "Mean IoU under race, in %", "Mean IoU under other attacks, in %"
SGD, TWICE, SAM, ASAM, AT = (METHODS[name].title for name in ("sgd", "sgd_twice", "sam_0.02", "asam_0.2", "at_1"))
T_INTERVAL = "Difference to SGD and 95 % t interval, in points of mIoU"


@pytest.mark.parametrize(("words", "cells"), [
    ("networks trained with SAM (rho 0.02) keep {} % mIoU, those trained with SGD {} %, and those trained with SGD "
     "twice as long, with as many gradients as SAM, {} %",
     [(RACE, name, "race-30 0.5/255") for name in (SAM, SGD, TWICE)]),
    ("PGD-10 hardly shows that ({}, {} and {} %)", [(OTHER, name, "pgd-10 0.5/255") for name in (SAM, SGD, TWICE)]),
    ("clean images ({} against {} %)", [(RACE, name, "clean, all images") for name in (TWICE, SAM)]),
    ("common corruptions ({} against {} %)", [(OTHER, name, "corruptions, severity 3") for name in (TWICE, SAM)]),
    ("keeps {} % at 0.5/255 and {} % at 1/255, and has {} % on clean images",
     [(RACE, AT, title) for title in ("race-30 0.5/255", "race-30 1/255", "clean, all images")]),
    ("SGD and SAM: {} % against {} % at 0.5/255, and {} % for SGD of twice the iterations",
     [(OTHER, name, "pgd-10 0.5/255") for name in (SGD, SAM, TWICE)]),
    ("Race leaves {}, {} and {} %.", [(RACE, name, "race-30 0.5/255") for name in (SGD, SAM, TWICE)]),
    ("PGD-10 leaves {} % of SGD's networks and {} % of SAM's", [(OTHER, name, "pgd-10 1/255") for name in (SGD, SAM)]),
    ("race leaves {} and {} %.", [(RACE, name, "race-30 1/255") for name in (SGD, SAM)]),
    ("(SAM against SGD at 0.5/255: {})", [(T_INTERVAL, SAM, "race-30 0.5/255")])])
def test_sentences_have_the_figures_of_the_tables(page, words, cells):
    """Of a cell with a spread the mean, of a difference its interval."""
    values = [read_table(page, title)[name][column] for title, name, column in cells]
    shown = [value.partition("(")[2].rstrip(")") or value.partition(" ")[0] for value in values]
    assert words.format(*shown) in " ".join(page.split())


def test_what_goes_with_robustness(page):
    """The means of the table under "Why" and those of race are as its text says."""
    def means(title, column):
        return {name: float(row[column].partition(" ")[0]) for name, row in read_table(page, title).items()}

    why, kept = "Sharpness and sensitivity", means(RACE, "race-30 0.5/255")
    for column in ("input gradient, L1", "input gradient, L2"):
        gradient = means(why, column)
        assert gradient[SGD] > gradient[TWICE] > gradient[SAM] > gradient[ASAM]
        assert 0.05 < gradient[AT] / gradient[SGD] < gradient[AT] / gradient[ASAM] < 0.15
    assert kept[SGD] < kept[TWICE] < kept[SAM] < kept[ASAM] < kept[AT] - 10
    for column in ("SAM gap, rho 0.02", "SAM gap, rho 0.1", "largest Hessian eigenvalue"):
        sharpness = means(why, column)
        for one, other in ((TWICE, SAM), (AT, ASAM)):
            assert abs(sharpness[one] - sharpness[other]) < sharpness[SGD] - max(sharpness[one], sharpness[other])


def test_the_number_of_networks_is_said(page, records):
    number = ("nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen")[len(records) - 9]
    assert f"{number} networks" in page
    sam, sgd = (read_table(page, RACE)[name]["race-30 0.5/255"].partition(" ")[0] for name in (SAM, SGD))
    assert f"keep {sam} % mean IoU, those trained with SGD {sgd} % ({number} networks" in " ".join(
        (ROOT / "README.md").read_text().split())


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


@pytest.fixture(scope="module")
def counts(records):
    """{network: {(attack, eps): (intersection, union) [images, classes]}}, of race those of its lowest choice."""
    return {name: {key: lowest_choice(lines) if key[0] == "race" else
                   tuple(np.array([line[part] for line in lines], float) for part in ("intersection", "union"))
                   for key, lines in found.items()} for name, found in records.items()}


def lowest_choice(lines):
    """The counts of each image's candidate in the choice with the lowest mIoU, of all choices there are."""
    names = list(lines[0]["candidates"])
    offered = np.array([[[line["candidates"][name][part] for name in names] for line in lines]
                        for part in ("intersection", "union")], float)  # [2, images, candidates, classes]
    chosen = np.array(list(product(range(len(names)), repeat=len(lines))))  # [choices, images]
    totals = sum(offered[:, image][:, chosen[:, image]] for image in range(len(lines)))  # [2, choices, classes]
    ious = np.divide(totals[0], totals[1], out=np.full(totals[0].shape, np.nan), where=totals[1] > 0)
    return tuple(offered[:, np.arange(len(lines)), chosen[np.nanmean(ious, 1).argmin()]])


def score(pair):
    """mIoU in percent: intersections and unions of all images summed, then the mean over classes that occur."""
    intersection, union = (part.sum(0) for part in pair)
    return 100 * np.mean(intersection[union > 0] / union[union > 0])


def read_table(page, title):
    """{method: {column: cell}} of a table of the page."""
    head, _, *rows = page[page.index(f"<!-- table: {title} -->"):].split("<!-- end -->")[0].splitlines()[1:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, *rows)]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def of_method(networks, method):
    """{seed: what the network has}."""
    return {int(name.rpartition("-")[2]): found for name, found in sorted(networks.items())
            if name.rpartition("-")[0] == method}


TITLES = {"clean, all images": ("none", 0), **{f"{title} {eps:g}/255": (attack, eps) for attack, title in (
    ("race", "race-30"), ("pgd", "pgd-10")) for eps in (0.25, 0.5, 1)}}
OTHERS = [name for name in CORE if name != "sgd"]


@pytest.mark.parametrize("method", CORE)
def test_scores_and_their_spread_by_numpy(page, counts, method):
    """Race's cells are the lowest of all 65,536 choices of a candidate for each image, found by trying all."""
    networks = of_method(counts, method)
    tables = [read_table(page, f"Mean IoU under {what}, in %")[METHODS[method].title]
              for what in ("race", "other attacks")]
    cells = {**tables[1], **tables[0]}
    assert cells["networks"] == str(len(networks)) and networks
    larger = {f"race-30 {eps}/255": ("race", eps) for eps in (2, 4)} if method == "at_1" else {}
    for title, key in {**TITLES, **larger}.items():
        values = [score(found[key]) for found in networks.values()]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        assert cells[title] == f"{np.mean(values):.1f}{spread}", title


@pytest.mark.parametrize("baseline", ["sgd", "sgd_twice"])
@pytest.mark.parametrize("method", ["sgd", *OTHERS])
def test_differences_and_their_intervals(page, counts, method, baseline):
    """t intervals by SciPy; the bootstrap by another way to draw: seeds and images by their numbers, one at a time."""
    if method == baseline:
        return
    words = {"sgd": "SGD", "sgd_twice": "SGD of twice the iterations"}[baseline]
    cells = {interval: read_table(page, f"Difference to {words} and 95 % {interval} interval, in points of mIoU")[
        METHODS[method].title] for interval in ("t", "bootstrap")}
    one, other = (of_method(counts, name) for name in (method, baseline))
    seeds = sorted({*one} & {*other})
    for title, key in TITLES.items():
        found = np.array([score(one[seed][key]) - score(other[seed][key]) for seed in seeds])
        if len(seeds) < 2:
            assert cells["t"][title] == cells["bootstrap"][title] == f"{found.mean():+.1f}"
            continue
        low, high = stats.t.interval(0.95, len(found) - 1, found.mean(), stats.sem(found))
        assert cells["t"][title] == f"{found.mean():+.1f} ({low:+.1f} to {high:+.1f})"
        shown = [float(number) for number in re.findall(r"[+-][\d.]+", cells["bootstrap"][title])]
        assert shown[0] == pytest.approx(found.mean(), abs=0.051)
        assert shown[1:] == pytest.approx(bootstrap(*([each[seed][key] for seed in seeds] for each in (one, other))),
                                          abs=0.25), title


def bootstrap(one, other, resamples=4000):
    """2.5 and 97.5 % quantiles of the mean difference over resampled pairs of networks and resampled images."""
    random = np.random.RandomState(7)
    images, drawn = len(one[0][0]), []
    for _ in range(resamples):
        place = random.choice(images, images)
        pairs = random.choice(len(one), len(one))
        drawn.append(np.mean([score([part[place] for part in one[k]]) - score([part[place] for part in other[k]])
                              for k in pairs]))
    return np.percentile(drawn, [2.5, 97.5])


def test_differences_at_equal_clean_scores_by_least_squares(page, records, counts):
    """The clean score is that of the images that were attacked."""
    table = read_table(page, "Difference to SGD at equal clean mIoU and 95 % t interval, in points")
    for title, key in TITLES.items():
        if key[0] == "none":
            continue
        scores = {method: [] for method in CORE if method != "at_1"}
        for method in scores:
            for seed, found in of_method(counts, method).items():
                lines = records[f"{method}-{seed}"]
                attacked = {line["image"] for line in lines[key]}
                places = [place for place, line in enumerate(lines["none", 0]) if line["image"] in attacked]
                assert len(places) == len(lines[key]) == 16
                scores[method].append((score([part[places] for part in found["none", 0]]), score(found[key])))
        slope, expected = fit(scores)
        assert table["(slope)"][title] == f"{slope:+.2f}"
        freedom = sum(map(len, scores.values())) - len(scores) - 1
        for method, (value, half) in expected.items():
            assert table[METHODS[method].title][title] == f"{value:+.1f}" + (
                f" ({value - half:+.1f} to {value + half:+.1f})" if freedom >= 4 else "")
