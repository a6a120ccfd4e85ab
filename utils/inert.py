"""Stand-ins for the names in foreign checkpoints that are not tensors: plain values come out, and nothing is called.

torch.load(weights_only=True) reads only what it knows. Files of other programs also hold NumPy values, paths and
argparse's Namespace. Their own classes accept any state: numpy.dtype and numpy.ndarray even one that reads invalid
memory. So each allowed name stands for a function or class of this file, which checks what it is given.
"""
import math
import pickle
from collections import OrderedDict

import torch

# NumPy's code of a type -> torch's. A scalar of another type but text, such as a date, becomes None.
NUMBERS = {
    "b1": torch.uint8, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "u8": torch.uint64,
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "c8": torch.complex64, "c16": torch.complex128,
}
TEXT = {"U": "utf-32", "S": "latin-1"}
UNUSED = ("M8", "m8", "f16", "c32")  # dates, durations, long doubles


class Unused:
    """Something that no program needs to use the weights: it takes any arguments and state, and keeps none."""

    __slots__ = ()

    def __new__(cls, *_):
        """Return an empty object."""
        return super().__new__(cls)

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


class _Dtype:
    """Stands for numpy.dtype: the code of a type and its byte order."""

    __slots__ = ("code", "big_endian")

    def __init__(self, code, *_):
        if not isinstance(code, str) or not (code in NUMBERS or code in UNUSED or code[:1] in TEXT or code[:1] == "O"):
            raise pickle.UnpicklingError(f"a numpy type that is not a number or text: {str(code)[:20]!r}")
        self.code, self.big_endian = code, False

    def __setstate__(self, state):
        _, order, *described = state[:5]  # version, byte order, subarray, names, fields
        if any(value is not None for value in described) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a numpy type with fields")
        self.big_endian = order == ">"

    def decode(self, content: bytes, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return the numbers as a tensor, or None for what is not a number; UnpicklingError for a wrong length."""
        if self.code not in NUMBERS:
            return None
        dtype = NUMBERS[self.code]
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"a numpy value of another length than {self.code} has")
        if not content:
            return torch.empty(shape, dtype=dtype)
        if self.big_endian:
            part = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
            pieces = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, part)
            content = pieces.flip(1).contiguous().numpy().tobytes()
        values = torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
        return values.bool() if self.code == "b1" else values


def _make_scalar(dtype, content=None):
    """Stand for numpy's scalar(): return a Python number or text."""
    if not isinstance(dtype, _Dtype) or dtype.code[:1] == "O":
        raise pickle.UnpicklingError("a numpy scalar that is an object")
    if encoding := TEXT.get(dtype.code[:1]):
        encoding += {"utf-32": "-be" if dtype.big_endian else "-le"}.get(encoding, "")
        return content.decode(encoding).rstrip("\0")
    number = dtype.decode(content, ())
    return None if number is None else number.item()


class _Array:
    """Stands for numpy.ndarray until replace_arrays(); `tensor` is None for text and objects."""

    __slots__ = ("tensor",)

    def __new__(cls, *_):
        """Return an array of nothing, whose state follows."""
        array = super().__new__(cls)
        array.tensor = None
        return array

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not all(type(size) is int and size >= 0 for size in shape):
            raise pickle.UnpicklingError("a numpy array of no known type or shape")
        if fortran:
            transposed = dtype.decode(content, tuple(shape[::-1]))
            self.tensor = None if transposed is None else transposed.permute(*reversed(range(len(shape)))).contiguous()
        else:
            self.tensor = dtype.decode(content, tuple(shape))


def _make_array(*_) -> _Array:
    """Stand for numpy's _reconstruct(), which makes an empty array."""
    return _Array()


def _make_path(*parts) -> str:
    """Stand for pathlib's classes: return the path as text."""
    if not all(isinstance(part, str) for part in parts):
        raise pickle.UnpicklingError("a path that is not text")
    return "/".join(parts).replace("//", "/")


def _make_no_bytes(*_) -> bytes:
    """Stand for bytes(), which the file of an empty array calls."""
    return b""


def _make_dict(*_) -> OrderedDict:
    """Stand for defaultdict, without its factory."""
    return OrderedDict()


def _list_allowed() -> list[tuple]:
    """Return (stand-in, name) for every name that torch.load() may meet besides its own."""
    numpy = [(stand_in, f"numpy.{module}.multiarray.{name}") for module in ("core", "_core")  # numpy 1 and 2
             for stand_in, name in ((_make_scalar, "scalar"), (_make_array, "_reconstruct"))]
    paths = [(_make_path, f"{module}.{name}") for module in ("pathlib", "pathlib._local")  # Python 3.13 has the second
             for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")]
    unused = [(Unused, name) for name in (
        "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.date", "datetime.timedelta",
        "builtins.list", "builtins.int", "builtins.dict", "builtins.float")]  # the last four: defaultdict's factories
    return [*numpy, (_Array, "numpy.ndarray"), (_Dtype, "numpy.dtype"), *paths, *unused,
            (_make_dict, "collections.defaultdict"), (_make_no_bytes, "builtins.bytes")]


ALLOWED = _list_allowed()


def replace_arrays(content):
    """Return `content` with tensors for NumPy arrays in its dicts and lists, without dict entries that are unused."""
    if isinstance(content, _Array):
        return content.tensor
    waiting, seen = [content], set()
    while waiting:  # without recursion, as a stranger's file may be nested deeply
        holder = waiting.pop()
        if id(holder) in seen or type(holder) not in (dict, OrderedDict, list):
            continue
        seen.add(id(holder))
        if isinstance(holder, list):
            holder[:] = [value.tensor if isinstance(value, _Array) else value for value in holder]
            waiting += holder
            continue
        for key, value in list(dict.items(holder)):
            if isinstance(value, _Array):
                dict.__setitem__(holder, key, value.tensor)
            elif isinstance(value, Unused | _Dtype):
                type(holder).__delitem__(holder, key)  # OrderedDict's own keeps its order
        waiting += list(dict.values(holder))
    return content
