"""The training labels' pixels of each class, for attacks with a balanced loss, and the weights of --class_weights.

Checkpoints keep both.
"""
import math
from pathlib import Path

from datasets import count_frequencies, count_pixels
from utils.distributed import broadcast_object, fail_together, is_main
from utils.errors import UserError
from utils.logging import logger

KEY, WEIGHTS = "class_pixels", "class_weights"
BALANCED = "balanced"


class ClassPixels:
    """Counts once, before the first validation, so that neither the start waits nor the best checkpoint lacks them.

    dataset: the training set. saved: the checkpoint that the run continues; its counts are valid for the same images.
    """

    def __init__(self, dataset, *, train_images: str, saved: dict):
        self.dataset, self.tried = dataset, False
        same = KEY in saved and saved.get("train_images") == train_images
        self.known = {KEY: saved[KEY]} if same else {}

    def count(self, trainer):
        """Put the counts into what the trainer saves; every rank calls it, rank 0 counts. Stops for a signal."""
        if KEY in trainer.described or self.tried:
            return
        self.tried = True
        with fail_together():
            if is_main():
                try:
                    counts = count_pixels(self.dataset, on_label=trainer.interrupts.check)
                except UserError as problem:  # the training can go on
                    logger.warning("Warning: the pixels of each class can't be counted (%s): an attack on mce_bal will "
                                   "count them (docs/attacks.md#class-weights)", problem)
                else:
                    trainer.described[KEY] = counts.tolist()


def find_class_weights(asked: str, dataset, *, train_images: str, saved: dict) -> list[float]:
    """Return the weight of each class: from a file, or "balanced", the median frequency divided by the class's.

    A frequency is a class's share of the labelled pixels of the images that have it, as in Eigen and Fergus, ICCV 2015.
    Balanced weights are those of the checkpoint `saved` if it is of the same images. Raises UserError for a bad file.
    """
    if asked != BALANCED:
        return read_weights(Path(asked), dataset.num_classes)
    if saved.get("train_images") == train_images and _are_weights(saved.get(WEIGHTS), dataset.num_classes):
        return saved[WEIGHTS]
    with fail_together():
        frequencies = count_frequencies(dataset) if is_main() else None
    frequencies = broadcast_object(frequencies)
    present = frequencies > 0
    weights = frequencies[present].median() / frequencies.where(present, 1) * present
    logger.info("Class weights: %s", ", ".join(f"{name} {weight:.3g}" for name, weight in zip(
        dataset.class_names, weights.tolist(), strict=True)))
    return weights.tolist()


def read_weights(path: Path, num_classes: int) -> list[float]:
    """Return the numbers in a file, one for each class, separated by blanks or line ends. Raises UserError."""
    try:
        weights = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise UserError(f"--class_weights {path}: {error}: give {BALANCED}, or a file with a number for each class") \
            from None
    if not _are_weights(weights, num_classes):
        raise UserError(f"--class_weights {path} has {len(weights)} numbers: give one for each of the {num_classes} "
                        "classes, 0 or more, in their order")
    return weights


def _are_weights(value, num_classes: int) -> bool:
    return isinstance(value, list) and len(value) == num_classes and all(
        isinstance(weight, float) and 0 <= weight < math.inf for weight in value) and any(value)
