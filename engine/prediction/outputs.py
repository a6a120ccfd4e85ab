"""What is written where: no input, mask or file of anyone else is ever overwritten."""
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from datasets.image_lists import to_one_line
from engine.prediction.inputs import InputImage
from utils.errors import UserError
from utils.files import AppendOnly, write_together
from utils.logging import logger

RECORD = "predictions.jsonl"  # a line for each image: what it is, and {file: SHA-256} of what was written for it
LONGEST = 200  # bytes of a stem, which leaves room for the longest ending


class Outputs:
    """The folder of the results and its record of the files that were written, which tells own files from others.

    A file is an own one while it has the content that was recorded. Raises UserError for a record that isn't one.
    """

    def __init__(self, folder: Path):
        self.folder, self._hashes, self._read = folder, {}, set()
        self._read_record(Path(os.path.realpath(folder)))

    def is_own(self, path: Path) -> bool:
        """Return whether predict.py wrote the file: by the record in this folder, or in one that the file is below."""
        if path.name == RECORD:
            return True
        real = Path(os.path.realpath(path))
        for folder in real.parents:
            if folder not in self._read:
                with suppress(UserError):  # somebody else's file of that name
                    self._read_record(folder)
        known = self._hashes.get(real, ())
        return bool(known) and real.is_file() and _hash(real.read_bytes()) in known

    def plan(self, images: list[InputImage], endings: Iterable[str], *, kept: Iterable[Path] = (),
             overwrite: bool = False) -> dict[InputImage, Path]:
        """Return the path in `folder`, without ending, for each image's results; log where it isn't the image's name.

        Its files stem + ending are new or, with overwrite, own ones, and none is an image, in `kept`, or of another
        image. Raises UserError if own files are there without overwrite.
        """
        taken = {os.path.realpath(path) for path in (*(image.path for image in images), *kept)}
        taken |= {os.path.realpath(self.folder / parent) for image in images for parent in image.name.parents}
        targets, earlier = {}, []
        for image in images:
            for stem in _list_stems(image.name):
                files = [os.path.realpath(self.folder / f"{stem}{ending}") for ending in endings]
                there = [Path(file) for file in files if os.path.lexists(file)]
                if not taken & {*files} and all(map(self.is_own, there)):
                    break
            taken |= {*files}
            earlier += there
            targets[image] = self.folder / stem
            if stem != image.name.with_suffix(""):
                logger.info("%s is written as %s.png: its own name is taken or too long", image.path, stem)
        if earlier and not overwrite:
            raise UserError(f"{to_one_line(self.folder)} holds {len(earlier)} files of an earlier call, such as "
                            f"{to_one_line(earlier[0].name)}: give --overwrite to replace them, or another "
                            "--save_val_results_to")
        return targets

    @contextmanager
    def recorded(self):
        """Lock the record for write(), for the block. Raises UserError."""
        self._record = AppendOnly(self.folder / RECORD, flag="--save_val_results_to")
        try:
            yield self
        finally:
            self._record.close()

    def write(self, target: Path, files: dict[str, bytes], described: dict):
        """Record and write the files `target` + ending of an image. Raises UserError if the folder can't be written."""
        paths = {target.with_name(target.name + ending): content for ending, content in files.items()}
        if foreign := [path for path in paths if os.path.lexists(path) and not self.is_own(path)]:
            raise UserError(f"{to_one_line(foreign[0])} has appeared meanwhile: it is not overwritten")
        hashes = {path.relative_to(self.folder).as_posix(): _hash(content) for path, content in paths.items()}
        # First: a file that isn't in the record would never be overwritten again.
        self._record.write(json.dumps({**described, "files": hashes}) + "\n")
        with write_together(target.parent) as part:
            for path, content in paths.items():
                (part / path.name).write_bytes(content)

    def _read_record(self, folder: Path):
        self._read.add(folder)
        path = folder / RECORD
        try:
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                for name, digest in json.loads(line)["files"].items():
                    self._hashes.setdefault(Path(os.path.realpath(folder / name)), set()).add(digest)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise UserError(f"{to_one_line(path)} is not a record of predict.py: choose another "
                            "--save_val_results_to") from None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _list_stems(name: Path):
    """Yield the names that an image's results may have: x, x_2, x_3 and so on, in the image's place of the tree."""
    stem = os.fsdecode(os.fsencode(name.stem)[:LONGEST])
    yield name.with_name(stem)
    yield from (name.with_name(f"{stem}_{number}") for number in count(2))
