"""Time SAM and adversarial training as multiples of SGD: deeplabv3_mobilenet, 8 crops of 240x240.

    python -m benchmarks.train_step [--rounds 9] [--amp]

Times five iterations of each in turn, so that "interval 5" includes one SAM step; each has its own model.
"""
import argparse
from functools import partial

import torch

from attacks import PGD
from benchmarks.timing import report, time_in_turn
from engine.training.step import TrainingStep
from network import build_model, precise
from optim import build_loss, build_optimizer

ITRS = 5
KINDS = {
    "sgd": {},
    "SAM": {"sam": {}},
    "SAM, interval 5": {"sam": {"interval": 5}},
    "AT, 3 steps": {"attack": PGD(eps=4 / 255, step_size=2 / 255, steps=3)},
}


def make_stepper(device: str, *, sam: dict | None = None, attack=None, amp: bool = False, size=(8, 240)):
    """Return a function that runs ITRS iterations of a new model."""
    torch.manual_seed(0)
    model = build_model("deeplabv3_mobilenet", num_classes=21, output_stride=16).train()
    model.to(device, memory_format=torch.channels_last)
    images = torch.rand(size[0], 3, size[1], size[1], device=device)
    labels = torch.randint(0, 21, (size[0], size[1], size[1]), device=device)
    name, settings = ("sgd", {}) if sam is None else ("SAM", {"model": model, "rho": 0.02, **sam})
    optimizer = build_optimizer(name, [{"params": model.parameters()}], lr=1e-3, weight_decay=1e-4, **settings)
    step = TrainingStep(model, precise(model, amp=amp), optimizer=optimizer, criterion=build_loss("cross_entropy"),
                        attack=attack)

    def run():
        for _ in range(ITRS):
            step(images, labels)

    return run


def main():
    """Time the steps and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--amp", action="store_true", help="bfloat16 forward passes")
    opts = parser.parse_args()
    make = partial(make_stepper, "cuda" if torch.cuda.is_available() else "cpu", amp=opts.amp)
    times = time_in_turn({name: make(**kind) for name, kind in KINDS.items()}, count=opts.rounds)
    report(times, baseline="sgd", per=ITRS)


if __name__ == "__main__":
    main()
