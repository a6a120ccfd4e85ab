"""Find images by name in folders, read lists of them, and format names for messages."""
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.errors import UserError
from utils.logging import logger
from utils.text import count_of, escape_unprintable

# Of the formats in datasets/files.py, in lower case.
SUFFIXES = frozenset((".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".gif",
                      ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".avif",
                      ".avifs"))
TRIED = 20  # images whose masks' names show how masks are named
ENDING = re.compile(r"[\W_].*[^\W\d_]")  # of a mask's name, after its image's
FORMS = {"name": "names", "file": "file names", "path": "paths", "columns": "two columns"}


class Entry(NamedTuple):
    """A line of a list: an image, its name alone or a path, and the path of its mask if the line gives one."""

    image: PurePosixPath
    mask: PurePosixPath | None = None

    @property
    def stem(self) -> str:
        """Return the image's name without folder and suffix."""
        return self.image.stem if self.image.suffix.lower() in SUFFIXES else self.image.name


class ImageFolder:
    """The images of a folder, found by their stem whatever their suffix and Unicode form (macOS writes NFD).

    `absent` collects the paths that find() was asked for in vain.
    """

    def __init__(self, path: Path):
        self.path = path
        self.absent: set[Path] = set()
        self._found = defaultdict(list)
        for image in list_images(path) if path.is_dir() else ():
            self._found[image.stem].append(image)
        self._normalized = {unicodedata.normalize("NFC", stem): images for stem, images in self._found.items()}

    def find(self, *stems: str, suffix: str) -> Path:
        """Return the image of the first of these stems that has one, else the path with `suffix`, which is absent.

        Raises UserError if two images have the stem.
        """
        for stem in stems:
            images = self._found.get(stem) or self._normalized.get(unicodedata.normalize("NFC", stem))
            if images and len(images) > 1:
                raise UserError(f"{len(images)} images in {to_one_line(self.path)} have the name {to_one_line(stem)} "
                                f"({', '.join(to_one_line(image.name) for image in images)}): keep one of them.")
            if images:
                return images[0]
        missing = self.path / f"{stems[0]}{suffix}"
        self.absent.add(missing)
        return missing

    def pair(self, images: list[Path]) -> list[tuple[Path, Path]]:
        """Return (image, mask) of these images, where this folder has the masks: a.jpg has a.png, or a_mask.png.

        What follows the images' names is what it is for most of the first images, and is said. It begins with neither a
        letter nor a digit, and has a letter: 10.png and 1_2.png are no masks of 1.jpg. Raises UserError as find() does.
        """
        first, others = images[:TRIED], {image.stem for image in images}
        endings = Counter(stem.removeprefix(image.stem) for image in first for stem in self._found
                          if stem.startswith(image.stem) and (stem == image.stem or stem not in others))
        endings = {ending: number for ending, number in endings.items() if not ending or ENDING.match(ending)}
        usual = sorted(ending for ending, count in endings.items() if 2 * count > len(first))
        if len(usual) > 1 and usual[0]:
            raise UserError(f"The masks in {to_one_line(self.path)} have the names of their images with "
                            f"{' and with '.join(map(to_one_line, usual))}: keep one of them.")
        ending = usual[0] if usual else ""
        if ending:
            logger.info("The masks in %s have the names of their images and %s", to_one_line(self.path),
                        to_one_line(ending))
        return [(image, self.find(image.stem, f"{image.stem}{ending}", suffix=".png")) for image in images]

    def list_others(self, used: set[Path]) -> list[Path]:
        """Return the images of the folder that are not in `used`."""
        return [image for images in self._found.values() for image in images if image not in used]


class ImageFolders(dict):
    """ImageFolders by path, opened when they are first asked for."""

    def __missing__(self, path: Path) -> ImageFolder:
        return self.setdefault(path, ImageFolder(path))

    @property
    def absent(self) -> set[Path]:
        """Return all paths that were looked for in vain."""
        return set().union(*(folder.absent for folder in self.values()))


def to_one_line(path) -> str:
    """Return a path or name for a message, on one line whatever characters it has."""
    return escape_unprintable(str(path), keep="")


def read_list(path: Path) -> list[Entry]:
    """Return the entries of a list, one per line; blank lines, outer spaces, CRLF and a byte order mark are ignored.

    All lines have one form: a name, a file name, the path of an image (also with backslashes), or the paths of an image
    and its mask. A path is relative to the data set even if it begins with a slash, as in DeepLab's lists. Raises
    UserError if the list is not UTF-8 text, mixes forms, or a path has no suffix of an image or leads upwards.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"Can't read the list {to_one_line(path)} ({reason}): unpack the data set again.") from error
    parsed = {line: _parse_line(line) for line in map(str.strip, lines) if line}
    for line, (form, _) in parsed.items():
        if form is None:
            raise UserError(f'The list {to_one_line(path)} has the line "{to_one_line(line)[:80]}": write one name per '
                            "line, without folder and suffix.")
    forms = {form: line for line, (form, _) in parsed.items()}
    if len(forms) > 1:
        raise UserError(f"The list {to_one_line(path)} mixes {' and '.join(FORMS[form] for form in forms)}, such as "
                        f"{' and '.join(repr(to_one_line(line)[:80]) for line in forms.values())}: write all lines in "
                        "one form.")
    return [parsed[line][1] for line in map(str.strip, lines) if line]


def _parse_line(line: str) -> tuple[str | None, Entry | None]:
    """Return a line's form (None if it has none) and its Entry."""
    if any(ord(c) < 32 for c in line):  # control characters show that this is a binary file
        return None, None
    endings = "|".join(re.escape(suffix) for suffix in SUFFIXES)
    columns = re.fullmatch(rf"(\S.*?(?:{endings}))\s+(\S.*(?:{endings}))", line, re.IGNORECASE)
    paths = [PurePosixPath(text.replace("\\", "/").lstrip("/")) for text in (columns.groups() if columns else [line])]
    if any(".." in path.parts or not path.parts or re.match("[A-Za-z]:", str(path)) for path in paths):
        return None, None
    is_image = paths[0].suffix.lower() in SUFFIXES
    if columns:
        return "columns", Entry(*paths)
    if "/" in line or "\\" in line:
        return ("path", Entry(*paths)) if is_image else (None, None)
    return "file" if is_image else "name", Entry(PurePosixPath(line))


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder, by suffix, sorted by name, without hidden files. Raises UserError."""
    return sorted(path for path in _list_visible(folder) if path.suffix.lower() in SUFFIXES)


def describe_unused(folder: Path) -> str:
    """Return the files of a folder that list_images() leaves out, counted by suffix ("3 .txt, 1 .db"), or ""."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in _list_visible(folder)
                     if path.suffix.lower() not in SUFFIXES and path.is_file())
    return ", ".join(f"{count} {to_one_line(suffix)}" for suffix, count in counts.most_common())


def _list_visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"Can't read the folder {to_one_line(folder)} ({error.strerror}): make it readable.") from error


def log_unused(folder: Path):
    """Log how many files of a folder of images are not used, by suffix."""
    if counts := describe_unused(folder):
        logger.info("Not used in %s, as they are not images: %s", to_one_line(folder), counts)


def log_masks_without_image(masks: ImageFolder, pairs):
    """Log how many masks of a folder belong to none of the pairs (image, mask)."""
    if others := masks.list_others({mask for _, mask in pairs}):
        logger.info("%s in %s without an image, the first is %s", count_of(len(others), "mask"),
                    to_one_line(masks.path), to_one_line(others[0].name))
