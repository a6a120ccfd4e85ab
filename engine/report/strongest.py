"""Which group of runs keeps the highest mIoU at each radius, under the strongest attack that all have there, and how
sure that is."""
from statistics import mean, stdev

from engine.records.corruptions import is_corruption
from engine.records.rows import WORST
from engine.records.store import Record
from engine.report.groups import compare_scores, count_scores
from engine.report.tables import align_rows, group_lines
from utils.text import is_undefined

KEYS = ("attack", "loss", "norm", "eps", "steps")
MIN_IMAGES = 10  # a bootstrap over fewer images shows too little of their spread


def find_strongest(groups: dict[str, list[str]], kept: dict[str, list[Record]], rows: list[dict],
                   names: list[str]) -> list[dict]:
    """Return a line for the clean images and for every norm and eps, in this order, of the strongest attack there.

    groups: {name: runs}; a run alone is a group of its own. The strongest attack is that with the lowest mean mIoU
    among those that the most groups have; of equals, the worst case. A line is {"attack", "loss", "norm", "eps",
    "steps", "groups": {name: means over its runs, "most": the class whose IoU falls the most}, "highest": the group
    with the highest mIoU, None without another to compare it with, "others": {each other group, in the order of its
    mIoU: "difference": "highest" minus it with its 95 % intervals, "unclear": why this does not tell that it is lower,
    or ""}, "stronger": {run: its strongest attack at this norm and eps, and the "mIoU", if that is below the line's}}.
    """
    lines = [line for line in align_rows(rows) if not is_corruption(line)]  # which are in no worst case
    clean = next(line for line in lines if line["norm"] == "-")
    norms = list(dict.fromkeys(line["norm"] for line in lines))
    balls = sorted(group_lines(lines, "norm", "eps"),
                   key=lambda ball: (norms.index(ball[0]["norm"]), next(iter(ball[0]["rows"].values()))["eps"]))
    return [_describe(_choose(ball, groups), ball, clean, groups, kept, names) for ball in balls]


def _choose(lines: list[dict], groups: dict[str, list[str]]) -> dict:
    def rank(line: dict) -> tuple:
        means = [_average(line, groups[name], "Mean IoU") for name in _list_whole(line, groups)]
        return -len(means), mean(means) if means else 1.0, not line["curve"].startswith(WORST)
    return min(lines, key=rank)


def _list_whole(line: dict, groups: dict[str, list[str]]) -> list[str]:
    """Return the groups all of whose runs have this attack."""
    return [name for name, runs in groups.items() if all(run in line["rows"] for run in runs)]


def _average(line: dict, runs: list[str], key: str) -> float | None:
    values = [line["rows"][run][key] for run in runs]
    return None if any(map(is_undefined, values)) else mean(values)


def _describe(line: dict, ball: list[dict], clean: dict, groups: dict, kept: dict, names: list[str]) -> dict:
    whole = _list_whole(line, groups)
    found = {name: _summarize(line, clean, groups[name]) for name in whole}
    ranked = sorted((name for name in whole if found[name]["mIoU"] is not None), key=lambda name: -found[name]["mIoU"])
    highest, *others = ranked or [None]
    counts = {name: [count_scores(line["rows"][run], kept[run], names) for run in groups[name]]
              for name in ranked if others}
    compared = {name: _compare(counts[highest], counts[name], found[highest], found[name],
                               sizes=[len(groups[highest]), len(groups[name])], images=len(names)) for name in others}
    stronger = {run: worse for runs in groups.values() for run in runs if (worse := _find_stronger(line, ball, run))}
    return {**{key: line[key] for key in KEYS}, "groups": found, "highest": highest if others else None,
            "others": compared, "stronger": stronger}


def _compare(counts: list, of_other: list, highest: dict, other: dict, *, sizes: list[int], images: int) -> dict:
    measured = compare_scores(counts, of_other, ("mIoU",))["mIoU"]
    difference = {key: list(value) if isinstance(value, tuple) else value for key, value in measured.items()}
    return {"difference": difference, "unclear": _find_doubt(difference, highest, other, sizes=sizes, images=images)}


def _find_stronger(line: dict, ball: list[dict], run: str) -> dict | None:
    """Return the attack of the ball under which the run has its lowest mIoU, None if that is the line's."""
    present = [each for each in ball if run in each["rows"] and not is_undefined(each["rows"][run]["Mean IoU"])]
    worst = min(present, key=lambda each: (each["rows"][run]["Mean IoU"], each is not line), default=line)
    if worst is line or run not in line["rows"]:
        return None
    return {**{key: worst[key] for key in KEYS}, "mIoU": worst["rows"][run]["Mean IoU"]}


def _summarize(line: dict, clean: dict, runs: list[str]) -> dict:
    values = [line["rows"][run]["Mean IoU"] for run in runs]
    return {"mIoU": _average(line, runs, "Mean IoU"), "lower": _average(line, runs, "Mean IoU lower"),
            "spread": stdev(values) if len(runs) > 1 and not any(map(is_undefined, values)) else None,
            "most": _find_largest_drop(line, clean, runs) if line is not clean else None}


def _find_largest_drop(line: dict, clean: dict, runs: list[str]) -> dict | None:
    """Return {"class", "clean", "attacked"}, IoUs averaged over runs, of the class with the largest difference."""
    drops = []
    for name in clean["rows"][runs[0]]["Class IoU"]:
        both = [[each["rows"][run]["Class IoU"][name] for run in runs] for each in (clean, line)]
        if not any(is_undefined(iou) for ious in both for iou in ious):
            drops.append({"class": name, "clean": mean(both[0]), "attacked": mean(both[1])})
    largest = max(drops, key=lambda drop: drop["clean"] - drop["attacked"], default=None)
    return largest if largest and largest["clean"] > largest["attacked"] else None


def _find_doubt(difference: dict, highest: dict, other: dict, *, sizes: list[int], images: int) -> str:
    """Return why the difference does not tell which group is higher, or ""."""
    intervals = [interval for key in ("bootstrap", "t") if (interval := difference[key]) is not None]
    if images < MIN_IMAGES:
        return f"{images} images are too few to tell"
    if any(low <= 0 for low, _ in intervals):
        return "the interval holds 0, so this may be chance"
    if highest["lower"] is not None and highest["lower"] <= other["mIoU"]:
        return "the brackets of the two worst cases overlap"
    if difference["t"] is None and max(sizes) > 1:
        return "there is no t interval over runs, and the bootstrap alone is too narrow for so few"
    return ""
