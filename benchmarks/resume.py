"""Time from the command to the first iteration, of a continued and of a new run.

    python -m benchmarks.resume [--rounds 9] [--camvid FOLDER] [--num_workers 2]

The continued runs were stopped at the first, the middle and the last batch of an epoch; all start loader workers.
"""
import argparse
import contextlib
import io
import statistics
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.timing import compare_cost, measure_in_turn
from engine.training.trainer import Trainer
from main import main as run
from utils import checkpoint

FLAGS = ["--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--val_interval", "1000000"]
PLACES = {"at its first batch": 0, "in its middle": 0.5, "at its last batch": 1}


class FirstBatchLoaded(Exception):
    """The first batch is loaded."""


def run_to_first_batch(*flags) -> Trainer:
    """Run main with these flags until the first batch is loaded; return the trainer."""
    found, step = [], Trainer.step

    def begin(trainer, *_):
        found.append(trainer)
        raise FirstBatchLoaded

    Trainer.step = begin
    try:
        with contextlib.suppress(FirstBatchLoaded):
            run([*FLAGS, *flags])
    finally:
        Trainer.step = step
    return found[0]


def prepare(folder: Path, train: list[str]) -> dict[str, Path]:
    """Write runs that were stopped in their second epoch, at each of PLACES; return their folders."""
    trainer = run_to_first_batch(*train, "--output_dir", str(folder), "--exp_name", "none")
    trainer.step(*next(trainer.loader.iterate_from(0)))  # so that the optimizer has its momenta
    runs = {}
    for name, part in PLACES.items():
        trainer.cur_itrs = trainer.validated = len(trainer.loader) + round(part * (len(trainer.loader) - 1))
        runs[name] = folder / f"at_{trainer.cur_itrs}"
        runs[name].mkdir()
        trainer.paths = {kind: runs[name] / path.name for kind, path in trainer.paths.items()}
        trainer.save("latest")
    return runs


def make_continued(flags: list[str], name: str):
    """Return a function that continues a run to its first batch."""
    return partial(_quietly, *flags, name)


def make_new(train: list[str], folder: str):
    """Return a function that begins a run, each time another one."""
    numbers = count()
    return lambda: _quietly(*train, "--output_dir", folder, "--exp_name", f"new{next(numbers)}")


def make_reader(file: Path):
    """Return a function that loads a checkpoint."""
    return partial(checkpoint.load, file)


def _quietly(*flags):
    with contextlib.redirect_stdout(io.StringIO()):
        run_to_first_batch(*flags)


def main():
    """Time the runs and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--camvid", metavar="FOLDER", help="use CamVid (default: synthetic images)")
    parser.add_argument("--num_workers", default="2")
    opts = parser.parse_args()
    train = ["--dataset", "camvid", "--data_root", opts.camvid] if opts.camvid else ["--dataset", "synthetic"]
    train += ["--crop_size", "240", "--batch_size", "8", "--num_workers", opts.num_workers]
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            runs = prepare(Path(folder), train)
        file, = runs["in its middle"].glob("latest_*")
        flags = ["--continue_training", "--num_workers", opts.num_workers, "--output_dir", folder, "--exp_name"]
        found = measure_in_turn({
            "new": partial(make_new, train, folder), "load the file": partial(make_reader, file),
            **{name: partial(make_continued, flags, path.name) for name, path in runs.items()}}, rounds=opts.rounds)
    for name in PLACES:
        print(compare_cost("resume", f"continued {name}", "new", {f"continued {name}": found[name], **found}).line)
        cost = [one - new - load for one, new, load in zip(
            found[name].seconds, found["new"].seconds, found["load the file"].seconds, strict=True)]
        print(f"continued {name}: {statistics.median(cost):+.3f} s against a new run, beyond loading the file "
              f"({min(cost):+.3f} to {max(cost):+.3f})")


if __name__ == "__main__":
    main()
