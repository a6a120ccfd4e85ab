"""What --label_map and --ignore_label make of labels: examples for messages, and what they leave without a use."""
from collections.abc import Iterable
from math import gcd

from utils.errors import UserError
from utils.logging import logger
from utils.text import count_of

from .transforms import IGNORE

SHOWN = 8  # pairs in a message


def format_pairs(label_map: dict[int, int]) -> str:
    """Return a label map as --label_map takes it: 0:0,20:1; of many pairs the first ones, then "..."."""
    pairs = [f"{stored}:{used}" for stored, used in sorted(label_map.items())]
    return ",".join(pairs[:SHOWN] + ["..."] * (len(pairs) > SHOWN))


def format_ranges(labels: Iterable[int]) -> str:
    """Return labels in words: 0 to 9 and 65535; of many, the first ones, "..." and the last."""
    ranges = []
    for label in sorted(labels):
        if ranges and label == ranges[-1][1] + 1:
            ranges[-1][1] = label
        else:
            ranges.append([label, label])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges]
    if len(shown) > SHOWN:
        shown[SHOWN - 1:-1] = ["..."]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def number_in_order(labels: Iterable[int]) -> dict[int, int]:
    """Return the label map that gives these labels, but for IGNORE, the numbers from 0 on."""
    return {label: number for number, label in enumerate(sorted({*labels} - {IGNORE}))}


def find_factor(labels: Iterable[int]) -> int:
    """Return the factor above 1 that all labels but 0 and IGNORE share, else 0."""
    values = [label for label in labels if label not in (0, IGNORE)]
    factor = gcd(*values)
    return factor if factor > 1 and len(values) > 1 else 0


def undo_factor(labels: Iterable[int]) -> dict[int, int]:
    """Return the label map that divides these labels, but for IGNORE, by the factor that they share; {} without one."""
    factor = find_factor(labels)
    return {label: label // factor for label in labels if label != IGNORE} if factor else {}


def list_impossible(label_map: dict[int, int], num_classes: int) -> list[int]:
    """Return the classes that no stored label means, as the label of their number means something else."""
    return [label for label in range(num_classes)
            if label_map.get(label, label) != label and label not in label_map.values()]


def check_label_map(label_map: dict[int, int], class_names, *, dataset: str):
    """Raise UserError if a label becomes what is no class; warn about a class that can't occur."""
    count = len(class_names)
    for stored, used in label_map.items():
        if used >= count and used != IGNORE:
            raise UserError(f"--label_map {stored}:{used}: the classes of {dataset} are 0 to {count - 1}, and {IGNORE} "
                            "is ignored")
    for label in list_impossible(label_map, count):
        logger.warning("Warning: class %d (%s) is in no label, as label %d means %d (--ignore_label, --label_map): "
                       "where the network predicts it, its IoU is 0 and counts in the mean",
                       label, class_names[label], label, label_map[label])


def log_unused_labels(label_map: dict[int, int], stored: Iterable[int], *, masks: int):
    """Warn about labels of a label map that none of so many masks has; `stored` are those that they have."""
    if unused := sorted(label_map.keys() - {*stored}):
        logger.warning("Warning: none of the %s has the label%s %s, which --label_map or --ignore_label names",
                       count_of(masks, "mask"), "s" * (len(unused) > 1), ", ".join(map(str, unused)))
