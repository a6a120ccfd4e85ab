"""How far exported files are from the networks:  python -m experiments.export --out results/export.json

Each of the twelve networks, with random weights and the BatchNorm statistics of a batch, is exported in both formats
and compared with itself, as export.py does before it writes a file. Networks that the file has are not measured again.
The table is that of docs/export.md.
"""
import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import Bottleneck

from network import MODELS, build_model
from network.backbone.resnet import ResNet
from network.export import FORMATS, compare, draw_patches, encode, find_smallest_size, load_packages, trace
from utils.files import write_atomically
from utils.optional import import_optional

CLASSES = 21
BATCH = (2, 129, 97)  # whose statistics the BatchNorms get
# Weight of the last BatchNorm in ResNet's blocks. With 1 and random weights each of 33 blocks of ResNet-101 enlarges
# rounding, until float32 alone is farther from float64 than 1e-4; the blocks of a trained network change less.
RESIDUAL = 0.25


def build_random(name: str) -> nn.Module:
    """Return the network in eval mode with fixed random weights, and logits that differ over an image."""
    torch.manual_seed(1)
    model = build_model(name, num_classes=CLASSES, output_stride=4 if "hrnet" in name else 16)
    if isinstance(model.model.backbone, ResNet):
        for block in filter(lambda layer: isinstance(layer, Bottleneck), model.modules()):
            nn.init.constant_(block.bn3.weight, RESIDUAL)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        model.train()(draw_patches(BATCH, seed=1))
    return model.eval().to(memory_format=torch.channels_last)


def measure(name: str) -> dict:
    """Return the differences of a network's files by format."""
    model = build_random(name)
    program = trace(model)
    found = {"model": name, "smallest_size": find_smallest_size(program)}
    for format in FORMATS:
        content = encode(program, format=format, metadata={})
        found[format] = [{"size": difference.size, "largest_logit": difference.largest_logit, "share": difference.share}
                         for difference in compare(content, model, format=format)]
    return found


def format_table(networks: list[dict]) -> str:
    """Return the table of docs/export.md."""
    sizes = ["x".join(map(str, row["size"])) for row in networks[0]["onnx"]]
    columns = [f"{format}, {size}" for format in ("ONNX", "torch.export") for size in sizes]
    rows = [["network", "smallest side", *columns], ["---"] * (2 + len(columns))]
    for network in networks:
        shares = [f"{row['share']:.1e}" if row["share"] else "0" for format in FORMATS for row in network[format]]
        rows.append([network["model"], str(network["smallest_size"][0]), *shares])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv=None):
    """Measure all networks, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    path = parser.parse_args(argv).out
    load_packages("onnx")
    versions = {name: import_optional(name).__version__ for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    found = json.loads(path.read_text())["networks"] if path.exists() else []
    for name in MODELS:
        if name in {row["model"] for row in found}:
            continue
        found = sorted([*found, measure(name)], key=lambda row: list(MODELS).index(row["model"]))
        results = {"command": f"python -m experiments.export --out {path.as_posix()}", "versions": versions,
                   "networks": found}
        write_atomically(path, json.dumps(results, indent=1) + "\n")
    print(format_table(found))  # noqa: T201


if __name__ == "__main__":
    main()
