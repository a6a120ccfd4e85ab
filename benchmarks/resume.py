"""What does going on with a run cost, from the command to the first new iteration, against starting one?

    python -m benchmarks.resume [--rounds 9] [--camvid FOLDER] [--num_workers 2]

The resumed runs stand at the first, the middle and the last batch of their epoch; all start their workers.
"""
import argparse
import contextlib
import io
import statistics
import tempfile
from itertools import count
from pathlib import Path

from benchmarks.timing import report, rounds
from engine.train import Trainer
from main import main as run
from utils import checkpoint

FLAGS = ["--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--val_interval", "1000000"]
PLACES = {"at its first batch": 0, "in its middle": 0.5, "at its last batch": 1}


class Begun(Exception):
    """The first batch is there."""


def begin(*_):
    """Instead of a training step."""
    raise Begun


def first_step(*flags):
    """From argv to the first batch in the trainer's hands."""
    step, Trainer.step = Trainer.step, begin
    try:
        run([*FLAGS, *flags])
    except Begun:
        pass
    finally:
        Trainer.step = step


def prepare(folder: Path, train: list[str]) -> dict[str, Path]:
    """Runs of the second epoch, stopped at each of PLACES."""
    kept = []
    steps, take_up = Trainer.step, Trainer.__init__

    def init(trainer, *args, **kwargs):
        take_up(trainer, *args, **kwargs)
        kept.append(trainer)

    Trainer.step, Trainer.__init__ = begin, init
    with contextlib.suppress(Begun):
        run([*FLAGS, *train, "--output_dir", str(folder), "--exp_name", "none"])
    Trainer.step, Trainer.__init__ = steps, take_up
    trainer = kept[0]
    trainer.step(*next(trainer.loader.starting_at(0)))  # the optimizer has its momenta
    runs = {}
    for name, part in PLACES.items():
        trainer.cur_itrs = len(trainer.loader) + round(part * (len(trainer.loader) - 1))
        trainer.validated = trainer.cur_itrs
        runs[name] = folder / f"at_{trainer.cur_itrs}"
        runs[name].mkdir()
        trainer.paths = {kind: runs[name] / path.name for kind, path in trainer.paths.items()}
        trainer.save("latest")
    return runs


def main():
    """Time and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--camvid", metavar="FOLDER", help="with CamVid (default: the synthetic images)")
    parser.add_argument("--num_workers", default="2")
    opts = parser.parse_args()
    train = ["--dataset", "camvid", "--data_root", opts.camvid] if opts.camvid else ["--dataset", "synthetic"]
    train += ["--crop_size", "240", "--batch_size", "8", "--num_workers", opts.num_workers]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        runs, numbers = prepare(Path(folder), train), count()
        file, = runs["in its middle"].glob("latest_*")
        functions = {
            "new": lambda: first_step(*train, "--output_dir", folder, "--exp_name", f"new{next(numbers)}"),
            **{name: lambda path=path: first_step("--continue_training", "--output_dir", folder, "--exp_name", path.name,
                                                  "--num_workers", opts.num_workers) for name, path in runs.items()},
            "load the file": lambda: checkpoint.load(file)}
        times = rounds(functions, count=opts.rounds)
    report(times, baseline="new")
    for name in PLACES:
        cost = [one - new - load for one, new, load in zip(
            times[name], times["new"], times["load the file"], strict=True)]
        print(f"resumed {name}: {statistics.median(cost):+.3f} s against a new run, beyond loading the file "
              f"({min(cost):+.3f} to {max(cost):+.3f})")


if __name__ == "__main__":
    main()
