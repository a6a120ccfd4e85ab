"""Peak memory of a process that trains with SGD, SAM, ASAM or on attacked images, attacks, or evaluates.

    python -m benchmarks.memory

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


def run() -> list[Result]:
    """Return each peak in GiB, and that of SAM against SGD and a copy of the weights."""
    makers = {"nothing": make_nothing,
              **{kind: partial(train_step.make_ours, **train_step.SETTINGS[kind]) for kind in KINDS},
              "attack": partial(attack_step.make_ours, None, attack_step.SHORT), "evaluate": evaluate.make_ours}
    gib = {}
    for name, maker in makers.items():  # one after the other, or they would fill the memory together
        gib[name] = measure_in_turn({name: maker}, rounds=2)[name].gib
    empty = gib.pop("nothing")
    copy = sum(value.numel() * 4 for value in build_model(train_step.MODEL, num_classes=train_step.CLASSES,
                                                         output_stride=16).parameters()) / 2**30
    sgd = gib["SGD"] - empty
    return [*(make_result("memory", name, "(peak)", [found - empty], unit="GiB", better="lower")
              for name, found in gib.items()),
            *(make_result("memory", name, "SGD's + a copy of the weights", [(gib[name] - empty) / (sgd + copy)],
                          unit="times", better="lower") for name in ("SAM", "ASAM"))]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for result in run():
        print(result.line)
