"""The folders of an evaluation's shards (--shard I/N), and their records as those of one evaluation.

Each shard writes a folder of its own, RUN/shards/I-of-N, so that no file has two writers.
"""
import json
from collections.abc import Iterable
from pathlib import Path

from engine.records.store import Record, read
from utils.errors import UserError
from utils.files import SHARDS, find_shard
from utils.logging import logger
from utils.strict_json import canonical

LIST = "images.json"


def read_shard(text: str) -> tuple[int, int]:
    """Return I and N of `I/N`."""
    number, _, count = text.partition("/")
    return int(number), int(count)


def list_parts(run: Path) -> list[Path]:
    """Return the run's folder, then those of its shards that have images."""
    shards = {path.parent: path.parent.name.partition("-of-") for path in (run / SHARDS).glob(f"*-of-*/{LIST}")}
    numbered = {path: (int(count), int(number)) for path, (number, _, count) in shards.items()
                if number.isdecimal() and count.isdecimal()}
    return [run, *sorted(numbered, key=numbered.get)]


def write_list(folder: Path, *, every: list[str], own: list[str]):
    """Keep the names of all images, in order, and of those that the shard evaluates."""
    (folder / LIST).write_text(json.dumps({"every": every, "own": own}) + "\n", encoding="utf-8")


def read_records(run: Path) -> list[Record]:
    """Return the records of a run, oldest first; those of shards with equal headers are one, in the whole run's order.

    Logs which shards are missing. Raises UserError if shards are of different images, or two files of one folder record
    the same attack.
    """
    first, *shards = list_parts(run)
    lists = {folder: _read_list(folder) for folder in shards}
    every = _find_order(run, lists)
    found = {}
    for folder in (first, *shards):
        here = {}
        for record in _read_folder(folder):
            other = here.setdefault(canonical(record.header), record)
            if other is not record:
                raise UserError(f"{record.path} and {other.path} record the same attack: remove one of them")
        for header, record in here.items():
            found.setdefault(header, {})[folder] = record
    _report_missing(run, lists, found.values())
    merged = [of_folders[first] if [*of_folders] == [first] else _merge(of_folders.values(), every)
              for of_folders in found.values()]
    return sorted(merged, key=lambda record: (record.path.stat().st_mtime_ns, record.path.name))


def _read_folder(folder: Path) -> list[Record]:
    files = filter(Path.is_file, (folder / "records").glob("*.jsonl"))  # reading a pipe would never end
    return [Record(path, *read(path)) for path in sorted(files)]


def _read_list(folder: Path) -> dict:
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if not all(isinstance(name, str) for key in ("every", "own") for name in found[key]):
            raise TypeError("a name that is not text")
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{folder / LIST} is missing or damaged: run --shard {_name(folder)} again, or delete "
                        f"{folder}") from None
    return found


def _find_order(run: Path, lists: dict[Path, dict]) -> list[str]:
    """Return the names of the whole evaluation's images, in order; [] without shards."""
    orders = {json.dumps(found["every"]): folder for folder, found in lists.items()}
    if len(orders) > 1:
        one, other, *_ = orders.values()
        raise UserError(f"{one} and {other} are of different images: delete {run / SHARDS}, and run all shards with "
                        "the same data options")
    return json.loads(next(iter(orders), "[]"))


def _merge(records: Iterable[Record], every: list[str]) -> Record:
    """Return records of one attack as a single one, named after the newest of their files."""
    records = sorted(records, key=lambda record: record.path.stat().st_mtime_ns)
    lines = {name: line for record in records for name, line in zip(record.names, record.lines(record.names),
                                                                  strict=True)}
    order = {name: place for place, name in enumerate(every)}
    names = sorted(lines, key=lambda name: order.get(name, len(order)))
    return Record(records[-1].path, records[-1].header, {name: lines[name] for name in names})


def _report_missing(run: Path, lists: dict[Path, dict], attacks: Iterable[dict[Path, Record]]):
    """Log the shards that lack images, and those that overlap or leave some out."""
    begun = [set().union(*(record.names for record in of_folders.values())) for of_folders in attacks
             if of_folders.keys() & lists.keys()]  # the images under each attack that shards have begun, of all folders
    missing = {_name(folder) for folder, found in lists.items()
               if any(not names.issuperset(found["own"]) for names in begun)}
    for count in {read_shard(_name(folder))[1] for folder in lists}:
        named = {f"{number}/{count}": find_shard(run, f"{number}/{count}") for number in range(1, count + 1)}
        present = [lists[folder] for folder in named.values() if folder in lists]
        covered = [name for found in present for name in found["own"]]
        every = present[0]["every"]
        if set(covered) != set(every):
            missing |= {shard for shard, folder in named.items() if folder not in lists}
        if len(covered) != len(set(covered)) or (len(present) == count and len(covered) != len(every)):
            logger.warning("%s: the shards 1/%d to %d/%d don't have each image once: run them again with the same "
                           "--val_batch_size", run, count, count, count)
    if missing:
        logger.warning("%s: missing or incomplete: %s; run each again", run, ", ".join(
            f"--shard {shard}" for shard in sorted(missing, key=lambda shard: read_shard(shard)[::-1])))


def _name(folder: Path) -> str:
    """Return `I/N` of a shard's folder I-of-N."""
    return folder.name.replace("-of-", "/")
