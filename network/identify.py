"""Find out which network a state dict is of, by the names and shapes of its tensors."""
from dataclasses import dataclass
from functools import cache

import torch

from network.backbone_weights import list_shapes, name_backbone
from network.deeplab import convert_to_separable_conv
from network.keys import State
from network.modeling import MODELS

Shapes = dict[str, torch.Size]
PROGRAMS = {  # the first parts of names -> whose they are
    frozenset(("encoder", "decoder", "segmentation_head")): "a network of segmentation_models.pytorch",
    frozenset(("backbone", "decode_head")): "a network of mmsegmentation",
}


@dataclass(frozen=True)
class Network:
    """One of the twelve, with the shapes of its tensors."""

    name: str
    separable: bool
    shapes: Shapes

    @property
    def last(self) -> list[str]:
        """The names of the last layer's tensors."""
        return list_last_layer(self.shapes)

    def fits(self, state: State, part: str = "") -> bool:
        """Return whether all but the last layer, or the part whose names start so, has these names and shapes."""
        own = {key: shape for key, shape in self.shapes.items() if key.startswith(part) and key not in self.last}
        theirs = {key: tensor.shape for key, tensor in state.items() if key.startswith(part)
                  and key not in self.last and not key.endswith("num_batches_tracked")}
        return own == theirs

    def count_classes(self, state: State) -> int | None:
        """Return the number of classes of `state`, None without a last layer."""
        return len(state[self.last[-1]]) if self.last[-1] in state and state[self.last[-1]].dim() else None

    def __str__(self) -> str:
        return f"--model {self.name}{' --separable_conv' if self.separable else ''}"


def list_last_layer(shapes) -> list[str]:
    """Return the names of the 1x1 convolution to the classes: weight and bias, the last of a network's tensors."""
    return list(shapes)[-2:]


@cache
def list_networks(models: tuple[tuple, ...]) -> list[Network]:
    """Return every network of (name, constructor), with and without separable convolutions, built without memory."""
    networks = []
    for name, build in models:
        with torch.device("meta"):
            model = build(21, 4 if "hrnet" in name else 16, False)
            plain = Network(name, False, list_shapes(model))
            convert_to_separable_conv(model.classifier)
        networks += [plain, Network(name, True, list_shapes(model))]
    return networks


def describe(state: State) -> str:
    """Return what the tensors are of: one of the twelve networks, a backbone, another program's network, or ""."""
    networks = list_networks(tuple(MODELS.items()))
    for network in networks:
        if network.fits(state):
            classes = network.count_classes(state)
            return f"these are the weights of {network}" + (f" with {classes} classes" if classes else "")
    if "classifier.0.weight" in state and "backbone.layer1.0.conv1.weight" in state:
        return "these are the weights of torchvision's FCN: give the file as --backbone_weights to use its backbone"
    if found := [network.name for network in networks if not network.separable and network.fits(state, "backbone.")]:
        return (f"the backbone is that of {' and '.join(found)}, the head is another one: give the file as "
                "--backbone_weights to use its backbone")
    if name := name_backbone(state):
        return f"these are the weights of a {name} classifier or backbone: give the file as --backbone_weights"
    return _describe_unknown(state)


def _describe_unknown(state: State) -> str:
    parts = list(dict.fromkeys(key.partition(".")[0] for key in state))
    for names, program in PROGRAMS.items():
        if names <= {*parts}:
            return f"these are the weights of {program}, another architecture than the twelve of --model"
    return ""
