"""Print files of results as the tables of docs/performance.md: every ratio, then the goals.

    python -m benchmarks.table benchmarks/results/cpu.json benchmarks/results/cpu_again.json
"""
import argparse
from pathlib import Path

from benchmarks.compare import read
from utils.text import format_markdown

NUMBERS = "first", "second", "third", "fourth"
# What is to be reached: in words; the bound of a median; and {name in the cell: benchmark, case, against}.
GOALS = (
    ("a training step 1.25 times as fast as the plain one", 1.25, {"": ("train_step", "SGD", "plain SGD")}),
    ("SAM at most 2.0 times SGD", 2.0, {"": ("sam_step", "SAM", "SGD")}),
    ("AT-3 at most 3.0 times SGD", 3.0, {"": ("at_step", "AT-3", "SGD")}),
    ("an attack's step 1.6 times as fast as the plain one, with four steps too", 1.6,
     {"10 steps": ("attack_step", "PGD-10", "plain"), "4 steps": ("attack_step", "PGD-4", "plain")}),
    ("an attack's step at most 1.10 times the floor", 1.1,
     {"10 steps": ("attack_step", "PGD-10", "the floor"), "4 steps": ("attack_step", "PGD-4", "the floor")}),
    ("loading without a cache 2.5 times as fast as the plain way", 2.5, {"": ("data_loading", "cache none", "plain")}),
    ("loading with a cache 4 times as fast", 4.0,
     {"memory": ("data_loading", "cache ram", "plain"), "disk": ("data_loading", "cache disk", "plain")}),
    ("evaluation 1.5 times as fast as the plain way", 1.5, {"": ("evaluate", "ours", "plain")}),
    ("SAM's memory at most 1.1 times SGD's and a copy of the weights", 1.1,
     {"": ("memory", "SAM", "SGD's + a copy of the weights")}),
)


def format_table(paths: list[Path]) -> str:
    """Return files of the same benchmarks as a Markdown table: medians, lowest and highest ratio of a pair."""
    files = [read(path) for path in paths]
    first = files[0].values()
    columns = {"benchmark": [line["benchmark"] for line in first], "what": [line["case"] for line in first],
               "time": [_format_time(line["seconds"]) for line in first],
               "is": [f"{line['unit']} {line['against']}" for line in first]}
    for number, lines in zip(NUMBERS, files, strict=False):
        columns[f"{number} run"] = [_format_ratio(lines[key]) for key in files[0]]
    return format_markdown(columns)


def format_goals(paths: list[Path]) -> str:
    """Return the goals as a Markdown table: the medians of each file, and which of them are missed."""
    columns = {"goal": [words for words, _, _ in GOALS]}
    for number, path in zip(NUMBERS, paths, strict=False):
        lines = {(line["benchmark"], line["case"], line["against"]): line for line in read(path).values()}
        columns[f"{number} run"] = [", ".join(_judge(lines[key], name, bound) for name, key in parts.items())
                                    for _, bound, parts in GOALS]
    return format_markdown(columns)


def _judge(line: dict, name: str, bound: float) -> str:
    reached = line["median"] >= bound if line["better"] == "higher" else line["median"] <= bound
    return f"{name} {line['median']:.2f}".strip() + ("" if reached else " (missed)")


def _format_time(seconds: float) -> str:
    digits = 0 if seconds > 0.1 else 1
    return f"{1e3 * seconds:.{digits}f} ms" if seconds else ""


def _format_ratio(line: dict) -> str:
    spread = f" ({line['low']:.2f} to {line['high']:.2f})" if line["rounds"] > 1 else ""
    return f"{line['median']:.2f}{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    paths = parser.parse_args().files
    print(format_table(paths), format_goals(paths), sep="\n\n")
