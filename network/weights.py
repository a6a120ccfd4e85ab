"""Load weights from a file into a network: all or none, with a clear reason if they don't fit."""
from torch import Tensor, nn

from network.backbone.resnet import ResNet
from network.backbone_weights import format_shape
from network.deeplab import DeepLab, DeepLabHead
from network.identify import describe, list_last_layer
from network.keys import State, strip_prefix
from utils.errors import UserError
from utils.logging import logger

MAX_KEYS_SHOWN = 3  # of each kind in a message
WRAPPERS = ("module.", "_orig_mod.")
OTHER_MODEL_FROM = 10  # with at least this many mismatched keys, assume another network rather than a damaged file
TORCHVISION_ASPP = "classifier.0.convs."  # prefix of the ASPP keys in torchvision's DeepLabV3, and of no key of ours


def load_weights(model: nn.Module, state_dict: State, *, source: str, new_head: bool = False) -> None:
    """Load a checkpoint's weights into the bare network `model`, strictly; with new_head all but the last layer.

    Accepts the keys of this project's networks, also with the prefixes of wrappers (`module.`, `model.` and others,
    nested), and those of torchvision's deeplabv3_resnet50 and deeplabv3_resnet101. Raises UserError, starting with
    `source` (the file's name) and saying why, for weights that don't fit; the model is then unchanged.
    """
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state_dict.items()):
        raise UserError(f"{source}: not a state_dict (a dict of tensors by name)")
    state = _strip_wrappers(model, state_dict, source)
    if isinstance(model, DeepLab) and any(key.startswith(TORCHVISION_ASPP) for key in state):
        state = _convert_torchvision(model, state, source)
    state = _add_batch_counts(model, state)
    last = list_last_layer(model.state_dict()) if new_head else []
    whole = {**state, **{key: model.state_dict()[key] for key in last}}
    _check_fit(model, whole, source, described=state)
    model.load_state_dict(whole)
    if new_head:
        theirs = f" instead of {len(state[last[-1]])}" if last[-1] in state else ""
        logger.info("--new_head: took %d tensors from %s; new, for %d classes%s: %s", len(whole) - len(last), source,
                    model.num_classes, theirs, " and ".join(last))


def _strip_wrappers(model: nn.Module, state: State, source: str) -> State:
    """Return the tensors without the prefixes of DataParallel and torch.compile, for the twelve of others too."""
    own = model.state_dict()  # a network of the user's own may have such a prefix itself
    while state and all(key.startswith(WRAPPERS) and key not in own for key in state):
        state = {key.partition(".")[2]: tensor for key, tensor in state.items()}
    return strip_prefix(state, source=source) if isinstance(model, DeepLab) else state


def _convert_torchvision(model: DeepLab, state: State, source: str) -> State:
    """Convert torchvision's keys to ours; raise UserError unless `model` is the same network."""
    if not (isinstance(model.backbone, ResNet) and isinstance(model.classifier, DeepLabHead)):
        raise UserError(
            f"{source}: torchvision's DeepLabV3 weights fit --model deeplabv3_resnet50 or deeplabv3_resnet101 only"
        )
    if model.output_stride != 8:
        raise UserError(
            f"{source}: torchvision's DeepLabV3 weights were trained with ASPP rates 12, 24, 36 and would give wrong "
            f"outputs at output stride {model.output_stride}: use --output_stride 8"
        )
    ours = {}
    for key, tensor in state.items():
        if not key.startswith("aux_classifier."):
            ours["classifier." + key if key.startswith("classifier.") else key] = tensor
    return ours


def _add_batch_counts(model: nn.Module, state: State) -> State:
    """Add batch norm's counters if an old file has none; their values have no effect here."""
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    return state if counters.keys() & state.keys() else counters | state


def _check_fit(model: nn.Module, state: State, source: str, *, described: State) -> None:
    """Raise UserError, in one line, unless `state` has the model's keys and shapes.

    described: the file's own tensors, for the likely reason.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    if not (missing or unexpected or reshaped):
        return
    shapes = [f"{key} {format_shape(state[key])} in the file, {format_shape(own[key])} in the model"
              for key in reshaped]
    theirs = {key: tensor for key, tensor in described.items() if not key.endswith("num_batches_tracked")}
    if isinstance(model, DeepLab):
        reason = _explain(own, theirs, missing + unexpected + reshaped)
    else:
        reason = describe(theirs) or ("" if missing or unexpected else _explain_outputs(own, state, reshaped))
    parts = [reason, _format_part("missing", missing),
             _format_part("unexpected", unexpected), _format_part("with another shape", shapes)]
    raise UserError(f"{source}: the weights don't fit the model: {'; '.join(part for part in parts if part)}")


def _format_part(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = ", ..." if len(items) > MAX_KEYS_SHOWN else ""
    return f"{len(items)} {kind}: {', '.join(items[:MAX_KEYS_SHOWN])}{more}"


def _explain(own: State, state: State, mismatched: list[str]) -> str:
    """Return the likely reason for the mismatch, or an empty string."""
    last = list_last_layer(own)
    if set(mismatched) <= set(last) <= state.keys() and all(state[key].dim() == own[key].dim() for key in last):
        theirs, ours = len(state[last[-1]]), len(own[last[-1]])
        return (f"the file has {theirs} classes, the model {ours}: --dataset must be the one it was trained on, or "
                "train a new last layer with --new_head")
    separable = _is_separable(state)
    if separable != _is_separable(own) and not any(key.startswith("backbone.") for key in mismatched):
        made, remedy = ("with", "add") if separable else ("without", "omit")
        found = describe(state)
        return f"the file was made {made} --separable_conv: {remedy} this flag{f' ({found})' if found else ''}"
    if found := describe(state):
        return found
    if len(mismatched) < OTHER_MODEL_FROM:
        return ""
    parts = list(dict.fromkeys(key.partition(".")[0] for key in state))[:MAX_KEYS_SHOWN]
    return f"none of the twelve networks of --model has these tensors ({', '.join(f'{part}.*' for part in parts)})"


def _explain_outputs(own: State, state: State, reshaped: list[str]) -> str:
    """Return the likely reason where a network of the user's own has layers of another number of outputs."""
    counts = {(len(state[key]), len(own[key])) for key in reshaped
              if state[key].dim() == own[key].dim() > 0 and state[key].shape[1:] == own[key].shape[1:]}
    if len(counts) != 1:
        return ""
    (theirs, ours), = counts
    return f"the file is for {theirs} outputs, perhaps classes, the model for {ours}: check --dataset and --num_classes"


def _is_separable(state: State) -> bool:
    return any(".body." in key for key in state)
