"""Results of each image: a JSON-lines file per attack setting, from which a killed evaluation continues.

The first line, the header, describes attack and subject; each later line holds one image's counts per class. Equal
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
    """Return (header, {image name: line}) of a record file, without a last line that a kill left incomplete.

    The header is {} if it is incomplete itself. Raises UserError for a damaged line.
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
        """Return the file's name without .jsonl; its folder of pictures has the same name."""
        return self.path.stem

    @property
    def settings(self) -> dict:
        """Return the attack's settings."""
        return self.header["attack"]

    @property
    def names(self) -> list[str]:
        """Return the names of the recorded images, in the file's order."""
        return list(self._lines)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def lines(self, names) -> list[dict]:
        """Return the lines of these images, in this order. Raises KeyError for one that is not recorded."""
        return [self._lines[name] for name in names]

    def counts(self, names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return intersection, union and labelled pixels of these images, int64 [N, C] each."""
        lines, classes = self.lines(names), len(self.header["class_names"])
        return tuple(np.array([line[key] for line in lines], dtype=np.int64).reshape(-1, classes) for key in COUNTS)

    def candidates(self, names) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return counts() of the images as attacked, then those of each candidate that every image has.

        Without candidates if the attack's aim is accuracy alone (race_aim).
        """
        intersection, union, pixels = self.counts(names)
        if self.settings.get("race_aim") == "accuracy":
            return [(intersection, union, pixels)]
        lines = [line.get("candidates", {}) for line in self.lines(names)]
        shared = [name for name in (lines[0] if lines else ()) if all(name in line for line in lines)]
        offered = [[np.array([line[name][key] for line in lines], dtype=np.int64) for key in COUNTS[:2]]
                   for name in shared]
        return [(intersection, union, pixels), *((*counts, pixels) for counts in offered)]


class Records(Record):
    """The record file of one attack setting, open for appending: <folder>/<label>_<hash of the header>.jsonl.

    header: {"attack": its settings, "subject": what is attacked, "class_names": [...]}. An existing file is continued;
    its incomplete last line is removed. Raises UserError if another process has the file open, a line is damaged or
    the header in the file differs.
    """

    def __init__(self, folder, header: dict, *, label: str):
        header = check_header(json.loads(canonical({"format": FORMAT, **header})))
        digest = hashlib.sha256(canonical(header).encode()).hexdigest()[:8]
        super().__init__(Path(folder) / f"{label}_{digest}.jsonl", header, {})
        self._file = AppendOnly(self.path)
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    def append(self, lines: list[dict]):
        """Write these images' lines to the disk at once, except images that are already recorded.

        A line has at least the keys image, COUNTS and NUMBERS, else ValueError is raised.
        """
        new = {}
        for line in lines:
            plain = check_line(json.loads(canonical(line)), classes=len(self.header["class_names"]))
            if plain["image"] not in self:
                new.setdefault(plain["image"], plain)
        self._file.write("".join(canonical(line) + "\n" for line in new.values()))
        self._lines.update(new)

    def close(self):
        """Close the file, so that another process may open it."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _continue(self):
        found, self._lines, size = _parse(self.path, self._file.read())
        self._file.truncate(size)
        os.utime(self.path)  # reports use what was evaluated last, even if nothing was left to append
        if not found:
            self._file.write(canonical(self.header) + "\n")
        elif found != self.header:
            raise UserError(f"{self.path}, line 1: the header differs from this evaluation's: delete the file "
                            "(docs/records.md#damaged-records)")


def _parse(path: Path, data: bytes) -> tuple[dict, dict[str, dict], int]:
    """Return (header, {image name: line}, bytes in complete lines); ({}, {}, 0) if the header is incomplete."""
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
                raise ValueError(f"{escape_unprintable(line['image'], keep='')} is recorded twice")
            lines[line["image"]] = line
        except (ValueError, RecursionError) as error:
            remedy = "the file" if number == 1 else "the line, then its image is attacked again, or the file"
            raise UserError(f"{path}, line {number} is damaged ({error}): delete {remedy} "
                            "(docs/records.md#damaged-records)") from None
    return header, lines, len(data) - len(torn)
