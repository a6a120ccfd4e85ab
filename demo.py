"""The whole job on built-in data, in about four minutes on two CPU cores: what does an attack leave of a network?

Trains deeplabv3plus_mobilenet on the synthetic data set with SGD, with SAM and adversarially (at), two at a time,
attacks each with PGD, and writes the comparison (report.md, which ends in a verdict), curves and pictures to ./demo.
"""
import argparse
import re
import sys
from itertools import combinations
from pathlib import Path

from engine.records.naming import format_radius
from engine.run.exits import reported_errors
from main import main
from utils.side_by_side import run_side_by_side

COMMON = ["--dataset", "synthetic", "--no-pretrained_backbone", "--separable_conv", "--crop_size", "65", "--lr", "0.1",
          "--batch_size", "8", "--backbone_lr_mult", "1", "--bn_momentum", "0.1", "--val_batch_size", "32",
          "--num_workers", "0", "--overwrite"]
# A run's flags, its length in units of --total_itrs, and the passes (forward and backward) of an iteration. Attacking
# whole batches in `at` cost two seeds of ten a fifth of their clean mIoU.
RUNS = {"at": (["--adv", "--train_eps", "20/255", "--train_step", "2", "--train_alpha", "12/255", "--adv_ratio", "0.5"],
               4 / 3, 2),
        "sam": (["--optimizer", "SAM", "--rho", "0.02"], 1, 2), "sgd": (["--optimizer", "sgd"], 1, 1)}
# js, not ce: most of ce's gradient comes from pixels that are wrong already, so sgd and sam would look more robust.
ATTACK = ["--attack", "pgd", "--attack_loss", "js", "--warm_start", "--steps", "30", "--eps", "6/255", "12/255"]
ATTACKED = 2 * 32  # images that a run attacks: all validation images at each eps
ATTACK_COST = 2  # attacking an image takes about as long as this many passes of training
CLOSE = 0.05  # mIoU: runs that are closer may change places with another seed
LIMITS = ("This does not show how methods compare on real images, or whether SAM helps there: it is one seed, small "
          "images whose cue is colour, and one attack.")


def demo(argv=None) -> dict:
    """Train, attack, compare; returns what report.json holds."""
    parser = argparse.ArgumentParser("demo.py", description=__doc__)
    parser.add_argument("--output_dir", default="demo", type=Path, help="folder for the runs and the report")
    parser.add_argument("--total_itrs", type=int, default=300, help="iterations of SGD and SAM (at: a third more)")
    parser.add_argument("--seed", default="1", help="of the images and the networks")
    opts = parser.parse_args(argv)
    with reported_errors():
        run_side_by_side({name: command_of(name, opts) for name in RUNS}, opts.output_dir, title="training, attacking",
                         total=sum(passes_of(name, opts) + ATTACK_COST * ATTACKED for name in RUNS),
                         count_done=lambda name: count_work(name, opts))
    folder = str(opts.output_dir)
    report = main(["--report", "sgd", "sam", "at", "--output_dir", folder, "--report_dir", folder])
    with (opts.output_dir / "report.md").open("a", encoding="utf-8") as file:
        file.write(f"\n## Verdict\n\n{verdict(report['rows'])}\n")
    sys.stdout.write(f"\n{verdict(report['rows'])}\n")
    return report


def command_of(name: str, opts) -> list[str]:
    """Return the command of a run."""
    flags, times, _ = RUNS[name]
    length = str(round(times * opts.total_itrs))
    return [sys.executable, str(Path(__file__).with_name("main.py")), "--output_dir", str(opts.output_dir),
            "--exp_name", name, "--total_itrs", length, "--val_interval", length, "--random_seed", opts.seed,
            *COMMON, *flags, *ATTACK]


def passes_of(name: str, opts) -> int:
    """Return how many passes a run's training takes."""
    _, times, passes = RUNS[name]
    return passes * round(times * opts.total_itrs)


def count_work(name: str, opts) -> int:
    """Return the work that a run has done, in passes of training, by its log and its records."""
    log = (opts.output_dir / f"{name}.log").read_text(errors="replace")
    if "Scores of the best" not in log:  # it trains; records, if any, are those of an earlier run
        return RUNS[name][2] * max(map(int, re.findall(r"Itrs (\d+)/", log)), default=0)
    records = (opts.output_dir / name / "records").glob("pgd*.jsonl")
    return passes_of(name, opts) + ATTACK_COST * sum(path.read_text().count('"image":') for path in records)


def verdict(rows: list[dict]) -> str:
    """Return in words what pgd at the largest eps leaves of each run in a report's rows, and which run is ahead."""
    eps = max(row["eps"] for row in rows if row["attack"] == "pgd")
    clean = {row["run"]: row["Mean IoU"] for row in rows if row["attack"] == "none"}
    left = {row["run"]: row["Mean IoU"] for row in rows if row["attack"] == "pgd" and row["eps"] == eps}
    pairs = combinations(sorted(left, key=left.get, reverse=True), 2)
    found = [f"{one} is ahead of {other}" if left[one] - left[other] >= CLOSE else
             f"{one} and {other} are equal (less than {CLOSE} apart: one seed can't tell)" for one, other in pairs]
    kept = ", ".join(f"{run} {left[run]:.2f} of {clean[run]:.2f}" for run in left)
    ball = format_radius({"eps": eps, "norm": "linf"})
    return f"Verdict: of the clean mIoU, pgd at {ball} leaves {kept}: {'; '.join(found)}. {LIMITS}"


if __name__ == "__main__":
    demo()
