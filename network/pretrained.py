"""ImageNet weights for the backbones: where they are published, and how their keys become ours."""
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, ResNet101_Weights

from network.backbone import IMAGENET, Backbone
from network.backbone.mobilenetv2 import LOW_LEVEL
from utils.errors import UserError
from utils.logging import logger

State = dict[str, Tensor]


def _without_classifier(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "last_linear."))}


def _from_mobilenet(state: State) -> State:
    """Sort features.0 .. features.17 into our two halves, indices kept; features.18 and the classifier are dropped."""
    renamed = {}
    for key, tensor in state.items():
        part, index, *rest = key.split(".")
        if part == "features" and int(index) < 18:
            half = "low" if int(index) < LOW_LEVEL else "high"
            renamed[".".join([f"{half}_level_features", index, *rest])] = tensor
    return renamed


def _from_xception(state: State) -> State:
    """Give 1x1 convolutions their two spatial dimensions where they were stored as matrices."""
    state = _without_classifier(state)
    for key, tensor in state.items():
        if "pointwise" in key and tensor.dim() == 2:
            state[key] = tensor[:, :, None, None]
    return state


class ImageNetWeights(NamedTuple):
    """A published file: its address (the name carries the hash), its way to our keys, and what it expects as input."""

    url: str
    to_ours: Callable[[State], State] = _without_classifier
    normalization: dict[str, list[float]] = IMAGENET

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.url).name

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256, as its name has them."""
        return torch.hub.HASH_REGEX.search(self.name)[1]


PRETRAINED = {  # the V1 weights are what the published DeepLab results started from
    "resnet50": ImageNetWeights(ResNet50_Weights.IMAGENET1K_V1.url),
    "resnet101": ImageNetWeights(ResNet101_Weights.IMAGENET1K_V1.url),
    "mobilenet": ImageNetWeights(MobileNet_V2_Weights.IMAGENET1K_V1.url, _from_mobilenet),
    "xception": ImageNetWeights(
        "http://data.lip6.fr/cadene/pretrainedmodels/xception-43020ad28.pth",
        _from_xception,
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ),
}


def _download(weights: ImageNetWeights) -> State:
    """Fetch once (to TORCH_HOME), check the hash in the file's name every time, and read tensors only.

    torch.hub.load_state_dict_from_url() would check it after a download alone, and take what lies there already as it
    is, unpacking zips. The bytes that were hashed are those that are read: 0.1 s for ResNet-101.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", weights.name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.info("Downloading %s to %s", weights.url, path)
        torch.hub.download_url_to_file(weights.url, str(path), weights.digest, progress=sys.stderr.isatty())
    content = path.read_bytes()
    if not (found := hashlib.sha256(content).hexdigest()).startswith(weights.digest):
        raise RuntimeError(f"{path} has the hash {found[:len(weights.digest)]} instead of {weights.digest}: delete it")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def load_pretrained(backbone: Backbone, name: str) -> None:
    """Load the ImageNet weights published for `name` into `backbone` and note the normalisation they expect.

    A backbone without published weights (HRNet) is left as it is, with a line in the log. A failure to get them is a
    UserError that names the weights, the cause and the flag to go on without.
    """
    if name not in PRETRAINED:
        logger.info("backbone %s: no ImageNet weights are published, it starts from random ones", name)
        return
    weights = PRETRAINED[name]
    try:
        backbone.load_state_dict(weights.to_ours(_download(weights)))
    except Exception as error:  # a stranger's bytes: torch.load raises whatever its opcodes run into
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"can't get the ImageNet weights {weights.name} from {weights.url}: {cause} "
            "(--no-pretrained_backbone goes on without them)"
        ) from error
    backbone.normalization = weights.normalization
    logger.info("backbone %s: ImageNet weights %s", name, weights.name)
