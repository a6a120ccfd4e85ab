"""Groups of runs, such as one training with several seeds: mean, spread, and how sure the differences are."""
import os
from statistics import mean, stdev

import numpy as np

from engine.records.rows import choose_counts
from engine.records.store import Record
from engine.report.tables import align_rows
from metrics import compare
from utils.errors import UserError
from utils.text import format_markdown

SCORES = {"mIoU": "Mean IoU", "aAcc": "Overall Acc"}
LEGEND = """\
- mean +- sample standard deviation over the runs of a group; of one run the value alone.
- difference: the group's mean minus that of the first group, with its 95 % bootstrap interval, over runs and images
  drawn with replacement; groups of one size are paired run by run, in the order given. t: the 95 % interval by
  Student's t over the pairs. With few runs the bootstrap is too narrow, and t is the one to trust.
- A difference whose interval holds 0 can be chance."""


def name_groups(groups: list[list[str]]) -> dict[str, list[str]]:
    """Return {name: runs}: a run alone has its own name, sgd-1,sgd-2 is "sgd (2 runs)", runs without a common beginning
    are "the first and 1 more".

    Raises UserError if a run is given twice.
    """
    runs = [run for group in groups for run in group]
    if twice := {run for run in runs if runs.count(run) > 1}:
        raise UserError(f"--report: {', '.join(sorted(twice))} is given twice: give each run once")
    begins = [os.path.commonprefix(group).rstrip("_-. ") for group in groups]
    return {group[0] if len(group) == 1 else f"{begin} ({len(group)} runs)" if begin and begins.count(begin) == 1 else
            f"{group[0]} and {len(group) - 1} more": group
            for group, begin in zip(groups, begins, strict=True)}


def compare_groups(groups: dict[str, list[str]], kept: dict[str, list[Record]], rows: list[dict],
                   names: list[str]) -> list[dict]:
    """Return a line for each attack that all runs of two groups have, or of one: means, spreads and differences.

    kept: {run: records}; rows: those of all runs, with "run"; names: the images. A line is {"attack", "loss", "norm",
    "eps", "steps", "groups": {name: {score: {"mean", "spread", "values"}}}, "differences": {name: {score: {"mean",
    "bootstrap", "t"}}}}, from the second group on minus the first one.
    """
    first, *others = groups
    lines = []
    for line in align_rows(rows):
        whole = {name: [line["rows"][run] for run in runs] for name, runs in groups.items()
                 if all(run in line["rows"] for run in runs)}
        if whole:
            counts = {name: [count_scores(row, kept[row["run"]], names) for row in of_group]
                      for name, of_group in whole.items()}
            lines.append({
                **{key: line[key] for key in ("attack", "loss", "norm", "eps", "steps")},
                "groups": {name: _summarize(of_group) for name, of_group in whole.items()},
                "differences": {name: compare_scores(counts[name], counts[first]) for name in others
                                if name in whole and first in whole}})
    return lines


def count_scores(row: dict, records: list[Record], names: list[str]) -> dict:
    """Return {score: counts} of a row, as compare() takes them for one run."""
    by_stem = {record.stem: record for record in records}
    clean = [record for record in records if record.settings["attack"] == "none" and row["members"]]
    return dict(zip(SCORES, choose_counts([*clean, *(by_stem[stem] for stem in row["records"])], names), strict=True))


def _summarize(rows: list[dict]) -> dict:
    values = {score: [row[key] for row in rows] for score, key in SCORES.items()}
    return {score: {"mean": mean(of_runs), "spread": stdev(of_runs) if len(of_runs) > 1 else None, "values": of_runs}
            for score, of_runs in values.items()}


def compare_scores(counts: list[dict], of_first: list[dict], scores=tuple(SCORES)) -> dict:
    """Return {score: the difference between two groups and its intervals}; counts: those of each run of a group."""
    stacked = [{score: tuple(map(np.stack, zip(*(run[score] for run in group), strict=True))) for score in scores}
               for group in (counts, of_first)]
    return {score: vars(compare(stacked[0][score], stacked[1][score])) for score in scores}


def format_members(groups: dict[str, list[str]]) -> str:
    """Return a line that says which runs each group has."""
    return "; ".join(f"{name}: {', '.join(runs)}" for name, runs in groups.items())


def format_groups(lines: list[dict]) -> str:
    """Return a table with a line per attack and group: mean, spread, and the difference to the first group."""
    return format_markdown(tabulate_groups(lines))


def tabulate_groups(lines: list[dict], *, percent: bool = False) -> dict[str, list[str]]:
    """Return the columns {title: cells} of that table; percent: instead of fractions."""
    scale, digits = (100, 2) if percent else (1, 4)
    shown = [(line, name, scores) for line in lines for name, scores in line["groups"].items()]
    columns = {key: [line[key] for line, *_ in shown] for key in ("attack", "loss", "norm", "eps", "steps")}
    columns["group"] = [name for _, name, _ in shown]
    for score in SCORES:
        columns[score] = [_format_mean(scores[score], scale, digits) for *_, scores in shown]
        columns[f"{score} difference"] = [_format_difference(
            line["differences"].get(name, {}).get(score), scale, digits) for line, name, _ in shown]
    return columns


def _format_mean(found: dict, scale: int, digits: int) -> str:
    spread = "" if found["spread"] is None else f" +- {scale * found['spread']:.{digits}f}"
    return f"{scale * found['mean']:.{digits}f}{spread}"


def _format_difference(found: dict | None, scale: int, digits: int) -> str:
    if found is None:
        return "-"

    def write(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    low, high = map(write, found["bootstrap"])
    t = "" if found["t"] is None else "; t {} to {}".format(*map(write, found["t"]))
    return f"{write(found['mean'])} ({low} to {high}{t})"
