"""The whole job in a few minutes on two CPU cores, without any files: what does an attack leave of a network?

Trains deeplabv3plus_mobilenet on the synthetic data set with SGD, with SAM and adversarially (at), two at a time,
attacks each with PGD, and writes the comparison (report.md, which ends in a verdict), curves and pictures to ./demo.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from engine.records.naming import format_radius
from engine.run.exits import reported_errors
from main import main
from utils.logging import logger

COMMON = ["--dataset", "synthetic", "--no-pretrained_backbone", "--separable_conv", "--crop_size", "65", "--lr", "0.1",
          "--batch_size", "8", "--backbone_lr_mult", "1", "--bn_momentum", "0.1", "--num_workers", "0", "--overwrite"]
# A run's flags, its iterations as a share of --total_itrs, and how often each goes through the network.
RUNS = {"at": (["--adv", "--train_eps", "16/255", "--train_step", "1", "--train_alpha", "20/255"], 1.5, 2),
        "sam": (["--optimizer", "SAM", "--rho", "0.02"], 1, 2), "sgd": (["--optimizer", "sgd"], 1, 1)}
ATTACK = ["--attack", "pgd", "--eps", "4/255", "8/255", "12/255", "16/255"]
IMAGES = 160  # evaluated in a run: 32 clean, and at each eps
CLOSE = 0.05  # mIoU: runs that are closer may have changed places with another seed
LIMITS = ("What this can't show: anything about real images, or whether SAM helps there. It is one seed, small images "
          "whose cue is colour, and ten steps of one attack.")


def demo(argv=None) -> dict:
    """Train, attack, compare; returns what report.json holds."""
    parser = argparse.ArgumentParser("demo.py", description=__doc__)
    parser.add_argument("--output_dir", default="demo", type=Path, help="folder for the runs and the report")
    parser.add_argument("--total_itrs", type=int, default=200, help="iterations of SGD and SAM (at: x 1.5)")
    parser.add_argument("--seed", default="1", help="of the images and the networks")
    opts = parser.parse_args(argv)
    folder = opts.output_dir
    with reported_errors():
        folder.mkdir(parents=True, exist_ok=True)
        do_runs(opts)
    report = main(["--report", "sgd", "sam", "at", "--output_dir", str(folder), "--report_dir", str(folder)])
    with (folder / "report.md").open("a", encoding="utf-8") as file:
        file.write(f"\n## Verdict\n\n{verdict(report['rows'])}\n")
    sys.stdout.write(f"\n{verdict(report['rows'])}\n")
    return report


def do_runs(opts):
    """Do all RUNS, two at a time, and show how far they are; where one fails, or at a Ctrl-C, end the others too."""
    waiting, running = list(RUNS), {}
    work = sum(passes * round(share * opts.total_itrs) + IMAGES for _, share, passes in RUNS.values())
    with tqdm(total=work, desc="training and attacking", mininterval=0.2 if sys.stderr.isatty() else 30, smoothing=0,
              bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} left") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < 2:
                    running[waiting[0]] = start(waiting[0], opts)
                    waiting.pop(0)
                time.sleep(0.5)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    refuse_failure(running.pop(name).returncode, opts.output_dir / f"{name}.log")
                bar.update(sum(done(name, opts.output_dir) for name in RUNS if name not in waiting) - bar.n)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def start(name: str, opts) -> subprocess.Popen:
    """Start a run, on one thread as two share the cores; what it says goes to NAME.log."""
    flags, share, _ = RUNS[name]
    length = str(round(share * opts.total_itrs))
    own = ["--total_itrs", length, "--val_interval", length, "--random_seed", opts.seed, "--exp_name", name]
    command = [sys.executable, str(Path(__file__).with_name("main.py")), "--output_dir", str(opts.output_dir)]
    with (opts.output_dir / f"{name}.log").open("wb") as log:
        return subprocess.Popen([*command, *own, *COMMON, *flags, *ATTACK], stdout=log, stderr=log,
                                env={"OMP_NUM_THREADS": "1", **os.environ})


def done(name: str, folder: Path) -> int:
    """Count the passes that a run has made; an attacked image costs about as much as one, of a batch, in training."""
    log = (folder / f"{name}.log").read_text(errors="replace")
    evaluates = "Scores of the best" in log  # before that, records are an earlier run's
    records = (folder / name / "records").glob("*.jsonl") if evaluates else []
    return (RUNS[name][2] * max(map(int, re.findall(r"Itrs (\d+)/", log)), default=0)
            + sum(path.read_text().count('"image":') for path in records))


def refuse_failure(code: int, log: Path):
    """End as a run did, after its last lines, unless all went well."""
    if code:
        lines = log.read_text(errors="replace").splitlines()[-10:]
        logger.error("\n%s", "\n".join([*lines, f"This run failed; all that it said is in {log}"]))
        raise SystemExit(code if code > 0 else 128 - code)  # below 0: the signal that ended it


def verdict(rows: list[dict]) -> str:
    """Say what pgd at the largest eps leaves of the runs in a report's rows, and which are ahead of which."""
    strongest = max((row for row in rows if row["attack"] == "pgd"), key=lambda row: row["eps"])
    clean, left = ({row["run"]: row["Mean IoU"] for row in rows if (row["attack"], row["eps"]) == kind}
                   for kind in (("none", 0), ("pgd", strongest["eps"])))
    best_first = sorted(left, key=left.get, reverse=True)
    beaten = {run: [other for other in best_first if left[run] - left[other] >= CLOSE] for run in best_first}
    found = [f"{run} is ahead of {' and '.join(others)}" for run, others in beaten.items() if others]
    found += [f"{one} and {other} are equal (less than {CLOSE} apart: one seed can't tell)"
              for one, other in combinations(best_first, 2) if other not in beaten[one]]
    kept = ", ".join(f"{run} {left[run]:.2f} of {clean[run]:.2f}" for run in best_first)
    return (f"Verdict: pgd at {format_radius(strongest)} leaves of the clean mIoU: {kept} (at: adversarial training). "
            f"{'; '.join(found)}. {LIMITS}")


if __name__ == "__main__":
    demo()
