"""--label_map and --ignore_label as numbers."""
import re
from pathlib import Path

from utils.errors import UserError

IGNORE = 255  # as datasets.IGNORE
PAIRS = re.compile(r"\d+:\d+(,\d+:\d+)*")


def to_pairs(text: str) -> str:
    """Return --label_map as from:to,from:to; `text` may also be the path of a file with lines `from to`.

    Raises ValueError for a file that can't be read, and as read_label_map() does.
    """
    if not PAIRS.fullmatch(text):
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{text!r} can't be read ({getattr(error, 'strerror', None) or 'not UTF-8'}): name a file "
                             "of lines `from to`, or write from:to,from:to") from None
        text = ",".join(":".join(line.split()) for line in lines if line.strip())
    read_label_map(text)
    return text


def read_label_map(text: str) -> dict[int, int]:
    """Return {from: to}; raise ValueError for a label that is not a number in [0, 65535] or is given twice."""
    mapping = {}
    for pair in text.split(","):
        if not re.fullmatch(r"\d{1,5}:\d{1,5}", pair) or max(map(int, pair.split(":"))) > 65535:
            raise ValueError(f"{pair.replace(':', ' ')!r} is not a pair of labels from 0 to 65535, such as `255 1`")
        old, new = map(int, pair.split(":"))
        if old in mapping:
            raise ValueError(f"label {old} is mapped twice")
        mapping[old] = new
    return mapping


def combine(label_map: str | None, ignore_label: int) -> dict[int, int]:
    """Return what both flags say, {from: to}, without labels that stay as they are. Raises UserError if they differ."""
    mapping = read_label_map(label_map) if label_map else {}
    if ignore_label != IGNORE and mapping.setdefault(ignore_label, IGNORE) != IGNORE:
        raise UserError(f"--ignore_label {ignore_label}: --label_map makes it {mapping[ignore_label]}, leave out one "
                        "of them")
    return {stored: used for stored, used in mapping.items() if stored != used}
