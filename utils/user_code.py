"""A function in a file of the user's, named `path/to/file.py:function`; running it is the user's decision alone."""
import hashlib
import re
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from utils.errors import UserError


def is_code(name) -> bool:
    """Return whether `name` names a function in a file, rather than something of this program."""
    return isinstance(name, str) and ":" in name


def split_name(name: str) -> tuple[Path, str]:
    """Return (the file, the function)."""
    path, _, function = name.rpartition(":")
    return Path(path).expanduser(), function


def make_label(name: str) -> str:
    """Return `name` for file names: net.build for path/to/net.py:build; other names as they are."""
    if not is_code(name):
        return name
    path, function = split_name(name)
    return re.sub(r"[^\w.-]", "-", f"{path.stem}.{function}")


def hash_file(name: str) -> str:
    """Return a hash of the file's content."""
    return hashlib.sha256(split_name(name)[0].read_bytes()).hexdigest()[:16]


def load_function(name: str) -> Callable:
    """Run the file and return the function. It may import other files of its folder; ours of the same name win.

    Raises UserError, naming the line, if the file can't be run or has no such function.
    """
    path, function = split_name(name)
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    spec = spec_from_file_location(f"user_code_{path.stem}", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does; dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} can't be run: {describe_error(error)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
                 and getattr(value, "__module__", None) == spec.name]
        raise UserError(f"{path} has no function {function}" + (f": choose from {', '.join(names)}" if names else ""))
    return found


def describe_error(error: Exception) -> str:
    """Return the error's type, the first line of its message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    message = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {message[0][:300]}{place}"
