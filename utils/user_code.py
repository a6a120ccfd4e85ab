"""A function in a file of the user's, named `path/to/file.py:function`; running it is the user's decision alone."""
import hashlib
import re
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
OURS = ("attacks", "benchmarks", "datasets", "engine", "metrics", "network", "optim", "tests", "utils", "main.py",
        "predict.py", "export.py")  # a user's file may lie beside them


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


def hash_code(name: str) -> str:
    """Return a hash of the file and of the modules in its folder that are imported by now, installed ones left out."""
    path = split_name(name)[0].resolve()
    files = {path}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and _is_beside(file, path) and Path(file).is_file():
            files.add(Path(file).resolve())
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _is_beside(file: str, path: Path) -> bool:
    """Return whether `file` is in the folder of `path` or below it, and neither Python's, installed, nor ours."""
    file = Path(file).resolve()
    others = [Path(sys.base_prefix), Path(sys.prefix), *(ROOT / name for name in OURS)]
    return file.is_relative_to(path.resolve().parent) and not any(map(file.is_relative_to, others))


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
        raise UserError(f"{path} can't be run: {describe_error(error, path)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
                 and getattr(value, "__module__", None) == spec.name]
        raise UserError(f"{path} has no function {function}" + (f": choose from {', '.join(names)}" if names else ""))
    return found


def describe_error(error: Exception, path: Path) -> str:
    """Return the error's type, the first line of its message, and the last line of the user's that led to it.

    path: the user's file; the lines of others in its folder count too.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_beside(frame.filename, path)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    message = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {message[0][:300]}{place}"
