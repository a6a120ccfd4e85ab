"""benchmarks.radius: radii against the exact one of a linear network, and the table of docs/attacks.md."""
import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.radius import bisect, compare, format_table, measure_success, search

ROOT = Path(__file__).resolve().parent.parent
MARGIN = 0.03  # of every pixel, along a slope of ones over three colours


@pytest.fixture
def linear():
    """(model, image [1, 3, 4, 5], labels): each pixel is wrong once the sum of its colours falls by MARGIN."""
    model = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1) / 2)
        model.bias.copy_(torch.tensor([-1.0, 1.0]) * (1.5 - MARGIN) / 2)
    return model.eval(), torch.full((1, 3, 4, 5), 0.5), torch.zeros(1, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_both_find_the_radius_of_a_linear_network(norm, linear):
    """MARGIN / 3 for each colour; in l2 that times the root of all 60 values."""
    exact = MARGIN / 3 * (1 if norm == "linf" else math.sqrt(60))
    bracket = tuple(factor * exact * (255 if norm == "linf" else 1) for factor in (0.25, 4))
    ours = search(*linear, norm=norm, gradients=100)
    theirs = bisect(*linear, norm=norm, gradients=100, bracket=bracket)
    assert exact * 0.999 <= ours <= 1.05 * exact
    assert exact * 0.999 <= theirs <= 16 ** (1 / 32) * 1.1 * exact  # five halvings of a factor of 16
    far = tuple(bound / 100 for bound in bracket)
    assert bisect(*linear, norm=norm, gradients=100, bracket=far) is None


def test_success_is_99_percent_of_the_labelled_pixels(linear):
    model, image, labels = linear
    wrong = image - MARGIN
    assert measure_success(model, image, labels, wrong, "linf") == pytest.approx(MARGIN)
    assert measure_success(model, image, labels, wrong, "l2") == pytest.approx(MARGIN * math.sqrt(60))
    wrong[..., 0, 0] = 0.5
    assert measure_success(model, image, labels, wrong, "linf") is None  # 19 of 20
    labels[:, 0, 0] = 255
    assert measure_success(model, image, labels, wrong, "linf") is not None


@pytest.mark.parametrize(("ours", "theirs", "word"), [
    (1.0, 2.0, "smaller"), (2.0, 1.0, "larger, missed"), (None, 1.0, "larger, missed"), (1.0, None, "smaller"),
    (None, None, "equal"), (1.0, 1.0, "equal")])
def test_a_larger_radius_is_a_miss(ours, theirs, word):
    line = {"norm": "linf", "image": "a", "min_radius": ours, "bisection": theirs}
    assert compare(line) == word and word in format_table({"net": {"results": [line]}})


def test_the_table_of_the_page_is_that_of_the_results():
    page = (ROOT / "docs" / "attacks.md").read_text()
    networks = json.loads((ROOT / "results" / "min_radius.json").read_text())["networks"]
    assert format_table(networks) in page
    lines = [line for network in networks.values() for line in network["results"]]
    assert f"smaller on {sum(line['min_radius'] < line['bisection'] for line in lines)} of {len(lines)}" in page
    assert all(network["command"] in " ".join(page.replace("\\\n", " ").split()) for network in networks.values())
    voc = [f"{255 * line['min_radius']:.2f}" for line in networks["voc"]["results"] if line["norm"] == "linf"]
    assert re.search(rf"`min_radius --steps 100`.*{', '.join(voc[:-1])} and {voc[-1]}", page)
