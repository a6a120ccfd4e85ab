"""Compare what attacks leave of a network with the same number of gradients: accuracy and mIoU, mean and spread.

    python -m benchmarks.attack_strength --dataset voc --data_root VOC --ckpt deeplabv3_mobilenet_voc.pth \\
        --crop 256 256 --images 3 --eps 0.25/255 0.5/255 --folder results/voc --out results/attacks_voc.json

Attacks centre crops of validation images, evenly spaced among those from --first in steps of --every. `gradients` is
the whole number of an image: SEA gets a third for each of its losses, ensemble a ninth. An image's score is recorded in
--folder, so a call that was stopped continues when it is repeated. PGD of the package torchattacks is run beside ours:
`pip install --no-deps torchattacks`.
"""
import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from attacks import APGD, ENSEMBLE_LOSSES, PGD, SEA, AllLosses, CosPGD, Race, SegPGD, class_weights
from benchmarks.public_attacks import PAdamCos, TorchattacksPGD, tsallis_red_eps
from datasets import build_datasets, count_pixels
from engine.evaluation import sweep
from network import build_model, load_weights, take_normalization
from utils import checkpoint
from utils.images import choose_evenly

OTHER_LOSSES = ("segpgd", "mce_bal", "mce_even", "logodds", "tsallis", "blend_late")
OTHERS = (*(f"apgd-{loss}" for loss in OTHER_LOSSES), "ensemble")  # measured only if they are named
SCORES = {"aAcc": "Overall Acc", "mIoU": "Mean IoU"}


