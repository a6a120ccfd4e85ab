"""One file that a command writes: completely or not at all, and never over a file that another program wrote."""
import mmap
import os
from pathlib import Path

from utils.errors import UserError
from utils.files import write_together


def check_output(path: Path, *, flag: str, mark: bytes, overwrite: bool):
    """Raise UserError if the file can't be written: its place, or a file there.

    mark: bytes that are in every file of the command and in no other. A file without it is never replaced, and one
    with it only if overwrite.
    """
    if os.path.isdir(path):
        raise UserError(f"{flag} {path} is a folder: name a file in it")
    if os.path.lexists(path):
        if not _contains(path, mark):
            raise UserError(f"{flag} {path} is there, and this command didn't write it: choose another {flag}")
        if not overwrite:
            raise UserError(f"{flag} {path} is there from an earlier call: give --overwrite to replace it, or another "
                            f"{flag}")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {path}: {folder} is not a folder that can be written: choose another {flag}")


def write_output(path: Path, content: bytes, *, flag: str, mark: bytes, overwrite: bool):
    """Check again, as time has passed, then write the file and the folders above it at once. Raises UserError."""
    check_output(path, flag=flag, mark=mark, overwrite=overwrite)
    with write_together(path.absolute().parent) as part:
        (part / path.name).write_bytes(content)


def _contains(path: Path, mark: bytes) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(mark) >= 0
    except (OSError, ValueError):  # can't be read; empty
        return False
