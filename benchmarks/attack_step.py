"""The speed of our PGD against a plain loop and the floor: one 375x500 image, deeplabv3_mobilenet.

    python -m benchmarks.attack_step [--rounds 9] [--weights deeplabv3_mobilenet_voc.pth]

The plain loop uses NCHW, loss.backward() through all parameters and normalisation outside the model. The floor is one
forward and one backward pass to the input for each step, of the folded channels-last network, with a given gradient of
the logits. All attacks start from the same image, with 10 steps and with 4. Without trained weights the network's own
rounding is near the bound above which it isn't folded: a line then says so.
"""
import argparse
from functools import partial

import torch
import torch.nn.functional as F

from attacks import PGD
from attacks.folding import fold
from benchmarks import plain
from benchmarks.timing import Result, choose_device, compare, compare_cost, measure_in_turn
from engine.run.exits import reported_errors
from network import build_model
from utils.optional import import_optional

EPS, LONG, SHORT = 4 / 255, 10, 4
CLASSES = 21


def make_all(weights: str | None):
    """Return the model, image [1, 3, 375, 500] and labels."""
    device = choose_device()
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(1, 3, 12, 16), (375, 500), mode="bilinear").to(device)
    labels = torch.randint(0, CLASSES, (1, 375, 500), device=device)
    model = build_model("deeplabv3_mobilenet", num_classes=CLASSES, output_stride=16).to(device).eval()
    if weights:
        model.model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    return model, images, labels


def make_ours(weights: str | None, steps: int):
    """Return a function that attacks with our PGD."""
    model, images, labels = make_all(weights)
    model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if fold(model.requires_grad_(False), images) is model:
        print("the network isn't folded: give --weights")
    model.requires_grad_(True)
    return partial(PGD(eps=EPS, steps=steps, random_start=False), model, images, labels)


def make_plain(weights: str | None, steps: int):
    """Return a function that attacks the plain way."""
    model, images, labels = make_all(weights)
    return partial(plain.attack, model.model, images, labels, eps=EPS, step_size=EPS / 4, steps=steps)


def load_torchattacks():
    """Return the package; UserError, naming the command that installs it, where it is missing."""
    return import_optional("torchattacks", command="pip install --no-deps torchattacks")


def make_torchattacks(weights: str | None, steps: int):
    """Return a function that attacks with the package's PGD."""
    model, images, labels = make_all(weights)
    attack = load_torchattacks().PGD(model, eps=EPS, alpha=EPS / 4, steps=steps, random_start=False)
    return partial(attack, images, labels)


def make_floor(weights: str | None, steps: int):
    """Return a function that takes only the passes of an attack."""
    model, images, _ = make_all(weights)
    images = images.to(memory_format=torch.channels_last)
    network = fold(model.to(memory_format=torch.channels_last).requires_grad_(False), images)
    with torch.no_grad():
        gradient = torch.rand_like(network(images))
    return partial(_run_floor, network, images, gradient, steps)


def _run_floor(network, images, gradient, steps):
    for _ in range(steps):
        points = images.detach().requires_grad_(True)
        torch.autograd.grad(network(points), points, gradient)


def run(*, rounds: int, weights: str | None = None, torchattacks: bool = False) -> list[Result]:
    """Return the results; with torchattacks also against that package's PGD."""
    results = []
    for steps in (LONG, SHORT):
        name, others = f"PGD-{steps}", {"plain": make_plain}
        if torchattacks:
            load_torchattacks()  # its absence is said here, not in the process that is timed
            others["plain torchattacks"] = make_torchattacks
        makers = {name: make_ours, **others, "the floor": make_floor}
        found = measure_in_turn({subject: partial(make, weights, steps) for subject, make in makers.items()},
                                rounds=rounds)
        results += [compare("attack_step", name, other, found, per=steps) for other in others]
        results.append(compare_cost("attack_step", name, "the floor", found, per=steps))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--weights", help="a state_dict of the bare network with 21 classes")
    parser.add_argument("--torchattacks", action="store_true",
                        help="run that package's PGD too (pip install --no-deps torchattacks)")
    with reported_errors():
        for result in run(**vars(parser.parse_args())):
            print(result.line)
