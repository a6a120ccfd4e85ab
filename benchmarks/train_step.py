"""A training step: SGD, SAM and adversarial training, against the plain way and as multiples of SGD.

    python -m benchmarks.train_step [--rounds 9] [--amp]
"""
import argparse
from functools import partial

import torch

from attacks import PGD
from benchmarks import plain
from benchmarks.timing import Result, choose_device, compare, compare_cost, measure_in_turn
from engine.training.step import TrainingStep
from network import build_model, precise
from optim import build_loss, build_optimizer

MODEL, CLASSES, RHO = "deeplabv3_mobilenet", 21, 0.02
AT = {"eps": 4 / 255, "step_size": 2 / 255, "steps": 3}
SIZES = {"cpu": (4, 257), "cuda": (16, 513)}  # batch, crop
ITRS = {"cpu": 1, "cuda": 10}  # of a round
SETTINGS = {"SGD": {}, "SAM": {"sam": {}}, "ASAM": {"sam": {"adaptive": True}},
            "SAM, interval 5": {"sam": {"interval": 5}}, "AT-3": {"adv": True}}


def make_batch(device: str, size: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels as the loader gives them: bytes, channels-last. size: batch and crop."""
    torch.manual_seed(0)
    batch, side = size or SIZES[device]
    return (torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8).movedim(-1, 1),
            torch.randint(0, CLASSES, (batch, side, side), dtype=torch.uint8))


def make_ours(*, sam: dict | None = None, adv: bool = False, amp: bool = False, itrs: int | None = None,
              size: tuple[int, int] | None = None):
    """Return a function that runs iterations of a new model."""
    device = choose_device()
    torch.manual_seed(0)
    model = build_model(MODEL, num_classes=CLASSES, output_stride=16).train()
    model.to(device, memory_format=torch.channels_last)
    name, settings = ("sgd", {}) if sam is None else ("SAM", {"model": model, "rho": RHO, **sam})
    optimizer = build_optimizer(name, [{"params": model.parameters()}], lr=1e-3, weight_decay=1e-4, **settings)
    step = TrainingStep(model, precise(model, amp=amp), optimizer=optimizer, criterion=build_loss("cross_entropy"),
                        attack=PGD(**AT) if adv else None)
    return partial(_repeat, step, *make_batch(device, size), count=itrs or ITRS[device])


def make_plain(kind: str):
    """Return the same for the plain way."""
    device = choose_device()
    torch.manual_seed(0)
    network = build_model(MODEL, num_classes=CLASSES, output_stride=16).model.train().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    images, labels = make_batch(device)
    images, labels = (images.float() / 255).contiguous(), labels.long()
    step = {"SGD": plain.train_step, "SAM": partial(plain.sam_step, rho=RHO), "AT-3": plain_adversarial_step}[kind]

    def move_and_step(images, labels):
        step(network, optimizer, plain.normalise(images.to(device)) if kind != "AT-3" else images.to(device),
             labels.to(device))

    return partial(_repeat, move_and_step, images, labels, count=ITRS[device])


def plain_adversarial_step(network, optimizer, images, labels):
    """Attack in train mode, as there, and take a step."""
    attacked = plain.attack(network, images, labels, **AT)
    plain.train_step(network, optimizer, plain.normalise(attacked), labels)


def _repeat(step, images, labels, *, count: int):
    for _ in range(count):
        step(images, labels)


def run(*, rounds: int, amp: bool = False) -> list[Result]:
    """Return the results of train_step, sam_step and at_step."""
    makers = {f"plain {kind}": partial(make_plain, kind) for kind in ("SGD", "SAM", "AT-3")}
    makers |= {name: partial(make_ours, amp=amp, itrs=5 if "interval" in name else None, **settings)
               for name, settings in SETTINGS.items()}
    itrs = ITRS[choose_device()]
    found = measure_in_turn(makers, rounds=rounds)
    found["5 of SGD"] = found["SGD"].times(5 / itrs)
    names = {"SGD": "train_step", "SAM": "sam_step", "AT-3": "at_step"}
    return [
        *(compare(names[kind], kind, f"plain {kind}", found, per=itrs) for kind in names),
        *(compare_cost(names.get(kind, "sam_step"), kind, "SGD", found, per=itrs) for kind in ("SAM", "ASAM", "AT-3")),
        compare_cost("sam_step", "SAM, interval 5", "5 of SGD", found, per=5)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--amp", action="store_true", help="bfloat16 forward passes of ours")
    for result in run(**vars(parser.parse_args())):
        print(result.line)
