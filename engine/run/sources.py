"""The networks of --transfer_from, on which the adversarial images for another network are made."""
import re
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn

from engine.options import FLAGS
from engine.options.resolve import find_output_stride
from engine.run.checkpoints import CHECKPOINTS
from network import as_scored, build_model, load_weights, take_normalization
from utils import checkpoint
from utils.errors import UserError
from utils.user_code import is_code, make_label

FLAG = "--transfer_from"
NETWORK = ("model", "separable_conv", "output_stride")  # the options that a network is built with
LONGEST_NAME = 40  # it becomes a part of file names


def build_sources(paths, *, own: dict, given_model: str | None, class_names: list[str]) -> dict[str, nn.Module]:
    """Return {name: network on the CPU} of these checkpoints, each with its own normalisation.

    own: the options of the network that is scored, by which one is built whose file holds no options. given_model: the
    --model of the command line, the only code of the user's that is run. Raises UserError, naming the file, for other
    classes, and for weights or options that don't fit.
    """
    sources = {}
    for path in dict.fromkeys(paths):
        content = checkpoint.load(path, flag=FLAG)
        _refuse_other_classes(path, content, class_names)
        name, number = name_source(path), 2
        while name in sources:
            name, number = f"{name_source(path)}-{number}", number + 1
        sources[name] = _build(path, content, _read_network(path, content, own, given_model), len(class_names))
    return sources


def place_sources(sources: dict[str, nn.Module], device: torch.device, form: dict) -> dict[str, nn.Module] | None:
    """Return the networks as the scored one is: on the device, and in windows or augmented (see as_scored)."""
    return {name: as_scored(network.to(device, memory_format=torch.channels_last), **form)
            for name, network in sources.items()} or None


def name_source(path: str) -> str:
    """Return a checkpoint's name for tables and files: its run's for best_*, sgd-latest for latest_*, else its own."""
    path = Path(path).absolute()
    name, kind = path.stem, path.stem.partition("_")[0]
    if any(map(path.match, CHECKPOINTS)):
        name = path.parent.name if kind == "best" else f"{path.parent.name}-{kind}"
    return re.sub(r"[^\w.-]", "-", name)[:LONGEST_NAME] or "network"


def _read_network(path: str, content: dict, own: dict, given_model: str | None) -> dict:
    """Return the options that the file's network is built with."""
    saved = content.get("options", {})
    if not isinstance(saved, dict):
        raise UserError(f"{FLAG} {path}: 'options' is not a dict")
    if "model" not in saved:  # a file of another program
        return own
    try:
        found = {name: FLAGS[name].check(saved[name]) if name in saved else FLAGS[name].default for name in NETWORK}
    except ValueError as error:
        raise UserError(f"{FLAG} {path}: invalid options of its network ({error}): give another checkpoint") from None
    if is_code(found["model"]):
        if given_model is None or make_label(given_model) != make_label(found["model"]):
            raise UserError(f"{FLAG} {path} is of the network {found['model']}, a function in a file; it is run only "
                            "if the network that is scored is of the same file, and --model names it "
                            "(docs/python.md#checkpoints)")
        found["model"] = given_model  # the file may have moved
    return {**found, "output_stride": found["output_stride"] or find_output_stride(found["model"])}


def _refuse_other_classes(path: str, content: dict, class_names: list[str]):
    """Raise UserError if the file names other classes; if it names none, load_weights() compares their number."""
    names = content.get("class_names", class_names)
    if names != class_names:
        theirs, ours = (shorten(", ".join(map(str, each)) if isinstance(each, list) else "?", 100, placeholder=" ...")
                        for each in (names, class_names))
        raise UserError(f"{FLAG} {path}: its network has the classes {theirs}, the one that is scored {ours}: give "
                        "checkpoints with the same classes in the same order (docs/attacks.md#transfer)")


def _build(path: str, content: dict, network: dict, num_classes: int) -> nn.Module:
    try:
        model = build_model(network["model"], num_classes=num_classes, output_stride=network["output_stride"],
                            separable_conv=network["separable_conv"], pretrained_backbone=False)
    except UserError as error:  # an output_stride that the network has not
        raise UserError(f"{FLAG} {path}: {error}") from None
    load_weights(model.model, checkpoint.model_state(content), source=f"{FLAG} {path}")
    take_normalization(model, content, source=f"{FLAG} {path}")
    return model
