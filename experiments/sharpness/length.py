"""How long to train: mean IoU at the end of trainings of several lengths, on training images that are held out.

    python -m experiments.sharpness.length --data_root CamVid --backbone_weights FILE

The last 70 of CamVid's 367 training images by name are held out and scored; validation images are not read. The
learning rate decays over the whole training, so each length is a training of its own. What is finished is skipped, what
was stopped is continued.
"""
import argparse
import json
from pathlib import Path

from engine.run.exits import reported_errors
from experiments.sharpness.plan import CAMVID
from main import main as run
from utils.files import write_atomically
from utils.logging import logger

LENGTHS, HELD_OUT = (300, 600, 1000, 1500), 70


def make_split(data_root: Path, folder: Path):
    """Make a tree of CamVid's layout in `folder`, of links: its training images without and with the last 70."""
    for kind in ("", "annot"):
        files = sorted((data_root / f"train{kind}").resolve().iterdir())
        for split, part in (("train", files[:-HELD_OUT]), ("val", files[-HELD_OUT:])):
            place = folder / f"{split}{kind}"
            place.mkdir(parents=True, exist_ok=True)
            for path in part:
                if not (place / path.name).is_symlink():
                    (place / path.name).symlink_to(path)


def measure(length: int, folder: Path, data: Path, at_start: tuple[str, ...]) -> dict:
    """Train SGD for `length` iterations, or continue; return its scores on the images that are held out."""
    name = f"length_{length}"
    begun = any((folder / name).glob("latest_*.pth"))
    done = run(["--output_dir", str(folder), "--exp_name", name, *CAMVID.data, *CAMVID.recipe, "--data_root", str(data),
                "--total_itrs", str(length), "--val_interval", str(length), "--random_seed", "1",
                *(("--continue_training",) if begun else at_start)])
    return {key: done["results"][0][key] for key in ("Mean IoU", "Overall Acc")}


def main(argv=None):
    """Train for each length and write the scores to RESULTS/sharpness_length.json."""
    parser = argparse.ArgumentParser("python -m experiments.sharpness.length", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--backbone_weights", type=Path, help="file of the ImageNet backbone (default: downloaded)")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/sharpness_length"), help="of the runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of sharpness_length.json")
    args = parser.parse_args(argv)
    at_start = ("--backbone_weights", str(args.backbone_weights.resolve())) if args.backbone_weights else ()
    path = args.results / "sharpness_length.json"
    with reported_errors():
        make_split(args.data_root, args.folder / "data")
        found = json.loads(path.read_text()) if path.exists() else {}
        for length in LENGTHS:
            if str(length) not in found:
                found[str(length)] = measure(length, args.folder, args.folder / "data", at_start)
                write_atomically(path, json.dumps(found, indent=1) + "\n")
            logger.info("%d iterations: mIoU %.1f %%", length, 100 * found[str(length)]["Mean IoU"])


if __name__ == "__main__":
    main()
