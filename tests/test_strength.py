"""What docs/attacks.md says of race beside other attacks, counted anew from every single result, not from the means."""
import json
import re
from pathlib import Path
from statistics import mean

import pytest

from attacks import LOSSES
from benchmarks.plot_strength import format_goal, main, read_summary

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("attacks_voc", "attacks_voc_native", "attacks_camvid", "attacks_camvid_at")
PAGE = " ".join((ROOT / "docs" / "attacks.md").read_text().split())


def scores_of(name: str) -> dict[tuple, tuple[float, float]]:
    """Return {(eps in 1/255, gradients, attack): (aAcc, mIoU)} in percent, the means over attack seeds."""
    found = {}
    for line in json.loads((ROOT / "results" / f"{name}.json").read_text())["results"]:
        key = round(255 * line["eps"], 2), line["gradients"], line["attack"]
        found.setdefault(key, []).append((100 * line["aAcc"], 100 * line["mIoU"]))
    return {key: tuple(map(mean, zip(*values, strict=True))) for key, values in found.items()}


def lead_of(scores: dict, eps: float, number: int, share: int) -> tuple[float, float]:
    """Return how many points more race with number / share gradients leaves than the best public attack with all."""
    public = [value for (radius, gradients, attack), value in scores.items()
              if (radius, gradients) == (eps, number) and attack not in ("race", "apgd-blend")]
    assert len(public) == 14
    return tuple(ours - min(theirs) for ours, theirs in zip(scores[eps, number // share, "race"],
                                                           zip(*public, strict=True), strict=True))


def lines_of(scores: dict) -> list[tuple[float, int]]:
    return sorted({(eps, number) for eps, number, attack in scores if attack == "pgd"})


def test_how_often_race_reaches_its_goal():
    """At most 0.3 points more of either score than the best public attack."""
    lines, halves, wholes = 0, 0, 0
    for name in NAMES:
        scores = scores_of(name)
        of = lines_of(scores)
        half, whole = (sum(max(lead_of(scores, *line, share)) <= 0.3 for line in of) for share in (2, 1))
        assert re.search(rf"\| {name} +\| {len(of)} +\| {half} +\| {whole} +\|", PAGE)
        lines, halves, wholes = lines + len(of), halves + half, wholes + whole
    assert f"reached on {halves} of the {lines} lines below**, and with all gradients on {wholes}" in PAGE
    table = format_goal({name: read_summary(ROOT / "results" / f"{name}.json") for name in NAMES})
    assert table in (ROOT / "docs" / "attacks.md").read_text()


def test_the_command_of_that_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["", *(str(ROOT / "results" / f"{name}.json") for name in NAMES)])
    main()
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "attacks.md").read_text()


@pytest.mark.parametrize(("name", "eps", "number", "share", "score", "words"), [
    ("attacks_voc", 0.25, 30, 2, 0, "(by {} points of accuracy on crops"),
    ("attacks_voc_native", 0.25, 30, 2, 0, "on crops, {} on whole images"),
    ("attacks_voc", 0.5, 10, 2, 0, "at 0.5/255 with N = 10 ({})"),
    ("attacks_camvid", 0.5, 10, 2, 0, "on CamVid with N = 10 ({} to"),
    ("attacks_camvid", 1, 10, 2, 0, "to {}), at 1/255 on every line"),
    ("attacks_camvid", 1, 30, 2, 0, "with N = 30 by {} points of accuracy"),
    ("attacks_camvid", 1, 60, 2, 1, "with 60 and 90 by {} and"),
    ("attacks_camvid", 1, 90, 2, 1, "and {} of mIoU alone)"),
    ("attacks_camvid", 0.5, 90, 2, 0, "at 0.5/255 with N = 90 ({})"),
    ("attacks_camvid", 0.5, 90, 1, 0, "at N = 90 ({} points more"),
    ("attacks_camvid", 1, 10, 1, 1, "at 1/255 on CamVid ({} points)"),
    ("attacks_voc_native", 0.25, 30, 1, 1, "on whole images of VOC ({})"),
    ("attacks_camvid_at", 8, 10, 2, 0, "**by {} points at 8/255 with N = 10**"),
    ("attacks_camvid_at", 8, 30, 2, 0, "by {} there with N = 30"),
    ("attacks_camvid_at", 4, 10, 2, 0, "by {} to"),
    ("attacks_camvid_at", 4, 60, 2, 0, "to {} at 4/255"),
    ("attacks_camvid_at", 2, 10, 2, 0, "and by {} at 2/255."),
    ("attacks_camvid_at", 4, 60, 1, 0, "race with 60 gradients is {} points behind"),
])
def test_how_far_race_is_behind(name, eps, number, share, score, words):
    assert words.format(f"{lead_of(scores_of(name), eps, number, share)[score]:.1f}") in PAGE


