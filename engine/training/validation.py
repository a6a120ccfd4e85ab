"""The validation of a training: clean scores, and with --val_attack those of some images under attack."""
from dataclasses import dataclass

from torch import nn

from attacks import Attack
from datasets import list_batches, select_batches
from engine.evaluation.dashboard import Samples, show_validation
from engine.evaluation.evaluate import evaluate
from engine.training.meter import ROBUST
from metrics import StreamSegMetrics
from utils.images import choose_evenly
from utils.logging import logger


@dataclass
class UnderAttack:
    """What a validation attacks: `model` on `count` evenly spaced images."""

    attack: Attack
    model: nn.Module
    count: int


def make_validation(model: nn.Module, val_loader, val_set, dashboard, before, *, samples: int,
                    under_attack: UnderAttack | None = None):
    """Return a function that calls before(trainer), then scores the model, logs the scores and shows them.

    samples: the number of images to show. With under_attack the scores have ROBUST, the mean IoU of these images.
    """
    shown = Samples(dashboard, val_set, samples)
    attacked = select_images(val_loader, under_attack.count) if under_attack else None

    def validate(trainer):
        def on_batch(batch):
            shown(batch, itr=trainer.cur_itrs)
            trainer.interrupts.check()

        before(trainer)
        metrics = StreamSegMetrics(val_set.num_classes)
        results = evaluate(model, val_loader, metrics, on_batch=on_batch, title="validation")
        logger.info(metrics.to_str(results))
        if under_attack:
            robust = evaluate(under_attack.model, attacked, StreamSegMetrics(val_set.num_classes), under_attack.attack,
                              on_batch=lambda _: trainer.interrupts.check())
            results[ROBUST] = robust["Mean IoU"]
            logger.info("%s: %.6f (%d images, %r)", ROBUST, results[ROBUST], sum(map(len, list_batches(attacked))),
                        under_attack.attack)
            dashboard.scalar(f"[Val] {ROBUST}", trainer.cur_itrs, results[ROBUST])
        show_validation(dashboard, results, metrics.confusion_matrix, itr=trainer.cur_itrs,
                        class_names=val_set.class_names)
        return results

    return validate


def select_images(loader, count: int):
    """Return a loader of `count` of a loader's images, evenly spaced, in batches of the same size."""
    indices = [index for batch in list_batches(loader) for index in batch]
    chosen = [indices[place] for place in choose_evenly(len(indices), count)]
    size = max(map(len, list_batches(loader)))
    return select_batches(loader, [chosen[place:place + size] for place in range(0, len(chosen), size)])
