"""The lines of predictions.jsonl: what each image's results are, and which files predict.py wrote."""
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from datasets.image_lists import to_one_line
from utils.errors import UserError

# A line for each image: what it is, {file: SHA-256} of what was written for it as "files", and as "earlier_files" of
# what an earlier call wrote for it and --overwrite didn't replace, as this call makes no such files.
RECORD = "predictions.jsonl"


def parse_record(text: str, path: Path) -> list[dict]:
    """Return the lines of a record. Raises UserError, naming `path`, if the text isn't one."""
    try:
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            words = [line.get("image", ""), *list_files(line), *list_files(line).values()]
            if not all(isinstance(word, str) and "\0" not in word for word in words):
                raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{to_one_line(path)} is not a record of predict.py: choose another "
                        "--save_val_results_to") from None
    return lines


def read_record(path: Path) -> list[dict]:
    """Return the lines of the record at `path`, none if there is no such file. Raises UserError."""
    try:
        return parse_record(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        return parse_record("not text", path)
    except OSError as error:
        raise UserError(f"{to_one_line(path)} can't be read ({error.strerror}): choose another "
                        "--save_val_results_to") from None


def format_record(lines: list[dict]) -> str:
    """Return the text of the lines."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def list_files(line: dict) -> dict[str, str]:
    """Return {file: SHA-256} of all files of a line."""
    return {**line.get("earlier_files", {}), **line["files"]}


def replace_lines(lines: list[dict], finished: list[dict], *, find_own: Callable[[str], str | None]) -> list[dict]:
    """Return the lines without those that one of `finished`, the last for its image and files, replaces.

    Files of a replaced line that are still there go to "earlier_files". find_own: name of a file -> its SHA-256, None
    unless predict.py wrote it.
    """
    done, kept = {format_record([line]) for line in finished}, []
    by_image, by_file = {}, {}
    for line in reversed(lines):
        successor = by_image.get(line.get("image")) or next(
            (by_file[name] for name in list_files(line) if name in by_file), None)
        if successor is None:
            kept.append(new := {**line})
            if format_record([line]) in done:
                by_image[line["image"]] = new
                by_file |= dict.fromkeys(line["files"], new)
            continue
        rest = {name: find_own(name) for name in list_files(line) if name not in by_file}
        earlier = {**{name: digest for name, digest in rest.items() if digest}, **successor.get("earlier_files", {})}
        if earlier:
            successor["earlier_files"] = earlier
    return kept[::-1]


def hash_content(content: bytes) -> str:
    """Return the SHA-256 as the record holds it."""
    return hashlib.sha256(content).hexdigest()
