"""Compare the smallest radius that min_radius finds with a bisection over race, of as many gradients.

    python -m benchmarks.radius --name voc --dataset voc --data_root VOC --ckpt deeplabv3_mobilenet_voc.pth \\
        --crop 256 256 --images 3 --bracket 1/64 4 --out results/min_radius.json

Images are centre crops, chosen as benchmarks.attack_strength chooses them. min_radius gets all gradients. The bisection
knows beforehand that the radius is within --bracket; five times it runs race with a fifth of the gradients at the
geometric mean of its bounds, and keeps the smallest radius at which 99 % of the labelled pixels were wrong. The
networks that --out already has stay there.
"""
import argparse
import json
import math
import sys
from pathlib import Path

import torch

from attacks import MinRadius, Race
from benchmarks.attack_strength import Crops, add_subject, fraction, load_network
from datasets import build_datasets
from utils.images import choose_evenly
from utils.text import format_markdown

UNITS = {"linf": 255, "l2": 1}  # --bracket is in 1 / these
TRIES, SHARE = 5, 0.99  # radii of the bisection; of the labelled pixels that must be wrong
METHODS = ("min_radius", "bisection")


def search(model, image, label, *, norm: str, gradients: int) -> float | None:
    """Return the smallest radius that min_radius finds for image [1, 3, H, W], None if it finds none."""
    attack = MinRadius(norm=norm, steps=gradients, min_radius_share=SHARE)
    return measure_success(model, image, label, attack(model, image, label, image_ids=[0]), norm)


def bisect(model, image, label, *, norm: str, gradients: int, bracket, seed: int = 1) -> float | None:
    """Return the smallest radius at which race with a fifth of the gradients succeeds, None if it never does."""
    (low, high), found = (bound / UNITS[norm] for bound in bracket), None
    for _ in range(TRIES):
        eps = math.sqrt(low * high)
        attack = Race(eps=eps, norm=norm, steps=gradients // TRIES, seed=seed)
        radius = measure_success(model, image, label, attack(model, image, label, image_ids=[0]), norm)
        if radius is None:
            low = eps
        else:
            high = found = radius
    return found


def measure_success(model, image, label, attacked, norm: str) -> float | None:
    """Return the distance to `attacked`, or None if fewer than SHARE of the labelled pixels are wrong there."""
    with torch.no_grad():
        logits = model(attacked)
    labelled = (label >= 0) & (label < logits.shape[1])
    right = ((logits.argmax(1) == label) & labelled).sum().item()
    if right > (1 - SHARE) * labelled.sum().item() + 1e-6:
        return None
    delta = (attacked.double() - image.double()).flatten()
    return (delta.norm() if norm == "l2" else delta.abs().amax()).item()


def measure(args) -> list[dict]:
    """Return a line for each norm and image: its name, and the radius by each method."""
    _, val_set = build_datasets(args.dataset, data_root=args.data_root)
    model = load_network(args.ckpt, len(val_set.class_names))
    some = range(args.first, len(val_set), args.every)
    data = Crops(val_set, [some[place] for place in choose_evenly(len(some), args.images)], args.crop)
    lines = []
    for norm in UNITS:
        for k in range(len(data)):
            image, label = (values[None] for values in data[k])
            found = (search(model, image, label, norm=norm, gradients=args.gradients),
                     bisect(model, image, label, norm=norm, gradients=args.gradients, bracket=args.bracket))
            lines.append({"norm": norm, "image": data.name(k), **dict(zip(METHODS, found, strict=True))})
            print(args.name, lines[-1], flush=True)
    return lines


def format_table(networks: dict[str, dict]) -> str:
    """Return a table with a line for each network and image; linf radii in 1/255, and which are larger."""
    columns = {"network": [], "norm": [], "image": [], **{method: [] for method in METHODS}, "min_radius is": []}
    for name, network in networks.items():
        for line in network["results"]:
            cells = [name, line["norm"], line["image"],
                     *(_format_radius(line[method], line["norm"]) for method in METHODS), compare(line)]
            for column, cell in zip(columns.values(), cells, strict=True):
                column.append(cell)
    return format_markdown(columns)


def compare(line: dict) -> str:
    """Return whether min_radius found the smaller radius; one that was not found counts as larger than all."""
    ours, other = (math.inf if line[method] is None else line[method] for method in METHODS)
    return "larger, missed" if ours > other else "smaller" if ours < other else "equal"


def _format_radius(radius: float | None, norm: str) -> str:
    if radius is None:
        return "not found"
    return f"{255 * radius:.2f}/255" if norm == "linf" else f"{radius:.3f}"


def main():
    """Measure one network, add it to the JSON file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the network, in the table")
    add_subject(parser)
    parser.add_argument("--gradients", type=int, default=100)
    parser.add_argument("--bracket", type=fraction, nargs=2, default=[1 / 16, 16.0], metavar=("LOW", "HIGH"),
                        help="of the bisection: in 1/255 for linf, as it is for l2 (default: 1/16 16)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = measure(args)
    networks = json.loads(args.out.read_text(encoding="utf-8"))["networks"] if args.out.exists() else {}
    networks[args.name] = {"command": "python -m benchmarks.radius " + " ".join(sys.argv[1:]),
                           "torch": torch.__version__, "results": results}
    args.out.write_text(json.dumps({"networks": networks}, indent=1) + "\n", encoding="utf-8")
    print(format_table(networks))


if __name__ == "__main__":
    main()
