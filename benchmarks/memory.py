"""Peak memory of a process that trains with SGD, SAM, ASAM or on attacked images, attacks, or evaluates.

    python -m benchmarks.memory
    python -m benchmarks.memory --sizes 2x513 4x513 8x240     training with SGD by batch and crop

Sizes are those of benchmarks.train_step, attack_step and evaluate. On the CPU a process's memory is its resident pages,
libraries included, with those of a process that has imported torch taken off; on a GPU what torch has allocated.
"""
import argparse
from functools import partial

from benchmarks import attack_step, evaluate, train_step
from benchmarks.timing import Result, make_result, measure_in_turn
from network import build_model

KINDS = ("SGD", "SAM", "ASAM", "AT-3")


def make_nothing():
    """Return a function that does nothing, in a process that has imported what the others have."""
    return _pass


def _pass():
    pass


def measure(makers: dict) -> dict[str, float]:
    """Return the GiB of each, without those of a process that does nothing."""
    gib = {}
    for name, maker in {"nothing": make_nothing, **makers}.items():  # one by one, as together they may not fit
        gib[name] = measure_in_turn({name: maker}, rounds=2)[name].gib
    empty = gib.pop("nothing")
    return {name: found - empty for name, found in gib.items()}


def run() -> list[Result]:
    """Return each peak in GiB, and that of SAM against SGD and a copy of the weights."""
    gib = measure({**{kind: partial(train_step.make_ours, **train_step.SETTINGS[kind]) for kind in KINDS},
                   "attack": partial(attack_step.make_ours, None, attack_step.SHORT), "evaluate": evaluate.make_ours})
    copy = sum(value.numel() * 4 for value in build_model(train_step.MODEL, num_classes=train_step.CLASSES,
                                                         output_stride=16).parameters()) / 2**30
    return [*(make_result("memory", name, "(peak)", [found], unit="GiB", better="lower")
              for name, found in gib.items()),
            *(make_result("memory", name, "SGD's + a copy of the weights", [gib[name] / (gib["SGD"] + copy)],
                          unit="times", better="lower") for name in ("SAM", "ASAM"))]


def run_sizes(sizes: list[str]) -> list[Result]:
    """Return the peak of training with SGD for sizes such as 4x513: batch and crop."""
    found = measure({size: partial(train_step.make_ours, size=tuple(map(int, size.split("x")))) for size in sizes})
    return [make_result("memory", size, "(peak)", [gib], unit="GiB", better="lower") for size, gib in found.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", metavar="BATCHxCROP")
    args = parser.parse_args()
    for result in run_sizes(args.sizes) if args.sizes else run():
        print(result.line)
