"""A pretended Apple GPU: tensors that say they are on mps, are computed on the CPU and refuse float64, as mps does.

The code under test sees mps in `tensor.device`; torch's C++ parts see the CPU, so that autograd runs.
"""
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

MPS, CPU = torch.device("mps"), torch.device("cpu")


class OnMps(torch.Tensor):
    """A tensor `own` of the CPU that says it is on mps."""

    @staticmethod
    def __new__(cls, own):
        return torch.Tensor._make_wrapper_subclass(cls, own.shape, strides=own.stride(), dtype=own.dtype,
                                                   storage_offset=own.storage_offset())

    def __init__(self, own):
        if own.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        self.own = own

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return MPS

    def cpu(self, *_, **__):
        return self.own.detach().clone()

    def to(self, *args, **kwargs):
        like = [args[0].device] if args and isinstance(args[0], torch.Tensor) else []
        named = [torch.device(value) for value in (*args, *kwargs.values()) if isinstance(value, (str, torch.device))]
        if any(device.type == "cpu" for device in like + named):
            return self.own.detach().to(*args, **kwargs)
        if like:
            args = (args[0].dtype, *args[1:])
        dtype = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)), self.dtype)
        return super().to(dtype, memory_format=kwargs.get("memory_format"))

    def tolist(self):
        return self.own.tolist()

    def data_ptr(self):
        return self.own.data_ptr()

    def __reduce_ex__(self, protocol):
        return self.own.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copied = OnMps(self.own.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __repr__(self, **_):
        return f"OnMps({self.own!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operator on the CPU; its results are on mps if an input is or `device` says so."""
    flat, _ = tree_flatten((args, kwargs))
    ours = [value for value in flat if isinstance(value, OnMps)]
    device = kwargs.get("device")
    place = torch.device(device) if device is not None else MPS if ours else CPU
    theirs = [value for value in flat if isinstance(value, torch.Tensor) and not isinstance(value, OnMps)]
    if ours and device is None and func not in MAY_MIX and any(value.dim() for value in theirs):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cpu and mps")
    known = {id(value.own): value for value in ours}
    unwrapped = tree_map(lambda value: value.own if isinstance(value, OnMps) else value, (args, kwargs))
    if unwrapped[1].get("device") is not None:
        unwrapped[1]["device"] = CPU
    result = func(*unwrapped[0], **unwrapped[1])

    def wrap(value):
        if not isinstance(value, torch.Tensor) or place.type == "cpu":
            return value
        return known.get(id(value)) if id(value) in known else OnMps(value)

    return tree_map(wrap, result)


ATEN = torch.ops.aten
MAY_MIX = {ATEN.copy_.default, ATEN.index.Tensor, ATEN.index_put_.default, ATEN._index_put_impl_.default}


class PretendedMps(TorchFunctionMode):
    """A context in which device="mps" works."""

    def __enter__(self):
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # as from CPU to mps, which differ in C++
        return super().__enter__()

    def __exit__(self, *error):
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], OnMps) and not isinstance(args[0], OnMps):
            return OnMps(args[0].detach().to(args[1].dtype))
        named = [value for value in (*args, *kwargs.values()) if is_mps(value)]
        if not named or any(isinstance(value, OnMps) for value in args):
            return func(*args, **kwargs)
        result = func(*(CPU if is_mps(value) else value for value in args),
                      **{name: CPU if is_mps(value) else value for name, value in kwargs.items()})
        if not isinstance(result, torch.Tensor):  # torch.device("mps") itself
            return func(*args, **kwargs)
        return OnMps(result.detach()).requires_grad_(result.requires_grad)


def is_mps(value) -> bool:
    """Whether an argument names the device."""
    return value == "mps" if isinstance(value, str) else isinstance(value, torch.device) and value.type == "mps"
