"""Compare the speed of our PGD with a plain loop and with the floor: one 375x500 image, deeplabv3_mobilenet.

    python -m benchmarks.attack_step [--rounds 9] [--weights deeplabv3_mobilenet_voc.pth]

The plain loop uses NCHW, loss.backward() through all parameters and normalisation outside the model. The floor is one
forward and one backward pass to the input for each step, of the folded channels-last network, with a given gradient of
the logits. Both attacks start from the same image, with 10 steps and with 4. The script
prints how many pixel values agree after one step; after more they differ, because rounding changes the sign of
gradients near zero. Without trained weights the network's own rounding is near the bound above which it isn't folded:
the script then says so.
"""
import argparse
import copy
from functools import partial

import torch
import torch.nn.functional as F

from attacks import PGD
from attacks.folding import fold
from benchmarks.timing import report, time_in_turn
from network import build_model

EPS, LONG, SHORT = 4 / 255, 10, 4


def plain_pgd(network, images, labels, *, mean, std, steps):
    """Attack with PGD as in most repositories, without random start; `network` takes normalised images."""
    delta = torch.zeros_like(images, requires_grad=True)
    for _ in range(steps):
        loss = F.cross_entropy(network((images + delta - mean) / std), labels, ignore_index=255)
        loss.backward()
        delta.data = (delta + EPS / 4 * delta.grad.sign()).clamp(-EPS, EPS)
        delta.data = (images + delta.data).clamp(0, 1) - images
        delta.grad.zero_()
    return (images + delta).detach()


def run_floor(network, images, gradient, *, steps):
    """Take only the passes of an attack; `network` takes [0, 1] images, gradient: of the logits."""
    for _ in range(steps):
        points = images.detach().requires_grad_(True)
        torch.autograd.grad(network(points), points, gradient)


def main():
    """Time all for both numbers of steps and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--weights", help="a state_dict of the bare network with 21 classes")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(1, 3, 12, 16), (375, 500), mode="bilinear").to(device)
    labels = torch.randint(0, 21, (1, 375, 500), device=device)
    plain = build_model("deeplabv3_mobilenet", num_classes=21, output_stride=16).to(device).eval()
    if args.weights:
        plain.model.load_state_dict(torch.load(args.weights, map_location=device, weights_only=True))
    ours = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    floor = fold(copy.deepcopy(ours).requires_grad_(False), channels_last)
    if any(isinstance(module, torch.nn.BatchNorm2d) and module.forward.__name__ == "forward"
           for module in floor.model.backbone.modules()):
        print("the network isn't folded: give --weights")
    with torch.no_grad():
        gradient = torch.rand_like(floor(channels_last))

    def run_plain(steps):
        return plain_pgd(plain.model, images, labels, mean=plain.mean, std=plain.std, steps=steps)

    def run_ours(steps):
        return PGD(eps=EPS, steps=steps, random_start=False)(ours, channels_last, labels)

    same = (run_plain(1) - run_ours(1)).abs().lt(1e-6).float().mean().item()
    print(f"after one step {same:.2%} of the pixel values agree")
    for steps in (LONG, SHORT):
        print(f"{steps} steps a call, seconds of one step:")
        times = time_in_turn({"ours": partial(run_ours, steps), "plain loop": partial(run_plain, steps),
                              "floor": partial(run_floor, floor, channels_last, gradient, steps=steps)},
                             count=args.rounds)
        report(times, baseline="ours", per=steps)
        report({"floor": times["floor"], "ours": times["ours"]}, baseline="floor", per=steps)


if __name__ == "__main__":
    main()
