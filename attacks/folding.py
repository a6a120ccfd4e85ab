"""A faster form of the network for the time of an attack: batch norms folded into convolutions, channels-last.

The form is another module tree; the network's own modules and tensors are not changed. It holds new modules only for
the layers that differ and for those around them, made in every call, and shares all else, so that attributes set
between two calls count. The new layers are kept as long as the network lives.
"""
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attacks.networks import Networks
from attacks.pairs import find_pairs, has_hooks, is_plain
from utils.logging import logger
from utils.memory import is_out_of_memory
from utils.wide import to_float64

TOLERANCE = 1e-5  # of the largest logit
CHECKED_SIDE = 65  # pixels of the image that a network is checked on: little, as weights change in training
_INTERNAL = vars(nn.Module()).keys() - {"training"}


@dataclass
class _Kept:
    """What is known of a network: see _structure and _values; the new layers by the id of those they replace."""

    structure: tuple
    pairs: list[tuple[str, str]]
    values: list | None = None
    layers: dict[int, nn.Module] = field(default_factory=dict)
    told: bool = False  # that the logits differ


_kept = WeakKeyDictionary()  # network -> _Kept, or None for one that stays as it is


def fold(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a form of `model` with the same logits up to rounding, or `model` itself where it can't be made faster.

    Call it in eval mode and with frozen parameters (utils.modes), each time before the form is used: it follows the
    model's weights, in-place changes through .data included. A model with hooks is returned as it is. images: [B, C, H,
    W] in [0, 1]. On a small image of noise, always the same, the logits of both are compared, once for these weights;
    so what is returned depends on nothing before, and a continued run goes on as it would have. If they differ by more
    than TOLERANCE, the model is returned, and for the first time one line is logged.
    """
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return _fold(model, _draw_like(images)) if len(images) and not scripted and not has_hooks(model) else model


def _draw_like(image: Tensor) -> Tensor:
    """Return noise [1, C, H, W] with sides of at most CHECKED_SIDE."""
    height, width = (min(side, CHECKED_SIDE) for side in image.shape[2:])
    coarse = torch.rand(1, image.shape[1], 8, 8, generator=torch.Generator().manual_seed(0)).to(image)
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def _fold(model: nn.Module, image: Tensor) -> nn.Module:
    if isinstance(model, Networks):
        return _rebuild(model, {id(network): _fold(network, image) for network in model.networks})
    if type(model) is nn.DataParallel or hasattr(model, "folds_inside"):
        # Wrappers are often made anew: what they hold is folded, unless they round.
        inner, = model.children()
        inside = getattr(model, "folds_inside", True)
        return _rebuild(model, {id(inner): _fold(inner, image)}) if inside else model
    try:
        return _rebuild(model, _layers(model, image))
    except Exception as error:  # a network that can't be copied, or whose modules aren't what they seem
        if is_out_of_memory(error):
            raise
        logger.info("The attacked network stays unfolded, which is slower: %s: %s", type(error).__name__, error)
        _kept[model] = None
        return model


def _layers(network: nn.Module, image: Tensor) -> dict[int, nn.Module]:
    """Return the new layers by the id of those that they replace."""
    kept = _kept.get(network, _Kept((), []))
    if kept is None:
        return {}
    if kept.structure != (structure := _structure(network)):
        kept = _kept[network] = _Kept(structure, find_pairs(network), told=kept.told)
    replaced = _find_replaced(network, kept.pairs)
    values = _values(replaced)
    if values != kept.values:
        layers = _make_layers(replaced)
        difference = _compare(network, _rebuild(network, layers), image) if layers else 0.0
        kept.values, kept.layers = values, layers if difference <= TOLERANCE else {}
        if layers and not kept.layers and not kept.told:
            kept.told = True
            logger.info("The attacked network stays unfolded, which is slower: its logits would change by %.1e of the "
                        "largest one", difference)
    return kept.layers


def _find_replaced(network: nn.Module, pairs) -> list[tuple[nn.Module, nn.Module | None]]:
    """Return each pair, and (convolution, None) for others whose weight is not channels-last."""
    found = [(network.get_submodule(conv), network.get_submodule(norm)) for conv, norm in pairs]
    paired = {id(conv) for conv, _ in found}
    return found + [(module, None) for module in network.modules() if id(module) not in paired
                    and is_plain(module, (nn.Conv2d,))
                    and not module.weight.is_contiguous(memory_format=torch.channels_last)]


def _make_layers(replaced) -> dict[int, nn.Module]:
    layers = {}
    with torch.no_grad():
        for conv, norm in replaced:
            if norm is None:
                new = _twin(conv)
                new._parameters = dict(conv._parameters)
                new.weight = nn.Parameter(conv.weight.detach())
            else:
                new = fuse_conv_bn_eval(conv, norm)
                layers[id(norm)] = _twin(norm)  # keeps its attributes, which a forward may read
                vars(layers[id(norm)])["forward"] = _pass_on
            layers[id(conv)] = new.to(memory_format=torch.channels_last).requires_grad_(False)
    return layers


def _pass_on(x: Tensor) -> Tensor:
    return x


def _twin(module: nn.Module) -> nn.Module:
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    return twin


def _rebuild(module: nn.Module, layers: dict[int, nn.Module]) -> nn.Module:
    """Return `module` with `layers` in it: itself where none of them is inside."""
    layers = dict(layers)  # gets every module: a shared one stays shared

    def build(old):
        if id(old) not in layers:
            children = {name: child if child is None else build(child) for name, child in old._modules.items()}
            same = all(child is old._modules[name] for name, child in children.items())
            layers[id(old)] = old if same else _twin(old)
            if not same:
                vars(layers[id(old)])["_modules"] = type(old._modules)(children)
        return layers[id(old)]

    return build(module)


def _compare(network: nn.Module, form: nn.Module, image: Tensor) -> float:
    """Return the largest difference between the outputs of both, as a share of the largest value of an output."""
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        outputs = zip(_run(network, image), _run(form, image), strict=True)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([to_float64((one - other).abs().max()) / to_float64(one.abs().max()).clamp_min(tiny)
                        for one, other in outputs]).max().item()


def _run(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the tensors of the network's output; random numbers that it draws are drawn again later."""
    devices = [image.device] if image.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices), torch.autocast(image.device.type, enabled=False):
        return list(_tensors(network(image.contiguous(memory_format=torch.channels_last))))


def _tensors(output):
    if isinstance(output, Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)


def _structure(network: nn.Module) -> tuple:
    """Return what decides which layers are pairs: modules, their classes and attributes, which may change a forward."""
    return tuple((name, id(module), type(module), *(
        (key, _describe(value)) for key, value in vars(module).items() if key not in _INTERNAL))
        for name, module in network.named_modules(remove_duplicate=False))


def _describe(value, depth: int = 3):
    if isinstance(value, bool | int | float | str | Tensor):
        return type(value) if isinstance(value, Tensor) else value
    if isinstance(value, list | tuple | dict) and depth:
        items = value.items() if isinstance(value, dict) else value
        return type(value), tuple(_describe(item, depth - 1) for item in items)
    return id(value)


def _values(replaced) -> list:
    """Return what changes with the weights; their sums too, as changes through .data leave the version."""
    tensors = [tensor for layers in replaced for layer in layers if layer is not None
               for tensor in [*layer.parameters(), *layer.buffers()] if tensor.is_floating_point()]
    sums = torch.stack([to_float64(tensor.detach().sum()) for tensor in tensors]).tolist() if tensors else []
    return [(id(tensor), tensor.data_ptr(), tensor._version, total)
            for tensor, total in zip(tensors, sums, strict=True)]
