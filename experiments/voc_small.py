"""The measurements of docs/experiments/voc.md:  python -m experiments.voc_small --ckpt CKPT --data_root VOC

Scores a deeplabv3_mobilenet of VOC's 21 classes clean, under attack, with --tta flip (attacked through it and without
it) and under all corruptions, and writes results/voc_small.json. Images that are recorded in --output_dir are not
attacked again. Needs `make extras`.
"""
import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from attacks import PGD
from datasets import build_datasets
from engine.evaluation import sweep
from main import main as run
from network import VIEWS, Augmented, build_model, load_weights, take_normalization
from utils.checkpoint import load, model_state
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


def attack_without_flip(ckpt: str, data_root: str) -> dict:
    """Return the part of a PGD that attacks the network alone, scored with --tta flip.

    main.py has no flag for it, as such a score overstates robustness.
    """
    content = load(ckpt)
    model = build_model("deeplabv3_mobilenet", num_classes=21, output_stride=16, pretrained_backbone=False)
    load_weights(model.model, model_state(content), source=ckpt)
    take_normalization(model, content, source=ckpt)
    model.eval().to(memory_format=torch.channels_last)
    _, val_set = build_datasets("voc", data_root=data_root, train=False)
    rows = sweep(Augmented(model, VIEWS["flip"]), DataLoader(val_set), val_set, [PGD(eps=0.25 / 255)],
                 transfer_from={"network_alone": model})["results"]
    return {"command": "python -m experiments.voc_small", "rows": [{key: row[key] for key in KEPT} for row in rows]}


def main():
    """Measure and write the file."""
    parser = argparse.ArgumentParser("python -m experiments.voc_small", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--data_root", required=True, help="folder with VOCdevkit")
    parser.add_argument("--output_dir", default="checkpoints", help="of the run")
    parser.add_argument("--out", type=Path, default=Path("results/voc_small.json"))
    args = parser.parse_args()
    content = {"torch": torch.__version__, **measure(args.ckpt, args.data_root, args.output_dir),
               "attacked without flip": attack_without_flip(args.ckpt, args.data_root)}
    write_atomically(args.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
