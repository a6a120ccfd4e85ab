"""The figures of docs/experiments/voc.md are those of results/voc_small.json."""
import json

import numpy as np
import pytest

from tests.test_docs import ROOT

CORRUPTIONS = 15
NAMES = {"tta": ", `--tta flip`", "attacked without flip": ", of the network alone, scored with flip"}


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "results" / "voc_small.json").read_text())


@pytest.fixture(scope="module")
def lines():
    """The cells of the page's tables, by the first cell."""
    page = (ROOT / "docs" / "experiments" / "voc.md").read_text()
    measured = page[page.index("## Measured here"):].replace("**", "")
    return {cells[0]: cells[1:] for line in measured.splitlines() if line.startswith("|")
            for cells in [[cell.strip() for cell in line.strip("|").split("|")]]}


def name_row(row, part):
    """A row's name in the page: race-30, 0.5/255."""
    name = "none" if row["attack"] == "none" else f"{row['attack']}-{row['steps']}, {255 * row['eps']:g}/255"
    return name + NAMES.get(part, "")


def test_scores_under_attack(results, lines):
    rows = {name_row(row, part): row for part in ("attacks", *NAMES) for row in results[part]["rows"]
            if (part, row["attack"]) != ("attacked without flip", "none")}
    assert len(rows) == 8
    for name, row in rows.items():
        assert lines[name] == [f"{100 * row[key]:.1f}" for key in ("Mean IoU", "Overall Acc", "Image IoU")], name


def test_scores_under_corruptions(results, lines):
    scores = {}
    for row in results["corruptions"]["rows"]:
        if row["attack"] != "none":
            scores.setdefault(row["attack"].replace("_", " "), {})[row["eps"]] = 100 * row["Mean IoU"]
    table = np.array([[found[severity] for severity in range(1, 6)] for found in scores.values()])
    assert table.shape == (CORRUPTIONS, 5)
    for name, values in [*zip(scores, table, strict=True), ("mean", table.mean(0))]:
        assert lines[name] == [f"{value:.1f}" for value in (*values, values.mean())], name
