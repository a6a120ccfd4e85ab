"""Seconds of one gradient of an attack for one image, by network and image size: what an evaluation costs.

    python -m benchmarks.image_pass [--models deeplabv3_mobilenet ...] [--size 375 500] [--rounds 3]

Networks are untrained. Their batch norms are folded as in a trained network, without the check of rounding.
"""
import argparse
import statistics
from functools import partial

import torch

from attacks import PGD, folding
from benchmarks.timing import choose_device, describe_machine, measure_in_turn
from network import build_model

STEPS, CLASSES = 2, 21  # an attack of one step isn't folded


def make(name: str, size: list[int]):
    """Return a function that attacks an image of this size with STEPS steps."""
    folding.TOLERANCE = float("inf")
    device = choose_device()
    torch.manual_seed(0)
    model = build_model(name, num_classes=CLASSES, output_stride=16).eval()
    model.to(device, memory_format=torch.channels_last)
    images = torch.rand(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (1, *size), device=device)
    return partial(PGD(eps=4 / 255, steps=STEPS, random_start=False), model, images, labels)


def main():
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deeplabv3_mobilenet", "deeplabv3_resnet50"])
    parser.add_argument("--size", nargs=2, type=int, default=[375, 500], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(describe_machine())
    for name in args.models:
        found = measure_in_turn({name: partial(make, name, args.size)}, rounds=args.rounds)[name]
        seconds = [each / STEPS for each in found.seconds]
        print(f"{name:<24} {args.size[0]}x{args.size[1]} {statistics.median(seconds):.3f} s "
              f"({min(seconds):.3f} to {max(seconds):.3f}), {found.gib:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
