"""Checkpoints: dicts of tensors and plain Python values, written completely or not at all, read without running code.

They have VainF's keys (cur_itrs, model_state, optimizer_state, scheduler_state, best_score) and more; `model_state`
holds the bare network's keys, without the wrapper's `module.`.
"""
import itertools
import os
import pickle
import re
import shutil
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from utils.errors import UserError
from utils.file_kinds import explain
from utils.inert import ALLOWED, replace_arrays

FORMAT = 2  # version of the keys; 1 had neither generator states nor versions
# Where programs have the weights: ours and many others; some others, if a dict is there.
KEYS = ("model_state", "state_dict", "model")
OTHER_KEYS = ("model_state_dict", "net", "network", "weights", "params", "model_ema", "ema")


class WriteError(UserError):
    """A checkpoint could not be written; earlier ones are unchanged."""


def save(path, checkpoint: dict, *, keep: int | None = None):
    """Write a temporary file in the same folder, then rename it, so that `path` is a complete checkpoint at any time.

    With `keep`, that many checkpoints are kept, this one included: the old one at `path` becomes previous(path, 1), the
    one before it previous(path, 2), and so on. With None, only `path` is replaced. Raises WriteError if the disk is
    full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            _shift_previous(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch turns the file's OSError into a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        with suppress(OSError):  # harmless if it stays: the next save overwrites it
            temporary.unlink(missing_ok=True)
        raise WriteError(f"{path} can't be written ({cause.strerror}): make room there or choose another "
                         "--output_dir. The earlier checkpoints are unchanged.") from None


def previous(path: Path, number: int) -> Path:
    """Return the path of the checkpoint saved `number` saves ago: latest_x.pth -> previous1_x.pth."""
    return path.with_name(f"previous{number}_{path.name.removeprefix('latest_')}")


def earlier(path: Path) -> list[Path]:
    """Return the previous checkpoints of `path` that exist, newest first."""
    pattern = re.compile(rf"previous(\d+)_{re.escape(path.name.removeprefix('latest_'))}")
    found = {int(match[1]): other for other in path.parent.iterdir() if (match := pattern.fullmatch(other.name))}
    return [found[number] for number in sorted(found)]


def _shift_previous(path: Path, keep: int):
    """Shift `path` and its previous checkpoints by one number; `path` never disappears if the disk supports links."""
    names = earlier(path)
    for number in range(len(names), 0, -1):  # oldest first, so that none is overwritten
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
    """Replace the damaged checkpoint `path` by a copy of `good`; the damaged one is kept, see put_aside()."""
    temporary = path.with_name(path.name + ".tmp")
    if path.exists():
        _link_or_copy(path, _find_free_name(path))
    _link_or_copy(good, temporary)
    os.replace(temporary, path)


def put_aside(path: Path):
    """Rename a damaged checkpoint to <name>.damaged, or .damaged1 and so on."""
    os.replace(path, _find_free_name(path))


def _find_free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def _link_or_copy(path: Path, other: Path):
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


def load(path, *, flag: str = "--ckpt") -> dict:
    """Return a checkpoint or a bare state dict, on the CPU; nothing in it is run (see utils/inert.py).

    Raises UserError if the file does not exist, is not a checkpoint, holds more than data, is damaged, or was written
    by a later version of this program. flag: the flag that named the path, for the message.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: give the path of a checkpoint in it")
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}: check the path given to {flag}")
    try:
        _check_checksums(path)
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the file's form; what can't be read raises
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_attributes(checkpoint)
        _refuse_more_than_there_is(checkpoint, path)
        checkpoint = replace_arrays(checkpoint)
    except Exception as error:  # on bad bytes, torch.load raises nearly any exception
        raise UserError(f"{path} can't be read as a checkpoint: {explain(path, error)}") from None
    if not isinstance(checkpoint, dict) or not isinstance(model_state(checkpoint), dict):
        raise UserError(f"{path} is not a checkpoint: expected a dict of weights or a dict with the key model_state")
    version = checkpoint.get("format", 0)
    if "model_state" in checkpoint and isinstance(version, int) and version > FORMAT:
        raise UserError(f"{path} was written by a later version of this program (format {version}; this one reads up "
                        f"to {FORMAT}): update the program")
    return checkpoint


def model_state(checkpoint: dict) -> dict:
    """Return the weights: model_state, or state_dict or model as other programs write it, else all of `checkpoint`."""
    found = next((checkpoint[key] for key in KEYS if key in checkpoint), checkpoint)
    for _ in range(3):  # a dict in a dict
        found = next((found[key] for key in (*KEYS, *OTHER_KEYS) if isinstance(found, dict)
                      and isinstance(found.get(key), dict)), found)
    return found


def _refuse_attributes(checkpoint):
    """Raise UnpicklingError if an OrderedDict has attributes, which could replace its methods; torch sets _metadata."""
    for found in (checkpoint, model_state(checkpoint) if isinstance(checkpoint, dict) else None):
        if getattr(found, "__dict__", {}).keys() - {"_metadata"}:
            raise pickle.UnpicklingError("a dict with attributes")


def _refuse_more_than_there_is(checkpoint, path):
    """Raise UnpicklingError if all tensors together claim more bytes than the file has.

    torch 2.6 to 2.9 would read beyond it; later ones compare each tensor with its own part of the file.
    """
    sizes, waiting, seen = {}, [checkpoint], set()
    while waiting:  # without recursion, as a stranger's file may be nested deeply
        value = waiting.pop()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += dict.values(value) if isinstance(value, dict) else value
    if sum(sizes.values()) > os.path.getsize(path):
        raise pickle.UnpicklingError("tensors of more bytes than the file has")


def _check_checksums(path):
    """Raise BadZipFile for wrong checksums; torch.load does not check them and would load a zeroed page as weights."""
    if zipfile.is_zipfile(path):  # torch before 1.6 wrote no zip and no checksums
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > os.path.getsize(path):
                raise zipfile.BadZipFile("it unpacks to more than its size, which torch's files never do")
            if wrong := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {wrong}")


def _sync_folder(folder: Path):
    """Wait until the new file names are on the disk."""
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
