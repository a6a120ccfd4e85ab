"""How sharp a network's loss is in the weights, and how sensitive it is to its input.

    python -m experiments.sharpness.probes RUN_FOLDER

Writes RUN_FOLDER/probe.json. All is measured in eval mode, so that the loss is a function of the weights alone, and on
the same crops and images for every network.
"""
import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets import build_datasets, build_loaders
from network import build_model, load_weights, take_normalization
from utils import checkpoint
from utils.files import write_atomically
from utils.images import choose_evenly, to_unit_range

RHOS = 0.02, 0.1
SEED, BATCHES, BATCH_SIZE = 2026, 2, 8  # of the training crops
IMAGES = 16
ITERATIONS, TOLERANCE = 30, 0.01  # at most, of the power iteration; the relative change at which it ends


def mean_loss(network: nn.Module, batches) -> Tensor:
    """Return the mean over batches of their cross-entropy, the mean over labelled pixels."""
    return torch.stack([nn.functional.cross_entropy(network(images), labels, ignore_index=255)
                        for images, labels in batches]).mean()


def gradient(network: nn.Module, batches) -> list[Tensor]:
    """Return the gradient of mean_loss in the parameters, batch by batch to save memory."""
    parameters = list(network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        for sum_, part in zip(total, torch.autograd.grad(mean_loss(network, [batch]), parameters), strict=True):
            sum_ += part / len(batches)
    return total


def sam_gap(network: nn.Module, batches, rho: float) -> float:
    """Return how much mean_loss rises from the weights w to w + rho g / ||g||, g its gradient."""
    found, parameters = gradient(network, batches), list(network.parameters())
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        before = mean_loss(network, batches)
        for parameter, part in zip(parameters, found, strict=True):
            parameter += rho / norm(found) * part
        after = mean_loss(network, batches)
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
    return (after - before).item()


def largest_eigenvalue(network: nn.Module, batches, *, iterations: int = ITERATIONS) -> tuple[float, float]:
    """Return the eigenvalue of the Hessian of mean_loss that is largest in size, and its last relative change.

    Power iteration from a random direction: v <- H v / ||H v||; the eigenvalue is v H v.
    """
    parameters = list(network.parameters())
    draw = torch.Generator().manual_seed(SEED)
    direction = [torch.randn(parameter.shape, generator=draw).to(parameter) for parameter in parameters]
    value, change = 0.0, float("inf")
    for _ in range(iterations):
        length = norm(direction)
        direction = [part / length for part in direction]
        product = [torch.zeros_like(part) for part in direction]
        for batch in batches:
            first = torch.autograd.grad(mean_loss(network, [batch]), parameters, create_graph=True)
            slope = sum((one * other).sum() for one, other in zip(first, direction, strict=True))
            for sum_, part in zip(product, torch.autograd.grad(slope, parameters), strict=True):
                sum_ += part / len(batches)
        before, value = value, sum((one * other).sum() for one, other in zip(product, direction, strict=True)).item()
        change = abs(value - before) / max(abs(value), 1e-12)
        if change < TOLERANCE:
            break
        direction = product
    return value, change


def norm(tensors: list[Tensor]) -> Tensor:
    """Return the L2 norm of all tensors together."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


def input_sensitivity(network: nn.Module, dataset, indices: list[int]) -> dict:
    """Return means over images of the input gradient's L1 and L2 norms and of the mean margin of right pixels.

    The gradient is that of an image's mean cross-entropy; its L1 norm times a small linf radius is how much the loss
    can rise. Margin: logit of the label minus the largest other one, 0 in an image without right pixels.
    """
    found = {"gradient_l1": [], "gradient_l2": [], "margin": []}
    for index in indices:
        image, label = dataset[index]
        image, label = image[None].requires_grad_(True), label[None]
        logits = network(image)
        part, = torch.autograd.grad(nn.functional.cross_entropy(logits, label, ignore_index=255), image)
        found["gradient_l1"].append(part.abs().sum().item())
        found["gradient_l2"].append(part.norm().item())
        own, other = logits.detach().topk(2, dim=1).values.unbind(1)
        found["margin"] += (own - other)[logits.argmax(1) == label].mean().reshape(1).nan_to_num(0.0).tolist()
    return {name: sum(values) / len(values) for name, values in found.items()}


def load_run(folder: Path) -> tuple[nn.Module, dict]:
    """Return the network of a run's best checkpoint, in eval mode, and the run's options."""
    path, = folder.glob("best_*.pth")
    content = checkpoint.load(path)
    options = content["options"]
    model = build_model(options["model"], num_classes=len(content["class_names"]),
                        output_stride=options["output_stride"], pretrained_backbone=False)
    load_weights(model.model, checkpoint.model_state(content), source=str(path))
    take_normalization(model, content, source=str(path))
    return model.to(memory_format=torch.channels_last).eval(), options


def measure(folder: Path, *, iterations: int) -> dict:
    """Return everything that this file measures, for one run. iterations: the most of the power iteration."""
    network, options = load_run(folder)
    train_set, val_set = build_datasets(options["dataset"], data_root=options["data_root"],
                                        crop_size=options["crop_size"])
    loader, _ = build_loaders(train_set, val_set, batch_size=BATCH_SIZE, val_batch_size=1, num_workers=0, seed=SEED)
    drawn = loader.iterate_from(0)
    batches = [(to_unit_range(images), labels.long()) for images, labels in (next(drawn) for _ in range(BATCHES))]
    value, change = largest_eigenvalue(network, batches, iterations=iterations)
    with torch.no_grad():
        loss = mean_loss(network, batches).item()
    return {"loss": loss, **{f"sam_gap_{rho:g}": sam_gap(network, batches, rho) for rho in RHOS},
            "hessian_eigenvalue": value, "hessian_eigenvalue_change": change,
            **input_sensitivity(network, val_set, choose_evenly(len(val_set), IMAGES))}


def probe(folder: Path, *, iterations: int = ITERATIONS):
    """Measure a run and write its probe.json."""
    write_atomically(folder / "probe.json", json.dumps(measure(folder, iterations=iterations), indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m experiments.sharpness.probes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    probe(parser.parse_args().folder)
