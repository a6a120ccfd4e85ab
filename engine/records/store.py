"""What an attack left of every image: a JSON-lines file per attack setting, with which a killed evaluation goes on.

The first line, the header, says what attacked what; each line after it holds one image's counts per class. Equal
values give equal bytes.
"""
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from engine.records.schema import COUNTS, FORMAT, check_header, check_line
from utils.errors import UserError
from utils.files import AppendOnly
from utils.strict_json import canonical, parse
from utils.text import escape_unprintable


def read(path) -> tuple[dict, dict[str, dict]]:
    """(header, {image name: line}) of a record file, without a torn last line, as a kill leaves it.

    The header is {} where not even that is whole. Raises UserError for a damaged line, naming file, line and remedy.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): make it readable, or remove it") from None
    header, lines, _ = _parse(Path(path), content)
    return header, lines


class Record:
    """The lines of one attack setting, as read() found them in the file `path`."""

    def __init__(self, path, header: dict, lines: dict[str, dict]):
        self.path, self.header, self._lines = Path(path), header, lines

    @property
    def stem(self) -> str:
        """The file's name without .jsonl, which the folder of its pictures has too."""
        return self.path.stem

    @property
    def settings(self) -> dict:
        """What attacked."""
        return self.header["attack"]

    @property
    def names(self) -> list[str]:
        """The recorded images, in the file's order."""
        return list(self._lines)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def lines(self, names) -> list[dict]:
        """The lines of these images, in this order. Raises KeyError for one that is not recorded."""
        return [self._lines[name] for name in names]

    def counts(self, names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intersection, union and labelled pixels of these images, int64 [N, S] each."""
        lines, classes = self.lines(names), len(self.header["class_names"])
        return tuple(np.array([line[key] for line in lines], dtype=np.int64).reshape(-1, classes) for key in COUNTS)


class Records(Record):
    """The record file of one attack setting, open for appending: <folder>/<label>_<hash of the header>.jsonl.

    header: {"attack": its settings, "subject": what is attacked, "class_names": [...]}. An existing file goes on; a
    torn last line is cut off it. Raises UserError where another process has the file, where a line is damaged, and
    where the header in it is another one.
    """

    def __init__(self, folder, header: dict, *, label: str):
        header = check_header(json.loads(canonical({"format": FORMAT, **header})))
        digest = hashlib.sha256(canonical(header).encode()).hexdigest()[:8]
        super().__init__(Path(folder) / f"{label}_{digest}.jsonl", header, {})
        self._file = AppendOnly(self.path)
        try:
            self._go_on()
        except BaseException:
            self.close()
            raise

    def append(self, lines: list[dict]):
        """Write these images' lines at once, down to the disk, leaving out images that are already recorded.

        A line has the keys image, COUNTS and NUMBERS, and maybe more. Raises ValueError for one that has not.
        """
        new = {}
        for line in lines:
            plain = check_line(json.loads(canonical(line)), classes=len(self.header["class_names"]))
            if plain["image"] not in self:
                new.setdefault(plain["image"], plain)
        self._file.write("".join(canonical(line) + "\n" for line in new.values()))
        self._lines.update(new)

    def close(self):
        """Let others have the file."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _go_on(self):
        found, self._lines, size = _parse(self.path, self._file.read())
        self._file.truncate(size)
        os.utime(self.path)  # reports are of what was evaluated last, also where nothing was left to append
        if not found:
            self._file.write(canonical(self.header) + "\n")
        elif found != self.header:
            raise UserError(f"{self.path}, line 1: the header is not this evaluation's: delete the file")


def _parse(path: Path, data: bytes) -> tuple[dict, dict[str, dict], int]:
    """(header, {image name: line}, bytes in whole lines); ({}, {}, 0) where not even the header is whole."""
    *whole, torn = data.split(b"\n")
    header, lines = {}, {}
    for number, raw in enumerate(whole, start=1):
        try:
            value = parse(raw)
            if number == 1:
                header = check_header(value)
                continue
            line = check_line(value, classes=len(header["class_names"]))
            if line["image"] in lines:
                raise ValueError(f"{escape_unprintable(line['image'], keep='')} is recorded a second time")
            lines[line["image"]] = line
        except (ValueError, RecursionError) as error:
            remedy = "the file" if number == 1 else "the line, then its image is attacked again, or the file"
            raise UserError(f"{path}, line {number} is damaged ({error}): delete {remedy}") from None
    return header, lines, len(data) - len(torn)
