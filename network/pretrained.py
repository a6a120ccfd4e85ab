"""ImageNet weights for the backbones: where they are published, and how their keys are converted to ours."""
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


def _drop_classifier(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "last_linear."))}


def _convert_mobilenet(state: State) -> State:
    """Move features.0 to .17 into our two halves, with the same indices; drop features.18 and the classifier."""
    renamed = {}
    for key, tensor in state.items():
        part, index, *rest = key.split(".")
        if part == "features" and int(index) < 18:
            half = "low" if int(index) < LOW_LEVEL else "high"
            renamed[".".join([f"{half}_level_features", index, *rest])] = tensor
    return renamed


def _convert_xception(state: State) -> State:
    """Reshape 1x1 convolutions that are stored as matrices to four dimensions; drop the classifier."""
    state = _drop_classifier(state)
    for key, tensor in state.items():
        if "pointwise" in key and tensor.dim() == 2:
            state[key] = tensor[:, :, None, None]
    return state


class ImageNetWeights(NamedTuple):
    """A published file: its address (the name contains the hash), the conversion to our keys, and normalisation."""

    url: str
    convert_keys: Callable[[State], State] = _drop_classifier
    normalization: dict[str, list[float]] = IMAGENET

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.url).name

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256, from its name."""
        return torch.hub.HASH_REGEX.search(self.name)[1]


PRETRAINED = {  # the V1 weights are what the published DeepLab results started from
    "resnet50": ImageNetWeights(ResNet50_Weights.IMAGENET1K_V1.url),
    "resnet101": ImageNetWeights(ResNet101_Weights.IMAGENET1K_V1.url),
    "mobilenet": ImageNetWeights(MobileNet_V2_Weights.IMAGENET1K_V1.url, _convert_mobilenet),
    "xception": ImageNetWeights(
        "http://data.lip6.fr/cadene/pretrainedmodels/xception-43020ad28.pth",
        _convert_xception,
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ),
}


def _download(weights: ImageNetWeights) -> State:
    """Download the file unless TORCH_HOME has it, check its hash, and read tensors only.

    torch.hub.load_state_dict_from_url() checks the hash only after a download; it trusts a cached file and unpacks
    zips. Here the hash is checked every time, on the bytes that are then read: 0.1 s for ResNet-101.
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
    """Load the ImageNet weights published for `name` into `backbone` and set the normalisation they expect.

    If none are published (HRNet), logs that and leaves the backbone unchanged. Raises UserError, which names the
    weights, the cause and the flag to train without them, if they can't be downloaded, verified or loaded.
    """
    if name not in PRETRAINED:
        logger.info("backbone %s: no ImageNet weights are published, starting from random weights", name)
        return
    weights = PRETRAINED[name]
    try:
        backbone.load_state_dict(weights.convert_keys(_download(weights)))
    except Exception as error:  # torch.load can raise anything on a malformed file
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"can't load the ImageNet weights {weights.name} from {weights.url}: {cause} "
            "(use --no-pretrained_backbone to train without them)"
        ) from error
    backbone.normalization = weights.normalization
    logger.info("backbone %s: loaded ImageNet weights %s", name, weights.name)
