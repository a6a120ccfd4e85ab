"""The results of a sweep for people (a table) and programs (results.json)."""
import json
from pathlib import Path

from engine.records.naming import format_radius, name_attack
from utils.files import write_atomically
from utils.logging import logger
from utils.text import format_markdown, replace_nan


def format_table(rows: list[dict]) -> str:
    """Return rows as a Markdown table, one line each."""
    return format_markdown({
        "Attack": [name_attack(result["settings"] or result) for result in rows],
        "Norm": [result["norm"] or "-" for result in rows],
        "eps": [format_radius(result) for result in rows],
        "Steps": ["-" if result["steps"] is None else str(result["steps"]) for result in rows],
        "Mean IoU": [format_miou(result) for result in rows],
        **{score: [f"{result[score]:.4f}" for result in rows] for score in ("Overall Acc", "Image IoU")},
    })


def format_miou(row: dict) -> str:
    """Return Mean IoU as text, for a union with its lower bound."""
    lower = row["Mean IoU lower"]
    return f"{row['Mean IoU']:.4f}" + ("" if lower is None else f" (>= {lower:.4f})")


def write_results(path: Path, results: dict):
    """Write results.json, nan as null; an earlier file is kept as results.1.json, .2 and so on."""
    write_atomically(path, json.dumps(replace_nan(results), indent=1) + "\n", keep_old=True)
    logger.info("Results written to %s", path)
