"""Read image names from lists and folders, and format them for messages."""
import unicodedata
from pathlib import Path

from utils.errors import UserError
from utils.text import escape_unprintable

# Of the formats that datasets.files reads, in lower case.
SUFFIXES = frozenset((".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp",
                      ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".avif",
                      ".avifs"))

def to_one_line(path) -> str:
    """Return a path or name for a message, on one line whatever characters it has."""
    return escape_unprintable(str(path), keep="")


def read_names(path: Path) -> list[str]:
    """Return the names in a list, one per line; blank lines, outer spaces, CRLF and a byte order mark are ignored.

    Raises UserError if the list is not UTF-8 text or a name is a path.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"Can't read the list {to_one_line(path)} ({reason}): unpack the data set again.") from error
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        # A path could lead outside the data set; control characters show that this is a binary file.
        if Path(name).name != name or name == ".." or "\\" in name or any(ord(c) < 32 for c in name):
            raise UserError(f'The list {to_one_line(path)} has the line "{to_one_line(name)[:80]}": write one name per '
                            "line, without folder and suffix.")
    return names


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder by their suffix, sorted by name, without hidden files. Raises UserError."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"Can't read the folder {to_one_line(folder)} ({error.strerror}): make it readable.") from error


def find_unicode_variant(path: Path) -> Path:
    """Return the path or, if only that exists, the same name in another Unicode form (macOS writes NFD)."""
    if not path.name.isascii() and not path.exists():
        for form in ("NFC", "NFD"):
            if (other := path.with_name(unicodedata.normalize(form, path.name))).exists():
                return other
    return path
