"""Compare the speed of our PGD-10 with a plain loop: one 375x500 image, deeplabv3_mobilenet.

    python -m benchmarks.attack_step [--rounds 9]

The plain loop uses NCHW, loss.backward() through all parameters and normalisation outside the model. Both start from
the same image. The script prints how many pixel values agree after one step; after more they differ, because rounding
changes the sign of gradients near zero.
"""
import argparse

import torch
import torch.nn.functional as F

from attacks import PGD
from benchmarks.timing import report, time_in_turn
from network import build_model

EPS, STEPS = 4 / 255, 10


def plain_pgd(network, images, labels, *, mean, std, steps=STEPS):
    """Attack with PGD as in most repositories, without random start; `network` takes normalised images."""
    delta = torch.zeros_like(images, requires_grad=True)
    for _ in range(steps):
        loss = F.cross_entropy(network((images + delta - mean) / std), labels, ignore_index=255)
        loss.backward()
        delta.data = (delta + EPS / 4 * delta.grad.sign()).clamp(-EPS, EPS)
        delta.data = (images + delta.data).clamp(0, 1) - images
        delta.grad.zero_()
    return (images + delta).detach()


def main():
    """Time both loops and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    count = parser.parse_args().rounds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    images = torch.rand(1, 3, 375, 500, device=device)
    labels = torch.randint(0, 21, (1, 375, 500), device=device)
    settings = {"num_classes": 21, "output_stride": 16}
    plain = build_model("deeplabv3_mobilenet", **settings).to(device).eval()
    ours = build_model("deeplabv3_mobilenet", **settings).to(device, memory_format=torch.channels_last)
    ours.load_state_dict(plain.state_dict())
    attack = PGD(eps=EPS, steps=STEPS, random_start=False)
    channels_last = images.contiguous(memory_format=torch.channels_last)

    def run_plain(steps=STEPS):
        return plain_pgd(plain.model, images, labels, mean=plain.mean, std=plain.std, steps=steps)

    def run_ours(attack=attack):
        return attack(ours, channels_last, labels)

    one_step = PGD(eps=EPS, steps=1, random_start=False)
    same = (run_plain(steps=1) - run_ours(one_step)).abs().lt(1e-6).float().mean().item()
    print(f"after one step {same:.2%} of the pixel values agree")
    report(time_in_turn({"ours": run_ours, "plain loop": run_plain}, count=count), baseline="ours")


if __name__ == "__main__":
    main()
