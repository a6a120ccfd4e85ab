"""Find masks whose labels can't be what they should be: painted, scaled, numbered from 1, or ignored as a whole.

They would train and score without an error, and give a wrong mIoU, often 1.0.
"""
import sys
from collections import Counter
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from utils.errors import UserError
from utils.logging import logger

from .image_lists import to_one_line
from .label_maps import find_factor, format_pairs, list_impossible, undo_factor
from .transforms import IGNORE

REMEDY = "(docs/data.md#wrong-labels)"
SHOWN = 8  # labels in a message


@dataclass
class Labels:
    """What the masks of a split hold: pixels by label and by class, and how many masks are ignored as a whole."""

    stored: set[int] = field(default_factory=set)      # the labels before --label_map
    labels: Counter = field(default_factory=Counter)   # after --label_map
    classes: Counter = field(default_factory=Counter)  # of these what the data set uses, without IGNORE
    foreign: Counter = field(default_factory=Counter)  # of the labels what it ignores, but for its void_labels
    first_foreign: str = ""  # the first file with such labels
    masks: int = 0
    ignored_masks: int = 0

    def add(self, dataset, i: int):
        """Count mask i of a data set."""
        values, counts = torch.unique(torch.as_tensor(dataset.read_stored_label(i)), return_counts=True)
        found = Counter()
        self.stored |= {*values.tolist()}
        for label, used, count in zip(dataset.map_label(values).tolist(), dataset.convert_label(values).tolist(),
                                      counts.tolist(), strict=True):
            self.labels[label] += count
            found[used] += count
            if used == IGNORE and label not in dataset.void_labels:
                self.foreign[label] += count
                self.first_foreign = self.first_foreign or dataset.files(i)[1]
        del found[IGNORE]
        self.classes += found
        self.masks += 1
        self.ignored_masks += not found

    def update(self, other: "Labels"):
        """Add what other masks hold."""
        self.stored |= other.stored
        self.labels += other.labels
        self.classes += other.classes
        self.foreign += other.foreign
        self.first_foreign = self.first_foreign or other.first_foreign
        self.masks += other.masks
        self.ignored_masks += other.ignored_masks


def read_labels(dataset, *, title: str, limit: int) -> Labels:
    """Return the labels of the first `limit` masks; of all masks if those are suspicious.

    Raises UserError for a mask that can't be read.
    """
    labels = count_labels(dataset, range(min(limit, len(dataset))))
    if labels.masks == len(dataset) or not is_suspicious(labels, dataset):
        return labels
    return count_labels(dataset, tqdm(
        range(len(dataset)), desc=f"reading {title} masks", unit="mask",
        mininterval=0.2 if sys.stderr.isatty() else 30))


def count_labels(dataset, indices) -> Labels:
    """Return the labels of these masks. Raises UserError for one that can't be read."""
    labels = Labels()
    for i in indices:
        labels.add(dataset, i)
    return labels


def is_suspicious(labels: Labels, dataset) -> bool:
    """Return whether the labels of a few masks are a reason to read all masks."""
    return bool(len(labels.classes) < 2 or labels.ignored_masks or labels.foreign or starts_at_1(labels, dataset))


def refuse_wrong_labels(labels: Labels, dataset, *, title: str):
    """Raise UserError if the labels of all masks of a split can't be right. `title`: training or validation."""
    folder = dataset.pairs[0][1].parent if getattr(dataset, "pairs", None) else dataset.origin
    masks = f"The {labels.masks} {title} masks in {to_one_line(folder)}"
    counts, classes = describe(labels.labels), f"the classes are 0 to {dataset.num_classes - 1}"
    if labels.foreign and (factor := find_factor(labels.labels)):
        example = format_pairs(undo_factor(labels.labels))
        raise UserError(f"{masks} have labels that are multiples of {factor}, as if scaled to be seen ({counts} "
                        f"pixels), but {classes}: give --label_map, such as {example} {REMEDY}.")
    if labels.foreign:
        raise UserError(f"{masks} have labels that are not classes ({describe(labels.foreign)} pixels, first in "
                        f"{labels.first_foreign}), but {classes}: give --label_map with a pair for each, such as "
                        f"{min(labels.foreign)}:1, or {min(labels.foreign)}:{IGNORE} to ignore it {REMEDY}.")
    refuse_few_classes(labels, masks=masks, names=dataset.class_names, label_map=dataset.label_map,
                       own_classes=dataset.own_classes)


def refuse_few_classes(labels: Labels, *, masks: str, names, label_map: dict[int, int], own_classes: bool):
    """Raise UserError if all masks have ignored pixels only, or a single class. `masks` names them in the message."""
    counts = describe(labels.labels)
    if not labels.classes:
        raise UserError(f"{masks} have ignored pixels only ({counts} pixels): choose the --dataset that they belong "
                        f"to, or give --label_map {REMEDY}.")
    if len(labels.classes) == 1:
        (only,) = labels.classes
        mappable = IGNORE in labels.stored and IGNORE not in label_map
        remedy = f"if {IGNORE} is a class, give --label_map {IGNORE}:{int(only == 0)}" if mappable \
            else "add masks that have other classes too"
        own = "" if own_classes else "; if the classes are your own, --dataset folder"
        raise UserError(f"{masks} have a single class, {names[only]} ({counts} pixels), so a score on "
                        f"them says nothing: {remedy}{own} {REMEDY}.")


def log_odd_labels(labels: Labels, dataset, *, title: str):
    """Log what is odd in the labels of all masks of a split but may be meant."""
    if labels.ignored_masks:
        logger.warning("Warning: all pixels of %d of the %d %s masks are ignored", labels.ignored_masks, labels.masks,
                       title)
    if starts_at_1(labels, dataset):
        logger.warning("Warning: label 0 (%s) is in none of the %d %s masks, which have 1 to %d: if the classes are "
                       "numbered from 1, give --label_map %s", dataset.class_names[0], labels.masks, title,
                       max(labels.classes), REMEDY)
    if absent := [name for label, name in enumerate(dataset.class_names) if label not in labels.classes]:
        logger.info("%s masks have no pixel of %s", title.capitalize(), ", ".join(absent))


def log_foreign(labels: Labels, *, title: str):
    """Warn about labels that are not classes and that the data set ignores."""
    if labels.foreign:
        logger.warning("Warning: %s masks have labels that are not classes and are ignored (%s pixels, first in %s): "
                       "if they mean classes, give --label_map %s", title, describe(labels.foreign),
                       labels.first_foreign, REMEDY)


def starts_at_1(labels: Labels, dataset) -> bool:
    """Return whether the classes run from 1 to several more without a gap, and 0 never occurs but could."""
    found = sorted(labels.classes)
    possible = 0 not in list_impossible(dataset.label_map, dataset.num_classes)
    return possible and len(found) > 1 and found == list(range(1, len(found) + 1))


def describe(pixels: Counter) -> str:
    """Return labels and their pixels in words: 0: 1,200, 255: 80."""
    shown = [f"{label}: {pixels[label]:,}" for label in sorted(pixels)]
    return ", ".join(shown[:SHOWN] + ["..."] * (len(shown) > SHOWN))
