"""Compare two files of results: exit code 1 if a ratio is worse by more than a tenth.

    python -m benchmarks.compare benchmarks/results/cpu.json new.json

A ratio is judged by its median, and only if the ranges of both files are apart: a busy machine makes them overlap.
"""
import argparse
import json
import sys
from pathlib import Path

ALLOWED = 0.1


def read(path: Path) -> dict[tuple, dict]:
    """Return {(benchmark, case, against, unit): line}."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["benchmark"], line["case"], line["against"], line["unit"]): line for line in lines}


def find_worse(old: dict[tuple, dict], new: dict[tuple, dict]) -> list[str]:
    """Return a line for each ratio that is worse in `new`, and for each that is missing there."""
    found = [f"{' '.join(key)}: missing" for key in old.keys() - new.keys()]
    for key in old.keys() & new.keys():
        before, after = old[key], new[key]
        higher = before["better"] == "higher"
        change = after["median"] / before["median"] if higher else before["median"] / after["median"]
        apart = after["high"] < before["low"] if higher else after["low"] > before["high"]
        if change < 1 - ALLOWED and apart:
            found.append(f"{' '.join(key)}: {before['median']:.2f} -> {after['median']:.2f}")
    return sorted(found)


def main(argv=None) -> int:
    """Print what is worse; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args(argv)
    try:
        old, new = read(args.old), read(args.new)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"can't read the results ({type(error).__name__}: {error})")
    if {line["device"] for line in old.values()} != {line["device"] for line in new.values()}:
        print("The files are of different devices: their ratios need not agree")
    worse = find_worse(old, new)
    print("\n".join(worse) or f"{len(old)} ratios, none worse by more than {ALLOWED:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
