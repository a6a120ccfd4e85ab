"""Load weights from a file into a network: all or none, with a clear reason if they don't fit."""
from torch import Tensor, nn

from network.backbone.resnet import ResNet
from network.deeplab import DeepLab, DeepLabHead
from utils.errors import UserError

State = dict[str, Tensor]
MAX_KEYS_SHOWN = 3  # per line of a message
OTHER_MODEL_FROM = 10  # with at least this many mismatched keys, assume another network rather than a damaged file
TORCHVISION_ASPP = "classifier.0."  # prefix of the ASPP keys in torchvision's DeepLabV3, and of no key of ours


def load_weights(model: nn.Module, state_dict: State, *, source: str) -> None:
    """Load a checkpoint's weights into the bare network `model`, strictly.

    Accepts the keys of this project's networks, also with the prefixes of DataParallel (`module.`) and torch.compile,
    and those of torchvision's deeplabv3_resnet50 and deeplabv3_resnet101. Raises UserError, starting with `source` (the
    file's name) and saying why, for weights that don't fit; the model is then unchanged.
    """
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state_dict.items()):
        raise UserError(f"{source}: not a state_dict (a dict of tensors by name)")
    own = model.state_dict()  # a network of the user's own may have such a prefix itself
    state = {key if key in own else key.removeprefix("module.").removeprefix("_orig_mod."): tensor
             for key, tensor in state_dict.items()}
    if isinstance(model, DeepLab) and any(key.startswith(TORCHVISION_ASPP) for key in state):
        state = _convert_torchvision(model, state, source)
    state = _add_batch_counts(model, state)
    _check_fit(model, state, source)
    model.load_state_dict(state)


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


def _add_batch_counts(model: DeepLab, state: State) -> State:
    """Add batch norm's counters if an old file has none; their values have no effect here."""
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    return state if counters.keys() & state.keys() else counters | state


def _check_fit(model: DeepLab, state: State, source: str) -> None:
    """Raise UserError, with a few lines, unless `state` has exactly the model's keys and shapes."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    if not (missing or unexpected or reshaped):
        return
    shapes = [f"{key} {_format_shape(state[key])} in the file, {_format_shape(own[key])} in the model"
              for key in reshaped]
    lines = [
        f"{source}: the weights don't fit the model",
        _format_line("missing", missing),
        _format_line("unexpected", unexpected),
        _format_line("with another shape", shapes),
        _explain(own, state, missing + unexpected + reshaped),
    ]
    raise UserError("\n".join(line for line in lines if line))


def _format_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _format_line(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = ", ..." if len(items) > MAX_KEYS_SHOWN else ""
    return f"  {len(items)} {kind}: {', '.join(items[:MAX_KEYS_SHOWN])}{more}"


def _explain(own: State, state: State, mismatched: list[str]) -> str:
    """Return the likely reason for the mismatch, or an empty string."""
    last_layer = list(own)[-2:]  # weight and bias of the 1x1 convolution to the classes
    if set(mismatched) <= set(last_layer) <= state.keys():
        theirs, ours = len(state[last_layer[-1]]), len(own[last_layer[-1]])
        return f"  the file has {theirs} classes, the model {ours}: --dataset must be the one it was trained on"
    separable = _is_separable(state)
    if separable != _is_separable(own) and not any(key.startswith("backbone.") for key in mismatched):
        made, remedy = ("with", "add") if separable else ("without", "omit")
        return f"  the file was made {made} --separable_conv: {remedy} this flag"
    if len(mismatched) >= OTHER_MODEL_FROM:
        return "  these look like the weights of another model: check --model"
    return ""


def _is_separable(state: State) -> bool:
    return any(".body." in key for key in state)
