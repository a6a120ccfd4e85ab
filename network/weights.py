"""Weights from a file into a network: all of them or none, and a plain reason where they don't fit."""
from torch import Tensor

from network.backbone.resnet import ResNet
from network.deeplab import DeepLab, DeepLabHead
from utils.errors import UserError

State = dict[str, Tensor]
SHOWN = 3  # keys that a message names
SEVERAL = 10  # from so many disagreeing keys on, it's another network and not a damaged file
TORCHVISION = "classifier.0."  # where torchvision's DeepLabV3 has its ASPP, and none of ours has anything


def load_weights(model: DeepLab, state_dict: State, *, source: str) -> None:
    """Load a checkpoint's weights into the bare network `model`, strictly.

    Takes the keys of this project's networks (also from inside DataParallel: `module.`) and torchvision's
    deeplabv3_resnet50 and deeplabv3_resnet101. Weights that don't fit are a UserError, which starts with `source` (the
    file's name) and says why; the model is then unchanged.
    """
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state_dict.items()):
        raise UserError(f"{source}: not a state_dict, which holds tensors by name")
    # DataParallel's and torch.compile's wrappers
    state = {key.removeprefix("module.").removeprefix("_orig_mod."): tensor for key, tensor in state_dict.items()}
    if any(key.startswith(TORCHVISION) for key in state):
        state = _from_torchvision(model, state, source)
    state = _with_batch_counts(model, state)
    _check(model, state, source)
    model.load_state_dict(state)


def _from_torchvision(model: DeepLab, state: State, source: str) -> State:
    """Rename torchvision's keys to ours, if `model` is the same network as theirs."""
    if not (isinstance(model.backbone, ResNet) and isinstance(model.classifier, DeepLabHead)):
        raise UserError(
            f"{source}: torchvision's DeepLabV3 weights, for --model deeplabv3_resnet50 or deeplabv3_resnet101 only"
        )
    if model.output_stride != 8:
        raise UserError(
            f"{source}: torchvision's DeepLabV3 weights, made for ASPP rates 12, 24, 36: at output stride "
            f"{model.output_stride} they would load and give wrong outputs (--output_stride 8)"
        )
    ours = {}
    for key, tensor in state.items():
        if not key.startswith("aux_classifier."):
            ours["classifier." + key if key.startswith("classifier.") else key] = tensor
    return ours


def _with_batch_counts(model: DeepLab, state: State) -> State:
    """Add batch norm's counters to a file from before there were any; nothing here reads them."""
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    return state if counters.keys() & state.keys() else counters | state


def _check(model: DeepLab, state: State, source: str) -> None:
    """Raise a UserError of a few lines unless `state` has exactly the model's keys and shapes."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    if not (missing or unexpected or reshaped):
        return
    shapes = [f"{key} {_shape(state[key])} in the file, {_shape(own[key])} in the model" for key in reshaped]
    lines = [
        f"{source}: these weights don't fit the model",
        _line("missing", missing),
        _line("unexpected", unexpected),
        _line("of another shape", shapes),
        _reason(own, state, missing + unexpected + reshaped),
    ]
    raise UserError("\n".join(line for line in lines if line))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _line(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = ", ..." if len(items) > SHOWN else ""
    return f"  {len(items)} {kind}: {', '.join(items[:SHOWN])}{more}"


def _reason(own: State, state: State, disagreeing: list[str]) -> str:
    """Say in plain words why the keys disagree, where that can be told."""
    last_layer = list(own)[-2:]  # weight and bias of the 1x1 convolution to the classes
    if set(disagreeing) <= set(last_layer) <= state.keys():
        theirs, ours = len(state[last_layer[-1]]), len(own[last_layer[-1]])
        return f"  the file has {theirs} classes, the model {ours}: --dataset must be what it was made for"
    separable = _is_separable(state)
    if separable != _is_separable(own) and not any(key.startswith("backbone.") for key in disagreeing):
        return f"  the file was made {'with' if separable else 'without'} --separable_conv, the model the other way"
    if len(disagreeing) >= SEVERAL:
        return "  they look like the weights of another model: check --model"
    return ""


def _is_separable(state: State) -> bool:
    return any(".body." in key for key in state)
