"""The results of a sweep for people (a table) and programs (results.json)."""
import json
from pathlib import Path

from engine.records.naming import format_radius, name_attack
from metrics import count_defined
from utils.files import write_atomically
from utils.logging import logger
from utils.text import format_markdown, format_score, replace_nan

PER_RUN = ("mIoU", "over", "aAcc", "Image IoU", "ratio")  # a run's scores in a comparison


def format_table(rows: list[dict]) -> str:
    """Return rows as a Markdown table, one line each; with the number of classes if Mean IoU leaves out some."""
    return format_markdown({
        "Attack": [name_attack(result["settings"] or result) for result in rows],
        "Norm": [result["norm"] or "-" for result in rows],
        "eps": [format_radius(result) for result in rows],
        "Steps": ["-" if result["steps"] is None else str(result["steps"]) for result in rows],
        "Mean IoU": [format_miou(result) for result in rows],
        **({"over": [format_classes(result) for result in rows]} if leaves_out_classes(rows) else {}),
        **{score: [format_score(result[score]) for result in rows] for score in ("Overall Acc", "Image IoU")},
    })


def format_miou(row: dict) -> str:
    """Return Mean IoU as text, for a union with its lower bound."""
    lower = row["Mean IoU lower"]
    return format_score(row["Mean IoU"]) + ("" if lower is None else f" (>= {format_score(lower)})")


def leaves_out_classes(rows: list[dict]) -> bool:
    """Return whether a Mean IoU is not over all classes."""
    return any(count_defined(row["Class IoU"]) < len(row["Class IoU"]) for row in rows)


def format_classes(row: dict) -> str:
    """Return over how many classes Mean IoU is: 18 of 21 classes."""
    return f"{count_defined(row['Class IoU'])} of {len(row['Class IoU'])} classes"


def list_scores(rows: list[dict]) -> list[str]:
    """Return the titles of the scores that a comparison of runs shows; "over" if a Mean IoU leaves out classes."""
    return [title for title in PER_RUN if title != "over" or leaves_out_classes(rows)]


def format_scores(row: dict | None) -> dict[str, str]:
    """Return the cells {title: text} of PER_RUN."""
    if row is None:
        return dict.fromkeys(PER_RUN, "-")
    cells = [format_miou(row), format_classes(row)]
    return dict(zip(PER_RUN, cells + [format_score(row[key]) for key in ("Overall Acc", "Image IoU", "ratio")],
                    strict=True))


def write_results(path: Path, results: dict):
    """Write results.json, nan as null; an earlier file is kept as results.1.json, .2 and so on."""
    write_atomically(path, json.dumps(replace_nan(results), indent=1) + "\n", keep_old=True)
    logger.info("Results written to %s", path)
