"""--attack_amp: one forward pass and one backward pass to the image in bfloat16, against the folded float32 network.

    python -m benchmarks.bfloat16 [--out benchmarks/results/bfloat16.json] [--rounds 9]

One image of 375x500, networks with drawn weights. A CPU needs AVX512-BF16 or AMX to be faster (see lscpu).
"""
import argparse
from functools import partial
from pathlib import Path

import torch

from attacks.folding import fold
from benchmarks.timing import Result, choose_device, compare, describe_machine, measure_in_turn, write_lines
from network import Bfloat16, build_model

MODELS = "deeplabv3_mobilenet", "deeplabv3_resnet50"
STEPS = 4  # of a round


def make(name: str, *, half: bool):
    """Return a function that takes the passes of STEPS steps."""
    torch.manual_seed(0)
    device = choose_device()
    model = build_model(name, num_classes=21, output_stride=16, pretrained_backbone=False).to(device)
    images = torch.rand(2, 3, 375, 500, device=device).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)  # with the statistics that batch norms have at first, activations grow from layer to layer
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = images[:1]
    network = Bfloat16(model) if half else fold(model, images)
    if network is model:
        raise SystemExit(f"{name} isn't folded: its logits would change by more than rounding")
    with torch.no_grad():
        gradient = torch.rand_like(network(images))
    return partial(take_steps, network, images, gradient)


def take_steps(network, images, gradient):
    """Take the passes of STEPS steps."""
    for _ in range(STEPS):
        points = images.detach().requires_grad_(True)
        torch.autograd.grad(network(points), points, gradient)


def run(*, rounds: int) -> list[Result]:
    """Return how many times as fast bfloat16 is, for each of MODELS."""
    results = []
    for name in MODELS:
        case, against = f"{name}, bfloat16", "folded float32"
        found = measure_in_turn({case: partial(make, name, half=True), against: partial(make, name, half=False)},
                                rounds=rounds)
        results.append(compare("bfloat16", case, against, found, per=STEPS))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.bfloat16", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="file of the results (default: none)")
    args = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), flush=True)
    measured = run(rounds=args.rounds)
    for result in measured:
        print(result.line)
    if args.out:
        write_lines(args.out, measured, command=f"python -m benchmarks.bfloat16 --rounds {args.rounds}")
