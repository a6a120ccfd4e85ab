"""A clean evaluation of images of VOC's size, against one by one with a confusion matrix in NumPy.

    python -m benchmarks.evaluate [--rounds 5]
"""
import argparse
import contextlib
import io
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import plain
from benchmarks.timing import Result, choose_device, compare, measure_in_turn
from engine.evaluation.evaluate import evaluate
from metrics import StreamSegMetrics
from network import build_model

MODEL, CLASSES, SIZE = "deeplabv3_mobilenet", 21, (375, 500)
IMAGES, BATCH = {"cpu": 8, "cuda": 64}, {"cpu": 4, "cuda": 16}


class Drawn(Dataset):
    """Images and labels that were drawn before."""

    def __init__(self, count: int):
        torch.manual_seed(0)
        coarse = torch.rand(count, 3, 12, 16)
        self.images = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
        self.labels = torch.randint(0, CLASSES, (count, *SIZE))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


def make_model(device: str):
    """Return the model in eval mode."""
    torch.manual_seed(0)
    return build_model(MODEL, num_classes=CLASSES, output_stride=16).eval().to(device)


def make_ours():
    """Return a function that evaluates ours."""
    device = choose_device()
    model = make_model(device).to(memory_format=torch.channels_last)
    loader = DataLoader(Drawn(IMAGES[device]), batch_size=BATCH[device], pin_memory=device == "cuda")
    return partial(_quietly, evaluate, model, loader, StreamSegMetrics(CLASSES))


def make_plain():
    """Return a function that evaluates the plain way."""
    device = choose_device()
    network, data = make_model(device).model, Drawn(IMAGES[device])
    return partial(plain.evaluate, network, data.images.to(device), data.labels.to(device), num_classes=CLASSES)


def _quietly(function, *args):
    with contextlib.redirect_stderr(io.StringIO()):
        return function(*args)


def run(*, rounds: int) -> list[Result]:
    """Return the result."""
    found = measure_in_turn({"ours": make_ours, "plain": make_plain}, rounds=rounds)
    return [compare("evaluate", "ours", "plain", found, per=IMAGES[choose_device()])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    for result in run(**vars(parser.parse_args())):
        print(result.line)
