"""Reading images and masks; every failure is a UserError that names the file, in one line."""
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors

from utils.errors import UserError

from .names import shown

# What a file may be inside, whatever its suffix says. Not all that PIL knows: for EPS it starts another program.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
MASK_MODES = ("P", "L", "1", "I", "I;16", "I;16B")
STRETCHED = {"L;2": 85, "L;4": 17}  # PIL stretches gray levels of 2 and 4 bits to 0..255
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # what sets a picture of this EXIF orientation upright
REMEDIES = {PermissionError: "make it readable", IsADirectoryError: "put the file in its place",
            Image.DecompressionBombError: "scale it down"}
# PIL remarks on odd but readable files (EXIF, transparency, size), once for each image and worker.
warnings.filterwarnings("ignore", module=r"PIL\.")


class _UnfitError(Exception):
    """A sound file that can't be used: reason, remedy."""


def read_image(path: Path, *, upright: bool = False) -> tv_tensors.Image:
    """Read an image as RGB, uint8 [3, H, W]: alpha is dropped, 16 bits become the higher 8.

    EXIF orientation is applied only with `upright`: masks are usually drawn on the pixels as they are stored.
    Raises UserError.
    """
    def decode(file):
        image = _rgb(file)
        turn = TURNS.get(_orientation(file)) if upright else None
        return tv_tensors.Image(image if turn is None else image.transpose(turn))

    return _read(path, decode)


def read_mask(path: Path) -> tv_tensors.Mask:
    """Read a mask's class indices [H, W]: those of the palette or the gray levels, not colours. Raises UserError."""
    return _read(path, _indices)


def image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) from the header only. Raises UserError."""
    return _read(path, lambda file: file.size)


def orientation(path: Path) -> int:
    """Read the EXIF orientation, 1 to 8, of an image as read_image gives it; 1 where there is none or a corrupt one.

    Raises UserError.
    """
    return _read(path, _orientation)


def read_bytes(path: Path) -> bytes:
    """Read a whole file. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _named(path, error) from error


def _read(path, decode):
    try:
        with Image.open(path, formats=FORMATS) as file:
            return decode(file)
    except Exception as error:  # on damaged files PIL raises nearly everything: struct.error, KeyError, TypeError, ...
        raise _named(path, error) from error


def _named(path, error) -> UserError:
    if isinstance(error, _UnfitError):
        reason, remedy = error.args
        return UserError(f"Can't use {shown(path)} ({reason}): {remedy}.")
    if isinstance(error, FileNotFoundError):
        link = f" (a link to {shown(os.readlink(path))}, which isn't there)" if Path(path).is_symlink() else ""
        return UserError(f"Missing file {shown(path)}{link}: unpack the data set again, or correct --data_root.")
    remedy = next((REMEDIES[kind] for kind in REMEDIES if isinstance(error, kind)), "replace the damaged file")
    return UserError(f"Can't read {shown(path)} ({_reason(error)}): {remedy}.")


def _reason(error) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image, or its header is damaged"
    text = getattr(error, "strerror", None) or str(error)
    return shown(" ".join(text.split())) or type(error).__name__


def _rgb(file):
    if file.mode == "F":
        raise _UnfitError("mode F, whose range of brightness nobody knows", "save it with 8 or 16 bits a channel")
    if not file.mode.startswith("I"):
        return file.convert("RGB")
    gray = np.asarray(file)  # [H, W], of 16 bits; convert("RGB") would clip them at 255
    if gray.min() < 0 or gray.max() > 0xFFFF:
        raise _UnfitError(f"gray levels {gray.min()} to {gray.max()}", "save it with 8 or 16 bits a channel")
    return Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")


def _orientation(file) -> int:
    if file.format == "TIFF":
        return 1  # PIL has turned it
    try:
        found = file.getexif().get(0x0112)
    except Exception:  # EXIF is decoded by hand in PIL; what is corrupt raises nearly everything
        return 1
    return found if found in TURNS else 1


def _indices(file):
    remedy = "save the class indices as palette or gray PNG"
    if file.format in LOSSY:
        raise _UnfitError(f"{file.format}, which blurs labels", remedy)
    if file.mode not in MASK_MODES:
        raise _UnfitError(f"mode {file.mode}, but a mask holds class indices, not colours", remedy)
    if (frames := getattr(file, "n_frames", 1)) > 1:
        raise _UnfitError(f"{frames} pictures in one file", "save the right one alone")
    stretch = STRETCHED.get(file.tile[0].args, 1) if file.format == "PNG" else 1  # known until the pixels are loaded
    indices = np.array(file) // stretch
    # uint8 stays as it is, which the transforms resize and pad fastest
    return tv_tensors.Mask(torch.from_numpy(indices if indices.dtype == np.uint8 else indices.astype(np.int64)))
