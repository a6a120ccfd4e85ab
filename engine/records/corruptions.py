"""Scores under common corruptions: by corruption and severity, their mean, and errors as a share of another run's."""
from pathlib import Path
from statistics import mean

from attacks.corruption import NORM
from engine.records.shards import read_records
from engine.records.store import Record
from metrics import scores
from utils.errors import UserError
from utils.text import format_markdown, format_score, is_undefined


def is_corruption(settings: dict) -> bool:
    """Return whether these are the settings of a corruption."""
    return settings["norm"] == NORM


def read_baseline(folder: Path) -> list[Record]:
    """Return the records of corruptions in a run folder, newest first; UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"--corrupt_baseline: no folder {folder}: give a run's folder, or its name in --output_dir")
    found = [record for record in reversed(read_records(folder)) if record.header and is_corruption(record.settings)]
    if not found:
        raise UserError(f"--corrupt_baseline: no records of corruptions in {folder}: evaluate that run with --corrupt "
                        "first, or give another one")
    return found


def describe_corruptions(rows: list[dict], names: list[str], baseline: list[Record] = ()) -> dict | None:
    """Return what rows say about corruptions, None if none of them is of one.

    "corruptions": {name: {"mIoU": {severity: value}, "mean": over severities, "ratio": of errors}}; "mean" and "mean
    ratio" are over corruptions. A ratio is the sum over severities of 1 - mIoU, divided by that of the baseline on the
    images `names`, as in Kamann and Rother, IJCV 2021; None without a baseline that has all of them.
    """
    found = {}
    for row in rows:
        if row["settings"] and is_corruption(row["settings"]):
            found.setdefault(row["attack"], {})[int(row["eps"])] = row["Mean IoU"]
    if not found:
        return None
    described = {name: {"mIoU": by_severity, "mean": mean(by_severity.values()),
                        "ratio": _divide_errors(name, by_severity, names, baseline)}
                 for name, by_severity in found.items()}
    ratios = [each["ratio"] for each in described.values()]
    return {"corruptions": described, "mean": mean(each["mean"] for each in described.values()),
            "mean ratio": None if None in ratios else mean(ratios)}


def format_corruptions(described: dict) -> str:
    """Return a Markdown table with a line for each corruption and one for their mean; mIoU in columns by severity."""
    every = described["corruptions"]
    severities = sorted({severity for each in every.values() for severity in each["mIoU"]})
    columns = {"Corruption": [*every, "mean"]}
    for severity in severities:
        values = [each["mIoU"].get(severity) for each in every.values()]
        columns[f"Severity {severity}"] = [*map(format_score, values),
                                           "-" if None in values else format_score(mean(values))]
    columns["Mean IoU"] = [format_score(each["mean"]) for each in (*every.values(), described)]
    ratios = [*(each["ratio"] for each in every.values()), described["mean ratio"]]
    if any(ratio is not None for ratio in ratios):
        columns["Errors / baseline's"] = [format_score(ratio) for ratio in ratios]
    return format_markdown(columns)


def _divide_errors(name: str, by_severity: dict[int, float], names: list[str], baseline) -> float | None:
    errors = other = 0.0
    for severity, value in by_severity.items():
        record = next((record for record in baseline if record.settings["attack"] == name
                       and record.settings["eps"] == severity and all(image in record for image in names)), None)
        if record is None:
            return None
        errors, other = errors + 1 - value, other + 1 - scores(*record.counts(names))["Mean IoU"]
    return None if is_undefined(errors) or not other else errors / other
