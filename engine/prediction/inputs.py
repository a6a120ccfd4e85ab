"""Find the images that --input names, and their masks."""
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from datasets.files import read_image_size
from datasets.image_lists import SUFFIXES, ImageFolder, to_one_line
from utils.errors import UserError
from utils.files import name_folders
from utils.logging import logger

LIST_SUFFIX = ".txt"
LONGEST_PATH = 500  # characters of a missing path in messages: a list may hold any text
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class InputImage:
    """An image file and its name in the results, a relative path with suffix."""

    path: Path
    name: Path


def find_images(inputs: list[Path], *, is_own: Callable[[Path], bool]) -> list[InputImage]:
    """Return the images of files, folders (searched throughout) and lists, each file once; log what isn't used.

    A folder's tree is kept in the names, below the folder's own name if there are several; a list's tree from the
    folder that its images have in common. Hidden files and folders are left out of a search, and the files for which
    is_own is true: earlier results. Raises UserError if there are no images, or a list can't be read.
    """
    prefixes = _name_folders(list(filter(os.path.isdir, inputs)))
    found, unused = {}, Counter()
    for path in inputs:
        if os.path.isdir(path):
            images = _search(path, prefixes[path], is_own=is_own, unused=unused)
        elif path.suffix.lower() == LIST_SUFFIX:
            images = _read_list(path)
        else:
            images = [InputImage(path, Path(path.name))]
        for image in images:
            found.setdefault(os.path.abspath(image.path), image)
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(unused.items()))
    if not found:
        raise UserError(f"--input {to_one_line(' '.join(map(str, inputs)))}: contains no image that can be read by its "
                        f"suffix{f', only {left_out}' if left_out else ''}: name {', '.join(sorted(SUFFIXES))}")
    if unused:
        logger.info("Not used of the folders: %s", left_out)
    return list(found.values())


def read_sizes(images: list[InputImage]) -> tuple[dict[InputImage, Size], list[str]]:
    """Return ({image: (width, height) by its header}, a line for each image whose header can't be read)."""
    sizes, problems = {}, []
    for image in images:
        try:
            if not os.path.isfile(image.path):
                there = "not a file, or a broken link" if os.path.lexists(image.path) else "no such file"
                shown = to_one_line(image.path)
                shown = shown if len(shown) <= LONGEST_PATH else f"{shown[:LONGEST_PATH]}..."
                raise UserError(f"Can't read {shown} ({there}): correct the list or the folder.")
            sizes[image] = read_image_size(image.path)
        except UserError as problem:
            problems.append(str(problem))
    return sizes, problems


def find_masks(images: Collection[InputImage], folder: Path) -> dict[InputImage, Path]:
    """Return each image's mask, in the same place of the tree `folder`, named as the masks of a data set may be.

    Raises UserError unless each image has exactly one.
    """
    masks, missing, places = {}, [], defaultdict(list)
    for image in images:
        places[folder / image.name.parent].append(image)
    for place, group in places.items():
        found = ImageFolder(place)
        pairs = found.pair([Path(image.name) for image in group])
        masks |= {image: mask for image, (_, mask) in zip(group, pairs, strict=True)}
        missing += [to_one_line(image.name) for image in group if masks[image] in found.absent]
    if missing:
        raise UserError(f"--masks {folder} has no mask for {len(missing)} of {len(images)} images ({missing[0]}, ...): "
                        "add them, or leave out --masks to attack the clean predictions")
    return masks


def _name_folders(folders: list[Path]) -> dict[Path, Path]:
    """Return {folder: the folder of its results}: "" for a single one."""
    if len({folder.resolve() for folder in folders}) < 2:
        return dict.fromkeys(folders, Path())
    names = {path: name.lstrip("/") for name, path in name_folders(folders).items()}
    return {folder: Path(names[folder.resolve()]) for folder in folders}


def _search(top: Path, prefix: Path, *, is_own: Callable[[Path], bool], unused: Counter) -> list[InputImage]:
    """Return the images below `top`; count in `unused` all other files but hidden ones."""
    found, visited = [], set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in visited else []
        if real in visited:  # a link back
            continue
        visited.add(real)
        for path in sorted(Path(folder, name) for name in files if not name.startswith(".")):
            if is_own(path):
                unused["files that predict.py wrote"] += 1
            elif path.suffix.lower() in SUFFIXES:
                found.append(InputImage(path, prefix / path.relative_to(top)))
            else:
                unused[to_one_line(path.suffix.lower()) or "without suffix"] += 1
    return found


def _refuse_folder(error: OSError):
    raise UserError(f"Can't read the folder {to_one_line(error.filename)} ({error.strerror}): make it readable.")


def _read_list(path: Path) -> list[InputImage]:
    """Return the images of a list: one path a line, relative to the list's folder or else to the current one.

    A line that begins with # is a comment, unless there is such a file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"--input {to_one_line(path)} can't be read ({reason}): write one image path a line") from None
    located = ((line, _locate(line, path.parent)) for line in map(str.strip, lines) if line)
    images = [image for line, image in located if not line.startswith("#") or os.path.isfile(image)]
    if not any(map(os.path.isfile, images)):
        raise UserError(f"--input {to_one_line(path)}: none of its lines is the path of a file: write paths "
                        "relative to the list's folder or to the current one")
    whole = [Path(os.path.abspath(image)) for image in images]
    common = os.path.commonpath([image.parent for image in whole])
    return [InputImage(image, full.relative_to(common)) for image, full in zip(images, whole, strict=True)]


def _locate(line: str, folder: Path) -> Path:
    """Return the first that is a file of the path that a line may mean, else the first."""
    candidates = [place / text for text in (line, line.replace("\\", "/")) for place in (folder, Path())]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])
