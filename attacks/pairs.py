"""Find the convolutions of any network whose only user is a batch norm, so that both are one convolution."""
import copy
from collections import Counter
from inspect import signature

from torch import Tensor, fx, nn
from torch.nn.modules import module as module_internals

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def has_hooks(network: nn.Module) -> bool:
    """Return whether a module of `network`, or torch for all modules, has hooks: they may know modules by identity."""
    return any(getattr(module_internals, name, None) for name in _GLOBAL_HOOKS) or any(
        getattr(module, name) for module in network.modules() for name in _HOOKS)


def is_plain(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Return whether `module` is exactly of one of `kinds`, with ordinary parameters and torch's own forward.

    A subclass, and so a parametrised layer, may compute anything.
    """
    return type(module) in kinds and "forward" not in vars(module) and all(
        type(value) in (Tensor, nn.Parameter) and value.device.type in ("cpu", "cuda")
        for value in [*module.parameters(), *module.buffers()])


def find_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Return the names (convolution, batch norm) of the pairs in `network`, which is in eval mode.

    A pair's convolution and norm are called once, in one module's forward, the norm on the convolution's output, which
    nothing else uses. Each forward is traced on its own, with the modules that it calls as leaves, so one that can't
    be traced (control flow that depends on images, optional arguments) only hides its own pairs. `network` isn't run:
    a copy that shares the parameters is traced, as a forward may store what it computes.
    """
    tensors = [*network.parameters(), *network.buffers()]
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    calls, pairs, last = Counter(), [], {}  # last: of a module, the one whose output it returns
    for name, module in twin.named_modules():
        if graph := _trace(module):
            prefix = name + "." if name else ""
            calls.update(prefix + str(node.target) for node in graph.nodes if node.op == "call_module")
            # A parameter or buffer that is read belongs to a layer that must keep it.
            calls.update(2 * [prefix + str(node.target).rpartition(".")[0]
                              for node in graph.nodes if node.op == "get_attr"])
            for source, user in _find_sole_users(graph):
                if user.op == "output":
                    last[name] = prefix + source.target
                else:
                    pairs.append((prefix + source.target, prefix + user.target))
    alone = _find_unshared(network)
    chains = [([*_follow(conv, last)], norm) for conv, norm in pairs]
    return [(chain[-1], norm) for chain, norm in chains
            if all(calls[name] == 1 and name in alone for name in [*chain, norm])
            and _can_fold(network.get_submodule(chain[-1]), network.get_submodule(norm))]


def _follow(name: str, last: dict[str, str]):
    """Yield a module, the one whose output it returns, and so on."""
    yield name
    if name in last:
        yield from _follow(last[name], last)


def _find_unshared(network: nn.Module) -> set[str]:
    """Return the names of the modules that have one place in the network, as have all their parameters and buffers."""
    modules = list(network.named_modules(remove_duplicate=False))
    places = Counter(id(module) for _, module in modules)
    owners = Counter(id(value) for _, module in modules for value in [
        *module.parameters(recurse=False), *module.buffers(recurse=False)])
    return {name for name, module in modules if places[id(module)] == 1 and all(
        owners[id(value)] == 1 for value in [*module.parameters(), *module.buffers()])}


class _OwnForward(fx.Tracer):
    """Traces one module's forward; the modules that it calls stay calls."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m, module_qualified_name):  # noqa: ARG002
        """Return True: every module has its own trace."""
        return True


def _trace(module: nn.Module) -> fx.Graph | None:
    if not list(module.children()):
        return None
    try:
        optional = any(value.default is not value.empty for value in signature(module.forward).parameters.values())
        return None if optional else _OwnForward().trace(module)
    except Exception:  # whatever a forward raises when it gets proxies instead of images
        return None


def _find_sole_users(graph: fx.Graph):
    """Yield (node, node) where a module's output goes, unchanged, to one other module or is returned, and no more."""
    for node in graph.nodes:
        source = node.args[0] if node.op in ("call_module", "output") and len(node.args) == 1 else None
        if isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1 and not node.kwargs:
            yield source, node


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    return (is_plain(conv, (nn.Conv2d,)) and is_plain(norm, _NORMS) and norm.running_mean is not None
            and not norm.training and conv.out_channels == norm.num_features)
