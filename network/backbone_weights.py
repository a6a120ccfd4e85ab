"""Load a backbone's weights from a local file: torchvision's, timm's or ours, with or without a classifier."""
import torch
from torch import Tensor

from network.backbone import Backbone
from network.keys import State, read_as_backbone
from network.modeling import BACKBONES
from network.pretrained import PRETRAINED
from utils.errors import UserError
from utils.logging import logger

LEAST_FIT = 0.95  # share of the backbone's tensors that the file must have
SHOWN = 3


def load_backbone(backbone: Backbone, name: str, state: State, *, source: str, whole: bool = False) -> dict:
    """Load what fits of `state` into the backbone `name` and return the normalisation that it expects.

    The file's names are those of this program, torchvision (ResNet, MobileNetV2), timm (also HRNet) or of the published
    Xception, under any prefix; a classifier is ignored. Logs what was taken and what is new. Raises UserError, with
    the first tensors that don't fit, if fewer than 95 % do (with `whole`, if any is missing), or if the file has more
    in one of the backbone's layers, as squeeze-and-excitation does; the backbone is then unchanged.
    """
    own = list_shapes(backbone)
    found, fit = match_backbone(own, state)
    left = [key for key in found if key not in own and not key.endswith("num_batches_tracked")]
    if len(left) > (1 - LEAST_FIT) * len(own) and (other := name_backbone(state)) not in (None, name):
        raise UserError(f"--backbone_weights {source}: the file is of the {other} backbone, not of {name}: choose a "
                        "--model with it")  # ResNet-101 has all tensors of ResNet-50, and more
    if len(fit) < (len(own) if whole else LEAST_FIT * len(own)):
        other = name_backbone(state)
        remedy = f"; the file is of the {other} backbone: choose a --model with it" if other not in (None, name) else ""
        least = "all must, because --freeze_backbone leaves them as they are" if whole else \
            f"at least {LEAST_FIT:.0%} must"
        raise UserError(f"--backbone_weights {source}: {len(fit)} of the {len(own)} tensors of the {name} backbone "
                        f"fit, {least}: {_describe_misfits(own, found)}{remedy}")
    layers = {key.partition(".")[0] for key in own}
    if inside := [key for key in left if key.partition(".")[0] in layers]:
        raise UserError(f"--backbone_weights {source}: the file is of another network than {name}: its layers have "
                        f"tensors that {name} has no place for: {_join(inside)}")
    backbone.load_state_dict({key: tensor for key, tensor in found.items()
                              if key in fit or key.endswith("num_batches_tracked")}, strict=False)
    new = [key for key in own if key not in fit]
    logger.info("Backbone weights from %s: %d of %d tensors%s", source, len(fit), len(own),
                f"; random, as the file doesn't have them so: {_describe_misfits(own, found)}" if new else "")
    return PRETRAINED[name].normalization if name in PRETRAINED else backbone.normalization


def list_shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every tensor of a state dict but batch norm's counters, which change nothing here."""
    return {key: tensor.shape for key, tensor in module.state_dict().items() if not key.endswith("num_batches_tracked")}


def match_backbone(own: dict[str, torch.Size], state: State) -> tuple[State, set[str]]:
    """Return (`state` under the names that fit best, the names of which shapes fit too)."""
    best, most = {}, set()
    for renamed in read_as_backbone(state):
        matrices = {key: tensor[:, :, None, None] if tensor.dim() == 2 and len(own.get(key, ())) == 4 else tensor
                    for key, tensor in renamed.items()}  # the published Xception has 1x1 convolutions as matrices
        fit = {key for key, shape in own.items() if key in matrices and matrices[key].shape == shape}
        if len(fit) > len(most) or not best:
            best, most = matrices, fit
    return best, most


def name_backbone(state: State) -> str | None:
    """Return the backbone that the tensors are of, the largest that fits; None if they are of no known one."""
    fits = {}
    for name, build in BACKBONES.items():
        with torch.device("meta"):
            own = list_shapes(build(output_stride=4 if "hrnet" in name else 16))
        if (count := len(match_backbone(own, state)[1])) >= LEAST_FIT * len(own):
            fits[name] = count
    return max(fits, key=fits.get, default=None)


def _describe_misfits(own: dict[str, torch.Size], found: State) -> str:
    missing = [key for key in own if key not in found]
    reshaped = [f"{key} {format_shape(found[key])} instead of {'x'.join(map(str, own[key]))}"
                for key in own if key in found and found[key].shape != own[key]]
    parts = [f"{kind} {_join(keys)}" for kind, keys in (("missing", missing), ("another shape", reshaped)) if keys]
    return "; ".join(parts)


def _join(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def format_shape(tensor: Tensor) -> str:
    """Return 64x3x7x7."""
    return "x".join(map(str, tensor.shape)) or "scalar"
