"""What does a SAM step cost in SGD steps? deeplabv3_mobilenet, 8 crops of 240x240, one update each in turn.

    python -m benchmarks.train_step [--pairs 15]
"""
import argparse

import torch

from benchmarks.timing import pairs, report
from network import build_model
from optim import build_loss, build_optimizer


def stepper(name: str, device: str):
    """A function that takes one update of a model of its own."""
    torch.manual_seed(0)
    model = build_model("deeplabv3_mobilenet", num_classes=21, output_stride=16).train()
    model.to(device, memory_format=torch.channels_last)
    images = torch.rand(8, 3, 240, 240, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 21, (8, 240, 240), device=device)
    criterion = build_loss("cross_entropy")
    optimizer = build_optimizer(name, [{"params": model.parameters()}], lr=1e-3, weight_decay=1e-4, model=model)

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def main():
    """Time and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    count = parser.parse_args().pairs
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report(("SAM step", "SGD step"), pairs(stepper("SAM", device), stepper("sgd", device), count=count))


if __name__ == "__main__":
    main()
