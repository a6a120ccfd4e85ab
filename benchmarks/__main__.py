"""All benchmarks of speed and memory, in a few minutes: a table, and one JSON line a result.

    python -m benchmarks [--out benchmarks/results/cpu.json] [--camvid FOLDER] [--weights deeplabv3_mobilenet_voc.pth]

Run it on an idle machine. With a GPU the sizes are a GPU's.
"""
import argparse
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import attack_step, data_loading, evaluate, memory, scaling, train_step
from benchmarks.timing import choose_device, describe_machine, write_lines


def main():
    """Run all and write the results."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of the results (default: none)")
    parser.add_argument("--camvid", metavar="FOLDER", help="load CamVid instead of drawn images")
    parser.add_argument("--weights", help="for attack_step: a state_dict of deeplabv3_mobilenet with 21 classes")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), flush=True)
    results, begun = [], time.monotonic()
    parts = [partial(train_step.run, rounds=args.rounds, amp=choose_device() == "cuda"),
             partial(attack_step.run, rounds=args.rounds, weights=args.weights),
             partial(data_loading.run, rounds=args.rounds, camvid=args.camvid),
             partial(evaluate.run, rounds=args.rounds), partial(scaling.run), partial(memory.run)]
    for part in parts:
        for result in part():
            print(result.line, flush=True)
            results.append(result)
    print(f"{time.monotonic() - begun:.0f} s")
    if args.out:
        words = [Path(word).name for word in sys.argv[1:]]  # without the folders of this machine
        write_lines(args.out, results, command=shlex.join(["python", "-m", "benchmarks", *words]))


if __name__ == "__main__":
    main()
