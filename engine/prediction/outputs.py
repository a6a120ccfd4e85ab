"""What is written where: no input, mask or file of anyone else is ever overwritten."""
import os
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from datasets.image_lists import to_one_line
from engine.prediction.inputs import InputImage
from engine.prediction.record import (
    RECORD,
    format_record,
    hash_content,
    list_files,
    parse_record,
    read_record,
    replace_lines,
)
from utils.errors import UserError
from utils.files import AppendOnly, write_together

LONGEST = 200  # bytes of a stem, which leaves room for the longest ending


class Outputs:
    """The folder of the results and its record of the files that were written, which tells own files from others.

    A file is an own one while it has the content that was recorded. renamed: {image: the line that says why its results
    don't have its name}. Raises UserError for a record that isn't one.
    """

    def __init__(self, folder: Path):
        self.folder, self.renamed = folder, {}
        self._hashes, self._read = {}, set()
        self._read_record(Path(os.path.realpath(folder)))

    def is_own(self, path: Path) -> bool:
        """Return whether predict.py wrote the file: by the record in this folder, or in one that the file is below."""
        return path.name == RECORD or self._find_digest(path) is not None

    def plan(self, images: Iterable[InputImage], endings: Iterable[str], *, kept: Iterable[Path] = (),
             overwrite: bool = False) -> dict[InputImage, Path]:
        """Return the path in `folder`, without ending, for each image's results.

        Its files stem + ending are new or, with overwrite, own ones, and none is an image, in `kept`, or of another
        image. Raises UserError if own files are there without overwrite.
        """
        taken = dict.fromkeys((os.path.realpath(self.folder / place) for place in {
            place for image in images for place in image.name.parents}), "a folder of the results")
        inputs = filter(os.path.lexists, (*(image.path for image in images), *kept))
        taken |= dict.fromkeys(map(os.path.realpath, inputs), "an input")
        targets, earlier, numbers, reasons = {}, [], {}, {}
        for image in images:
            wished = _shorten(image.name)
            for number in count(numbers.get(wished, 1)):  # smaller ones are taken by now
                stem = wished if number == 1 else wished.with_name(f"{wished.name}_{number}")
                files = [os.path.realpath(self.folder / f"{stem}{ending}") for ending in endings]
                there = [Path(file) for file in files if os.path.lexists(file)]
                if not (reason := self._find_obstacle(files, there, taken)):
                    break
                reasons.setdefault(wished, reason)
            numbers[wished] = number + 1
            reasons.setdefault(wished, f"{to_one_line(Path(files[0]).name)} is another image's")
            taken |= dict.fromkeys(files, "another image's")
            earlier += there
            targets[image] = self.folder / stem
            if stem != image.name.with_suffix(""):
                reason = "its name is too long" if number == 1 else reasons[wished]
                self.renamed[image] = f"{to_one_line(image.path)} is written as {to_one_line(stem)}.png: {reason}"
        if earlier and not overwrite:
            raise UserError(f"{to_one_line(self.folder)} holds {len(earlier)} files of an earlier call, such as "
                            f"{to_one_line(earlier[0].name)}: give --overwrite to replace them, or another "
                            "--save_val_results_to")
        return targets

    @contextmanager
    def recorded(self):
        """Lock the record for write(), for the block; then leave one line for each image in it. Raises UserError."""
        self._record, self._finished = AppendOnly(self.folder / RECORD, flag="--save_val_results_to"), []
        try:
            yield self
        finally:
            try:
                self._drop_replaced_lines()
            finally:
                self._record.close()

    def write(self, target: Path, files: dict[str, bytes], described: dict):
        """Record and write the files `target` + ending of an image. Raises UserError if the folder can't be written."""
        paths = {target.with_name(target.name + ending): content for ending, content in files.items()}
        if foreign := [path for path in paths if os.path.lexists(path) and not self.is_own(path)]:
            raise UserError(f"{to_one_line(foreign[0])} has appeared meanwhile: it is not overwritten")
        hashes = {path.relative_to(self.folder).as_posix(): hash_content(content) for path, content in paths.items()}
        line = {**described, "files": hashes}
        # First: a file that isn't in the record would never be overwritten again.
        self._record.write(format_record([line]))
        with write_together(target.parent) as part:
            for path, content in paths.items():
                (part / path.name).write_bytes(content)
        self._finished.append(line)

    def _drop_replaced_lines(self):
        """Remove the lines of results that this call replaced, whole or not at all."""
        if not self._hashes:  # of earlier calls
            return
        lines = parse_record(self._record.read().decode(), self._record.path)
        kept = replace_lines(lines, self._finished, find_own=lambda name: self._find_digest(self.folder / name))
        if len(kept) < len(lines):
            self._record.replace(format_record(kept))

    def _find_obstacle(self, files: list[str], there: list[Path], taken: dict[str, str]) -> str:
        """Return why results can't have these names, "" if they can."""
        obstacles = [(Path(file), taken[file]) for file in files if file in taken] or [
            (path, "there and not written by predict.py") for path in there if not self.is_own(path)]
        return " is ".join((to_one_line(obstacles[0][0].name), obstacles[0][1])) if obstacles else ""

    def _find_digest(self, path: Path) -> str | None:
        """Return the SHA-256 of an own file, None for any other."""
        real = Path(os.path.realpath(path))
        for folder in real.parents:
            if folder not in self._read:
                with suppress(UserError):  # somebody else's file of that name
                    self._read_record(folder)
        known = self._hashes.get(real, ())
        if not known or not real.is_file():
            return None
        return digest if (digest := hash_content(real.read_bytes())) in known else None

    def _read_record(self, folder: Path):
        self._read.add(folder)
        for line in read_record(folder / RECORD):
            for name, digest in list_files(line).items():
                self._hashes.setdefault(Path(os.path.realpath(folder / name)), set()).add(digest)


def _shorten(name: Path) -> Path:
    """Return the name that an image's results should have, in the image's place of the tree."""
    return name.with_name(os.fsdecode(os.fsencode(name.stem)[:LONGEST]))
