"""Names: those in a list, those in a folder, and how they appear in messages."""
import unicodedata
from pathlib import Path

from utils.errors import UserError
from utils.text import printable


def shown(path) -> str:
    """A path or name for a message: on one line, whatever characters it has."""
    return printable(str(path), keep="")


def read_names(path: Path) -> list[str]:
    """Read one name a line; blank lines, spaces around a name, CRLF and a byte order mark don't count.

    Raises UserError if the list can't be read as UTF-8, or if a name isn't one of a file but a path.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8 text"
        raise UserError(f"Can't read the list {shown(path)} ({reason}): unpack the data set again.") from error
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        # Nothing outside the data set is ever read; a name of lines from a binary file has control characters.
        if Path(name).name != name or name == ".." or "\\" in name or any(ord(c) < 32 for c in name):
            raise UserError(f'The list {shown(path)} has the line "{shown(name)[:80]}": give one name a line, without '
                            "folder and suffix.")
    return names


def images_in(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a folder, sorted by name; hidden files don't count."""
    suffixes = {".png", ".jpg", ".jpeg"}
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"Can't read the folder {shown(folder)} ({error.strerror}): make it readable.") from error


def existing(path: Path) -> Path:
    """The path, or the one there is whose name is the same text in another Unicode form, as macOS writes it."""
    if not path.name.isascii() and not path.exists():
        for form in ("NFC", "NFD"):
            if (other := path.with_name(unicodedata.normalize(form, path.name))).exists():
                return other
    return path