def list_attacks(eps: float, gradients: int, seed: int, weights: list[float]) -> dict:
    """Return {name: attack} of this radius, number of gradients and seed."""
    same = {"eps": eps, "steps": gradients, "seed": seed}
    best = {**same, "best_iterate": True}
    return {
        "pgd": PGD(**best), "segpgd": SegPGD(**best), "cospgd": CosPGD(**best),
        **{f"apgd-{loss}": APGD(**same, attack_loss=loss) for loss in ("ce", "mce", "js", "cospgd", "blend")},
        **{f"red-apgd-{loss}": APGD(**same, attack_loss=loss, red_eps=True) for loss in ("mce", "js", "cospgd")},
        "sea": SEA(eps=eps, steps=gradients // 3, seed=seed, class_weights=weights),
        "tsallis red-eps": tsallis_red_eps(**same), "padam-cos": PAdamCos(**same), "race": Race(**same),
        "torchattacks pgd": TorchattacksPGD(**same),
        **{f"apgd-{loss}": APGD(**same, attack_loss=loss, class_weights=weights if loss == "mce_bal" else None)
           for loss in OTHER_LOSSES},
        "ensemble": AllLosses(**{**same, "steps": max(1, gradients // len(ENSEMBLE_LOSSES))}, class_weights=weights),
    }


class Crops:
    """Centre crops of chosen images of a data set; a crop is at most as large as its image."""

    def __init__(self, dataset, indices: list[int], size: list[int] | None):
        self.dataset, self.indices, self.size, self.class_names = dataset, indices, size, dataset.class_names

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, k: int):
        image, label = self.dataset[self.indices[k]]
        if self.size is None:
            return image, label
        top, left = (max(0, (whole - part) // 2) for whole, part in zip(label.shape, self.size, strict=True))
        window = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        return image[window], label[window]

    def name(self, k: int) -> str:
        """Return the image's name."""
        return self.dataset.name(self.indices[k])


def measure(args) -> list[dict]:
    """Return a result for each attack, eps, number of gradients and seed."""
    train_set, val_set = build_datasets(args.dataset, data_root=args.data_root)
    model = load_network(args.ckpt, len(val_set.class_names))
    weights = class_weights(count_pixels(train_set))
    some = range(args.first, len(val_set), args.every)
    data = Crops(val_set, [some[place] for place in choose_evenly(len(some), args.images)], args.crop)
    loader = torch.utils.data.DataLoader(data)
    results = []
    for gradients in sorted({*args.gradients, *(number // 2 for number in args.gradients)}):
        wanted = args.attacks if gradients in args.gradients else {"race"} & {*args.attacks}
        for seed in range(1, args.seeds + 1):
            attacks = {(name, eps): attack for eps in args.eps
                       for name, attack in list_attacks(eps, gradients, seed, weights).items()
                       if name in wanted}
            rows = sweep(model, loader, data, list(attacks.values()), folder=args.folder)["results"]
            for (name, eps), attack in attacks.items():
                row, = [row for row in rows if is_row_of(row, attack)]
                results.append({"attack": name, "eps": eps, "gradients": gradients, "seed": seed,
                                "backwards": row["backwards"], **{key: row[score] for key, score in SCORES.items()}})
    return results


def is_row_of(row: dict, attack) -> bool:
    """Return whether this row of a sweep belongs to the attack."""
    if attack.members:
        return row["attack"] == attack.name and row["eps"] == attack.eps
    return row["settings"] is not None and all(row["settings"].get(key) == value
                                               for key, value in attack.settings().items())


def load_network(path: str, num_classes: int):
    """Return deeplabv3_mobilenet with the weights of a checkpoint, or of a state_dict, in eval mode."""
    content = checkpoint.load(path)
    model = build_model("deeplabv3_mobilenet", num_classes=num_classes, output_stride=16, pretrained_backbone=False)
    load_weights(model.model, checkpoint.model_state(content), source=path)
    take_normalization(model, content, source=path)
    return model.to(memory_format=torch.channels_last).eval()


def summarize(results: list[dict]) -> list[dict]:
    """Return a line for each attack, eps and number of gradients: the mean over seeds and the sample deviation."""
    groups = {}
    for result in results:
        groups.setdefault((result["eps"], result["gradients"], result["attack"]), []).append(result)
    lines = []
    for (eps, gradients, attack), of_seeds in groups.items():
        values = {key: [100 * result[key] for result in of_seeds] for key in SCORES}
        lines.append({"eps": eps, "gradients": gradients, "attack": attack, "seeds": len(of_seeds),
                      **{key: round(statistics.mean(of_key), 2) for key, of_key in values.items()},
                      **{f"{key} spread": round(statistics.stdev(of_key), 2) if len(of_key) > 1 else None
                         for key, of_key in values.items()}})
    return lines


def fraction(text: str) -> float:
    """Return 0.25/255 or 0.001 as a float."""
    number, _, whole = text.partition("/")
    return float(number) / float(whole or 1)


def add_subject(parser: argparse.ArgumentParser):
    """Add the flags that choose a network and images."""
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_root", required=True)
    parser.add_argument("--ckpt", required=True, help="of deeplabv3_mobilenet")
    parser.add_argument("--crop", type=int, nargs=2, help="height and width; without it images have their own size")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)


def main():
    """Measure, write the JSON file and print a table."""
    names = list(list_attacks(0.0, 30, 1, [1.0]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_subject(parser)
    parser.add_argument("--eps", type=fraction, nargs="+", required=True)
    parser.add_argument("--gradients", type=int, nargs="+", default=[10, 30, 60, 90],
                        help="of every attack; race gets half of each, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", choices=names, metavar="NAME",
                        default=[name for name in names if name not in OTHERS],
                        help=f"of {', '.join(names)} (default: all but {', '.join(OTHERS)})")
    parser.add_argument("--folder", required=True, help="of the records")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = measure(args)
    lines = summarize(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": "python -m benchmarks.attack_strength " + " ".join(sys.argv[1:]),
               "torch": torch.__version__, "summary": lines, "results": results}
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for line in lines:
        print(f"{line['eps'] * 255:.2f}/255 {line['gradients']:3d} {line['attack']:16s} "
              f"aAcc {line['aAcc']:6.2f} mIoU {line['mIoU']:6.2f}")


if __name__ == "__main__":
    main()
