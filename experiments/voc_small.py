"""The measurements of docs/experiments/voc.md:  python -m experiments.voc_small --ckpt CKPT --data_root VOC

Scores a deeplabv3_mobilenet of VOC's 21 classes clean, under attack, with --tta flip and under all corruptions, and
writes results/voc_small.json. Images that are recorded in --output_dir are not attacked again. Needs `make extras`.
"""
import argparse
import json
from pathlib import Path

import torch

from main import main as run
from utils.files import write_atomically

COMMANDS = {
    "attacks": "--attack pgd race --eps 0.25/255 0.5/255",
    "tta": "--attack pgd --eps 0.25/255 --tta flip",
    "corruptions": "--corrupt all",
}
KEPT = ("attack", "norm", "eps", "steps", "images", "Classes", "Mean IoU", "Mean IoU lower", "Overall Acc", "Image IoU")


def measure(ckpt: str, data_root: str, output_dir: str) -> dict:
    """Return {part: {"command", "rows"}} for each part of COMMANDS."""
    found = {}
    for part, flags in COMMANDS.items():
        rows = run(["--test_only", "--ckpt", ckpt, "--model", "deeplabv3_mobilenet", "--data_root", data_root,
                    "--output_dir", output_dir, "--exp_name", "voc_small", *flags.split()])["results"]
        found[part] = {"command": f"python main.py --test_only --model deeplabv3_mobilenet {flags}",
                       "rows": [{key: row[key] for key in KEPT} for row in rows if row["settings"]]}
    return found


def main():
    """Measure and write the file."""
    parser = argparse.ArgumentParser("python -m experiments.voc_small", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--data_root", required=True, help="folder with VOCdevkit")
    parser.add_argument("--output_dir", default="checkpoints", help="of the run")
    parser.add_argument("--out", type=Path, default=Path("results/voc_small.json"))
    args = parser.parse_args()
    content = {"torch": torch.__version__, **measure(args.ckpt, args.data_root, args.output_dir)}
    write_atomically(args.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
