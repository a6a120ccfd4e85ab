"""Print files of results as the table of docs/performance.md.

    python -m benchmarks.table benchmarks/results/cpu.json benchmarks/results/cpu_again.json
"""
import argparse
from pathlib import Path

from benchmarks.compare import read
from utils.text import format_markdown

NUMBERS = "first", "second", "third", "fourth"


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


def _format_time(seconds: float) -> str:
    digits = 0 if seconds > 0.1 else 1
    return f"{1e3 * seconds:.{digits}f} ms" if seconds else ""


def _format_ratio(line: dict) -> str:
    spread = f" ({line['low']:.2f} to {line['high']:.2f})" if line["rounds"] > 1 else ""
    return f"{line['median']:.2f}{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    print(format_table(parser.parse_args().files))