def test_apgd_on_the_first_loss_beside_race():
    """Both scores where it is ahead by more than 0.3 points, and the bounds everywhere else."""
    ahead, others = [], []
    for name in NAMES:
        scores = scores_of(name)
        for eps, number in lines_of(scores):
            blend, race = (scores[eps, number, attack] for attack in ("apgd-blend", "race"))
            if race[0] - blend[0] > 0.3:
                ahead.append((blend, race))
                assert blend[0] > 50
            else:
                others += [one - other for one, other in zip(blend, race, strict=True)]
    assert len(ahead) == 3
    for blend, race in ahead:
        for pair in (blend, race):
            assert " / ".join(f"{value:.1f}" for value in pair) in PAGE
    assert f"at most {-min(others):.1f} points ahead, and up to {max(others):.1f} behind" in PAGE


def test_bounds_with_all_gradients():
    leads = {name: {line: lead_of(scores_of(name), *line, 1) for line in lines_of(scores_of(name))} for name in NAMES}
    ordinary = {(name, *line): lead for name in NAMES[:3] for line, lead in leads[name].items()}
    assert max(lead[0] for line, lead in ordinary.items() if line != ("attacks_camvid", 0.5, 90)) < 0.335
    assert max(lead[1] for line, lead in ordinary.items()
               if line not in (("attacks_camvid", 1, 10), ("attacks_voc_native", 0.25, 30))) < 0.4
    robust = leads["attacks_camvid_at"]
    assert all(max(lead) <= 0.3 for (eps, _), lead in robust.items() if eps == 2)
    assert all(max(lead) < 0 for (eps, _), lead in robust.items() if eps == 8)


def test_the_table_of_losses_is_that_of_the_results():
    """Each loss of APGD, computed from every single result."""
    scores = scores_of("attacks_voc") | scores_of("attacks_voc_losses")
    page = (ROOT / "docs" / "attacks.md").read_text()
    head, _, *lines = page[page.index("| attack          | 0.25/255, N = 30"):].split("\n\n")[0].splitlines()
    columns = [(float(eps), int(number)) for eps, number in re.findall(r"([\d.]+)/255, N = (\d+)", head)]
    table = {}
    for line in lines:
        attack, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        table[attack] = cells
        assert cells == ["{:.1f} / {:.1f}".format(*scores[*column, attack]) for column in columns], attack
    assert set(table) == {*(f"apgd-{loss}" for loss in LOSSES), "ensemble", "red-apgd-mce", "race"}
    alone = [scores[0.25, number, f"apgd-{loss}"][0] for loss in LOSSES for number in (10, 30, 60, 90)]
    assert f"no loss by itself leaves less than {min(alone):.1f} % accuracy" in PAGE


def test_the_image_on_which_race_fails():
    one, all_crops = scores_of("attacks_voc_balanced"), scores_of("attacks_voc_crops")
    figures = [f"{one[0.25, number, attack][0]:.1f}"
               for attack in ("race", "sea", "apgd-mce_bal") for number in (30, 90)]
    assert ("race leaves {} % accuracy with N = 30 and {} with 90, `sea` {} and {}, APGD on `mce_bal` {} and {} "
            .format(*figures)) in PAGE
    pair = ["{:.1f} / {:.1f}".format(*all_crops[0.25, 90, attack]) for attack in ("sea", "race")]
    assert "`sea` leaves {} with N = 90, race {} ".format(*pair) in PAGE
