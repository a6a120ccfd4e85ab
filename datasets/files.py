"""Read images and masks; every failure is a UserError that names the file in one line."""
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors

from utils.errors import UserError

from .image_lists import to_one_line

# Accepted formats, whatever the suffix. Not all that PIL reads: for EPS it starts another program.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
MASK_MODES = ("P", "L", "1", "I", "I;16", "I;16B")
COLOUR_MODES = ("RGB", "RGBA")
GRAY_STRETCH = {"L;2": 85, "L;4": 17}  # PIL stretches gray levels of 2 and 4 bits to 0..255
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # EXIF orientation -> operation that sets the image upright
REMEDIES = {PermissionError: "make it readable", IsADirectoryError: "replace the folder by the file",
            Image.DecompressionBombError: "scale it down"}
# PIL warns about odd but readable files (EXIF, transparency, size), once for each image and worker.
warnings.filterwarnings("ignore", module=r"PIL\.")


class _UnusableError(Exception):
    """A readable file that cannot be used; args are (reason, remedy)."""


def read_image(path: Path, *, upright: bool = False) -> tv_tensors.Image:
    """Return an image as RGB, uint8 [3, H, W]; alpha is dropped and of 16 bits the higher 8 are kept.

    The EXIF orientation is applied only with `upright`, because masks are usually drawn on the pixels as stored.
    Raises UserError.
    """
    def decode(file):
        image = _to_rgb(file)
        turn = TURNS.get(_exif_orientation(file)) if upright else None
        return tv_tensors.Image(image if turn is None else image.transpose(turn))

    return _read(path, decode)


def read_mask(path: Path, colours: dict | None = None) -> tv_tensors.Mask:
    """Return a mask's class indices [H, W]: palette indices or gray levels; with `colours`, colours too.

    colours: {(red, green, blue): label}. Raises UserError, also for a colour that is not in it.
    """
    return _read(path, lambda file: _to_indices(file, colours or {}))


def is_in_colours(path: Path) -> bool:
    """Return whether a mask holds colours rather than indices, by its header. Raises UserError."""
    return _read(path, lambda file: file.mode in COLOUR_MODES)


def read_palette(path: Path) -> list[tuple[int, int, int]]:
    """Return the colours of a palette image, by index; [] for other images. Raises UserError."""
    def decode(file):
        levels = file.getpalette("RGB") if file.mode == "P" else []
        return list(zip(levels[::3], levels[1::3], levels[2::3], strict=True))

    return _read(path, decode)


def read_image_size(path: Path) -> tuple[int, int]:
    """Return (width, height), read from the header only. Raises UserError."""
    return _read(path, lambda file: file.size)


def have_one_size(paths) -> bool:
    """Return whether all these images have one size, read from the headers up to the first other one."""
    sizes = map(read_image_size, paths)
    first = next(sizes, None)
    return all(size == first for size in sizes)


def read_orientation(path: Path) -> int:
    """Return the EXIF orientation (1 to 8) that read_image leaves unapplied; 1 if it is missing or corrupt.

    Raises UserError.
    """
    return _read(path, _exif_orientation)


def read_bytes(path: Path, *, limit: int = -1) -> bytes:
    """Return the content of a file, at most its first `limit` bytes unless that is -1. Raises UserError."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise _to_user_error(path, error) from error


def _read(path, decode):
    try:
        with Image.open(path, formats=FORMATS) as file:
            return decode(file)
    except Exception as error:  # damaged files make PIL raise nearly anything: KeyError, struct.error, ...
        raise _to_user_error(path, error) from error


def _to_user_error(path, error) -> UserError:
    if isinstance(error, _UnusableError):
        reason, remedy = error.args
        return UserError(f"Can't use {to_one_line(path)} ({reason}): {remedy}.")
    if isinstance(error, FileNotFoundError):
        link = f" (a link to {to_one_line(os.readlink(path))}, which does not exist)" if Path(path).is_symlink() else ""
        return UserError(f"Missing file {to_one_line(path)}{link}: unpack the data set again or correct --data_root.")
    remedy = next((REMEDIES[kind] for kind in REMEDIES if isinstance(error, kind)), "replace the damaged file")
    return UserError(f"Can't read {to_one_line(path)} ({_describe_reason(error)}): {remedy}.")


def _describe_reason(error) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or its header is damaged"
    text = getattr(error, "strerror", None) or str(error)
    return to_one_line(" ".join(text.split())) or type(error).__name__


def _to_rgb(file):
    if file.mode == "F":
        raise _UnusableError("mode F, whose brightness range is unknown", "save it with 8 or 16 bits a channel")
    if not file.mode.startswith("I"):
        return file.convert("RGB")
    gray = np.asarray(file)  # [H, W], 16 bits; convert("RGB") would clip them at 255
    if gray.min() < 0 or gray.max() > 0xFFFF:
        raise _UnusableError(f"gray levels {gray.min()} to {gray.max()}", "save it with 8 or 16 bits a channel")
    return Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")


def _exif_orientation(file) -> int:
    if file.format == "TIFF":
        return 1  # PIL has applied it
    try:
        found = file.getexif().get(0x0112)
    except Exception:  # corrupt EXIF makes PIL raise nearly anything
        return 1
    return found if found in TURNS else 1


def _to_indices(file, colours: dict):
    remedy = "save the class indices as palette or gray PNG"
    if file.format in LOSSY:
        raise _UnusableError(f"{file.format}, which blurs labels", remedy)
    if file.mode not in MASK_MODES and not (colours and file.mode in COLOUR_MODES):
        raise _UnusableError(f"mode {file.mode}, but a mask holds class indices, not colours", remedy)
    if (frames := getattr(file, "n_frames", 1)) > 1:
        raise _UnusableError(f"{frames} pictures in one file", "save only the right one")
    if file.mode in COLOUR_MODES:
        return tv_tensors.Mask(torch.from_numpy(_match_colours(np.asarray(file.convert("RGB")), colours)))
    stretch = GRAY_STRETCH.get(file.tile[0].args, 1) if file.format == "PNG" else 1  # lost when pixels load
    indices = np.array(file) // stretch
    # uint8 is kept because the transforms resize and pad it fastest
    return tv_tensors.Mask(torch.from_numpy(indices if indices.dtype == np.uint8 else indices.astype(np.int64)))


def _match_colours(pixels, colours: dict) -> np.ndarray:
    """Return the labels [H, W] of RGB pixels [H, W, 3]; of grey pixels whose level is no known colour, the level."""
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)  # [H, W]
    found, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
    known = {red << 16 | green << 8 | blue: label for (red, green, blue), label in colours.items()}
    unknown = [(count, code) for code, count in zip(found.tolist(), counts.tolist(), strict=True) if code not in known]
    if not unknown:
        labels = np.array([known[code] for code in found.tolist()])
    elif (found % 0x010101 == 0).all() and not known.keys() & {*found.tolist()} - {0}:  # indices, saved as RGB
        labels = found & 0xFF
    else:
        count, code = max(unknown)
        raise _UnusableError(f"{sum(count for count, _ in unknown)} of its pixels have colours that are no class's, "
                             f"such as {code >> 16} {code >> 8 & 0xFF} {code & 0xFF}", "correct the mask, save "
                             "class indices as palette or gray PNG, or name your colours (--dataset folder, "
                             "docs/data.md)")
    return labels.astype(np.uint8)[where].reshape(codes.shape)
