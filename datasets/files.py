"""Reading images, masks and lists of names; every failure is a UserError that names the file."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from utils.errors import UserError

MASK_MODES = ("P", "L", "1", "I", "I;16")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what PIL raises on bad files


def read_image(path: Path) -> tv_tensors.Image:
    """Read an image as RGB, uint8 [3, H, W].

    EXIF orientation isn't applied: masks are drawn on the pixels as they are stored.
    """
    return _read(path, lambda file: tv_tensors.Image(file.convert("RGB")))


def read_mask(path: Path) -> tv_tensors.Mask:
    """Read a mask's class indices [H, W]: those of the palette or the gray levels, not colours."""
    return _read(path, _indices)


def image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) from the header only."""
    return _read(path, lambda file: file.size)


def read_names(path: Path) -> list[str]:
    """Read one name a line; blank lines, spaces around a name, CRLF and a byte order mark don't count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Can't read the list {path} ({_one_line(error)}): unpack the data set again.") from error
    return [line.strip() for line in lines if line.strip()]


def images_in(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a folder, sorted by name; hidden files don't count."""
    suffixes = {".png", ".jpg", ".jpeg"}
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))


def _read(path, decode):
    try:
        with Image.open(path) as file:
            return decode(file)
    except FileNotFoundError as error:
        raise UserError(f"Missing file {path}: unpack the data set again, or correct --data_root.") from error
    except BROKEN as error:
        raise UserError(f"Can't read {path} ({_one_line(error)}): replace the damaged file.") from error


def _indices(file):
    if file.mode not in MASK_MODES:
        raise ValueError(f"mode {file.mode}, but a mask holds class indices as palette or gray PNG")
    indices = np.array(file)
    # uint8 stays as it is, which the transforms resize and pad fastest
    return tv_tensors.Mask(torch.from_numpy(indices if indices.dtype == np.uint8 else indices.astype(np.int64)))


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
