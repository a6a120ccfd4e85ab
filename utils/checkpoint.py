"""Checkpoints: dicts of tensors and plain Python values, written whole or not at all, read without running code.

Keys are VainF's (cur_itrs, model_state, optimizer_state, scheduler_state, best_score) and more; `model_state` holds the
bare network's keys, without the wrapper's `module.`.
"""
import itertools
import os
import pickle
import re
import shutil
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from utils.errors import UserError

FORMAT = 2  # of what a checkpoint holds; 1 had neither random numbers' states nor the versions


class _Float64:
    """Stands in for numpy.dtype, which would take any state from a file: other types, fields, memory it hasn't."""

    __slots__ = ()

    def __init__(self, kind, *_):
        if kind != "f8":
            raise pickle.UnpicklingError(f"a numpy scalar that is no float64: {kind!r}")

    def __setstate__(self, state):
        if tuple(state[1:5]) != ("<", None, None, None):
            raise pickle.UnpicklingError("a float64 of another byte order, or with fields")


def _float(_, content: bytes) -> float:
    """Stands in for numpy's scalar()."""
    (value,) = struct.unpack("<d", content)
    return value


# All that VainF's and SAM_AT's own files need besides tensors: their best_score is a numpy.float64, the call of a
# function that moved between numpy 1 and 2 (a file names the one it was written with) on a dtype.
_ALLOWED = [
    (_float, "numpy.core.multiarray.scalar"),
    (_float, "numpy._core.multiarray.scalar"),
    (_Float64, "numpy.dtype"),
]


class WriteError(UserError):
    """A checkpoint that couldn't be written; the ones before are as they were."""


def save(path, checkpoint: dict, *, keep: int | None = None):
    """Write to a temporary file in the same folder, then rename it: whenever this ends, `path` is a whole checkpoint.

    keep: so many stay, this one included: what was there becomes previous(path, 1), that previous(path, 2), and so on;
    None replaces `path` alone. Raises WriteError where the disk is full or can't be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            _make_previous(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of the file's own error
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        with suppress(OSError):  # what is left there is no checkpoint, and the next one is written over it
            temporary.unlink(missing_ok=True)
        raise WriteError(f"{path} can't be written ({cause.strerror}): make room there, or choose another "
                         "--output_dir; the checkpoints from before are as they were") from None


def previous(path: Path, number: int) -> Path:
    """Where the checkpoint is that was `number` savings before the one at `path`: latest_x.pth -> previous1_x.pth."""
    return path.with_name(f"previous{number}_{path.name.removeprefix('latest_')}")


def earlier(path: Path) -> list[Path]:
    """The previous ones of `path` that are there, newest first."""
    pattern = re.compile(rf"previous(\d+)_{re.escape(path.name.removeprefix('latest_'))}")
    found = {int(match[1]): other for other in path.parent.iterdir() if (match := pattern.fullmatch(other.name))}
    return [found[number] for number in sorted(found)]


def _make_previous(path: Path, keep: int):
    """Number what is at `path` and before it; at no moment is `path` gone."""
    names = earlier(path)
    for number in range(len(names), 0, -1):  # the oldest first, so that none is written over
        if number + 1 < keep:
            os.replace(names[number - 1], previous(path, number + 1))
        else:
            names[number - 1].unlink()
    if keep > 1 and path.exists():
        try:
            os.link(path, previous(path, 1))
        except OSError:  # a file system without links
            os.replace(path, previous(path, 1))


def reinstate(good: Path, path: Path):
    """Put a second `good` in the place of the checkpoint `path`; what is damaged there is kept, see put_aside()."""
    temporary = path.with_name(path.name + ".tmp")
    if path.exists():
        _duplicate(path, _aside(path))
    _duplicate(good, temporary)
    os.replace(temporary, path)


def put_aside(path: Path):
    """Rename a damaged checkpoint to <name>.damaged, or .damaged1 and so on."""
    os.replace(path, _aside(path))


def _aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def _duplicate(path: Path, other: Path):
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


def load(path) -> dict:
    """Read a checkpoint or a bare state dict onto the CPU; `weights_only`, with the few names that older files need.

    Raises UserError where there is no such file, or where it is no checkpoint, holds anything but data, has other
    bytes than were written, or is of a later version of this program.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: name a checkpoint in it")
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}: check the path given to --ckpt")
    try:
        _check_bytes(path)
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_shadows(checkpoint)
    except Exception as error:  # a stranger's bytes: torch.load raises whatever its opcodes run into
        raise UserError(f"{path} can't be read as a checkpoint ({type(error).__name__}): it is damaged, or holds more "
                        "than tensors and plain values, such as a whole pickled model, which could run code") from None
    if not isinstance(checkpoint, dict) or not isinstance(model_state(checkpoint), dict):
        raise UserError(f"{path} is no checkpoint: expected a dict of weights, or one that holds it as model_state")
    version = checkpoint.get("format", 0)
    if "model_state" in checkpoint and isinstance(version, int) and version > FORMAT:
        raise UserError(f"{path} is of a later version of this program (format {version}, this one reads up to "
                        f"{FORMAT}): update the program")
    return checkpoint


def model_state(checkpoint: dict) -> dict:
    """The weights in `checkpoint`: its `model_state` (others write `state_dict` or `model`), else the whole of it."""
    for key in ("model_state", "state_dict", "model"):
        if key in checkpoint:
            return checkpoint[key]
    return checkpoint


def _refuse_shadows(checkpoint):
    """An OrderedDict can bring attributes from a file, such as one called items; torch's own is _metadata."""
    for found in (checkpoint, model_state(checkpoint) if isinstance(checkpoint, dict) else None):
        if getattr(found, "__dict__", {}).keys() - {"_metadata"}:
            raise pickle.UnpicklingError("a dict with attributes")


def _check_bytes(path):
    """Compare the checksums in the file; torch.load doesn't, and takes a zeroed page for weights."""
    if zipfile.is_zipfile(path):  # else of torch before 1.6, which had none
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > os.path.getsize(path):
                raise zipfile.BadZipFile("it unpacks to more than it is, which what torch writes never does")
            if wrong := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {wrong}")


def _sync_folder(folder: Path):
    """Wait until the disk knows the new names."""
    if hasattr(os, "O_DIRECTORY"):  # Windows has no such thing
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
