"""What the scripts beside this one share: images and masks become one new folder, or an error becomes one line."""
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

MOST_CLASSES, IGNORE = 255, 255
IGNORED_NAME = "ignore"  # of the line in classes.txt that has the colour of ignored pixels


class ConversionError(Exception):
    """A line that says what is wrong, where, and what to do."""


def run(main: Callable, usage: str):
    """Call main with the paths of the command line; for an error write one line and exit with code 2."""
    paths = sys.argv[1:]
    try:
        if len(paths) != len(usage.split()):
            raise ConversionError(f"give {len(usage.split())} paths, not {len(paths)}: python {sys.argv[0]} {usage}")
        main(*map(Path, paths))
    except (ConversionError, OSError, UnicodeDecodeError) as error:
        line = str(error)
        if isinstance(error, OSError):
            line = f"{error.filename}: {error.strerror}; correct the path, or make it readable and its disk writable"
        elif isinstance(error, UnicodeDecodeError):
            line = f"a file of {paths[0]} is not UTF-8 text: export it anew ({error})"
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
        sys.exit(2)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder with train/images and train/masks that is renamed to `target` if all goes well."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConversionError(f"{target} exists: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as folder:
        unfinished = Path(folder) / "data"
        for kind in ("images", "masks"):
            (unfinished / "train" / kind).mkdir(parents=True)
        yield unfinished
        if target.exists():
            target.rmdir()
        unfinished.rename(target)


def choose_names(paths: list[PurePath]) -> list[str]:
    """Return a name for each image: its own, or if two have one name, all with their folders: a/1.jpg is a_1."""
    names = [path.stem for path in paths]
    if _find_twice(names) is not None:
        names = ["_".join(part for part in path.with_suffix("").parts if part not in ("..", path.anchor))
                 for path in paths]
    if (twice := _find_twice(names)) is not None:
        same = [str(path) for path, name in zip(paths, names, strict=True) if name.lower() == twice]
        raise ConversionError(f"{same[0]} and {same[1]} would both be called {twice}: rename or leave out one of them")
    return names


def _find_twice(names: list[str]) -> str | None:
    """Return a name that occurs twice, in lower case, as some systems don't tell cases apart."""
    name, count = Counter(map(str.lower, names)).most_common(1)[0]
    return name if count > 1 else None


def copy_image(path: Path, folder: Path, name: str):
    """Copy an image into train/images."""
    if not path.is_file():
        raise ConversionError(f"{path} is missing: put the image there")
    shutil.copy(path, folder / "train" / "images" / f"{name}{path.suffix}")


def format_classes(names: list[str], colours: list[str] | None = None) -> str:
    """Return classes.txt, a line for each name, with its colour `red green blue` if there are colours.

    A name that the file would misread is changed, and a line says so.
    """
    written = [_clean(name, coloured=colours is not None) for name in names]
    for name, clean in zip(names, written, strict=True):
        if clean != name:
            sys.stdout.write(f"The label {name!r} is written as {clean!r}\n")
    count = len({*written} - {IGNORED_NAME})
    if count > MOST_CLASSES or not count:
        raise ConversionError(f"{count} classes: 1 to {MOST_CLASSES} are possible, the background included")
    name, times = Counter(written).most_common(1)[0]
    if times > 1:
        raise ConversionError(f"{times} labels are called {name!r}, the background included: rename one of them")
    if IGNORED_NAME in written:
        if not colours:
            raise ConversionError(f"a label is called {IGNORED_NAME} with a space beside it: rename it")
        say_ignored(IGNORED_NAME)
    return "".join(f"{' '.join(parts)}\n" for parts in (zip(written, colours, strict=True) if colours else
                                                        zip(written, strict=True)))


def say_ignored(name: str):
    """Say that the pixels of a label count as ignored."""
    sys.stdout.write(f"The label {name!r} is no class: its pixels are ignored, in training, attacks and scores; if it "
                     "is a class, rename it\n")


def _clean(name: str, *, coloured: bool) -> str:
    """Return a name on one line, without the # that begins a comment and without numbers that look like a colour."""
    words = ["-" if word == "#" else word for word in name.split()]
    if not words:
        raise ConversionError("a label has no name: give it one")
    return ("_" if not coloured and re.search(r"( \S*\d\S*){2,}$", name) else " ").join(words)
