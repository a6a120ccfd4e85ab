"""What a sweep found, for people (a table) and programs (results.json)."""
import json
from pathlib import Path

from engine.records.naming import attack_name, radius
from utils.files import write_atomically
from utils.logging import logger
from utils.text import format_markdown, replace_nan


def table(rows: list[dict]) -> str:
    """Return rows as a Markdown table, one line each."""
    return format_markdown({
        "Attack": [attack_name(result["settings"] or result) for result in rows],
        "Norm": [result["norm"] or "-" for result in rows],
        "eps": [radius(result) for result in rows],
        "Steps": ["-" if result["steps"] is None else str(result["steps"]) for result in rows],
        "Mean IoU": [bracket(result) for result in rows],
        **{score: [f"{result[score]:.4f}" for result in rows] for score in ("Overall Acc", "Image IoU")},
    })


def bracket(row: dict) -> str:
    """Return Mean IoU; for a worst case also the bound that no choice of attacks goes below."""
    lower = row["Mean IoU lower"]
    return f"{row['Mean IoU']:.4f}" + ("" if lower is None else f" (>= {lower:.4f})")


def write_results(path: Path, results: dict):
    """Write results.json, nan as null; results of an earlier evaluation are kept as results.1.json, .2 and so on."""
    write_atomically(path, json.dumps(replace_nan(results), indent=1) + "\n", keep_old=True)
    logger.info("Results written to %s", path)
