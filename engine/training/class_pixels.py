"""The training labels' pixels of each class, which checkpoints keep for attacks with a balanced loss."""
from datasets import count_pixels
from utils.distributed import fail_together, is_main
from utils.errors import UserError
from utils.logging import logger

KEY = "class_pixels"


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
