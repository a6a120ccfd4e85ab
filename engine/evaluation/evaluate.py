"""One function for clean and attacked evaluation."""
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from attacks import Outcome
from engine import report
from engine.sharing import share_of
from utils.distributed import is_main, together, world_size
from utils.logging import Steady
from utils.modes import eval_mode


@dataclass
class Scored:
    """A batch as it was scored: clean images as loaded, images as attacked, both [B, 3, H, W] in [0, 1].

    indices: the images' places in the data set; labels, preds: int64 [B, H, W]; logits [B, C, H, W]; outcome: what the
    attack returned, None where there was none.
    """

    indices: list[int]
    clean: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor
    preds: Tensor
    outcome: Outcome | None = None


def evaluate(model, loader, metrics, attack=None, *, on_batch=None, title: str | None = None) -> dict:
    """Score `model` on all of `loader`, on adversarial images where there is an attack; returns metrics.get_results().

    model: [0, 1] images -> logits [B, C, H, W], not a parallel wrapper; it gets its train/eval flags back. loader:
    batches (images [B, 3, H, W] in [0, 1], labels [B, H, W], and the images' indices [B], else they are counted).
    An image's random numbers depend on the attack's seed and its index alone. on_batch(scored) sees every batch. Under
    torchrun each rank scores, and on_batch there sees, every world_size-th batch; the results are of all.
    """
    metrics.reset()
    with together(), progress(share_of(loader), title or title_of(attack)) as bar:
        for scored in scored_batches(model, bar, [attack]):
            metrics.update(scored.labels, scored.preds)
            bar.set_postfix_str(f"mIoU {metrics.get_results()['Mean IoU']:.4f}", refresh=False)
            if on_batch is not None:
                on_batch(scored)
    metrics.sum_ranks()
    return metrics.get_results()


def scored_batches(model, loader, attacks: list) -> Iterator[Scored]:
    """Every batch of `loader`, scored under each of `attacks` in turn; None among them is clean.

    Each attack begins where the one before it ended: several are one attack with radii that grow (--warm_start).
    """
    device = next(model.parameters()).device
    seen = 0
    with eval_mode(model):
        for images, labels, *indices in loader:
            if not indices and world_size() > 1:
                raise ValueError("a loader for several ranks gives the images' indices: none sees all of them")
            indices = indices[0].tolist() if indices else list(range(seen, seen + len(images)))
            seen += len(images)
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True)
            outcome = None
            for attack in attacks:
                start = None if outcome is None else outcome.images
                if attack is not None:
                    outcome = attack.run(model, images, labels, image_ids=indices, start=start)
                points = images if outcome is None else outcome.images
                with torch.no_grad():
                    logits = model(points)
                yield Scored(indices, images, points, labels, logits, logits.argmax(dim=1), outcome)


def title_of(attack) -> str:
    """An attack and its radius, for a progress bar."""
    if attack is None:
        return "clean"
    settings = attack.settings()
    return f"{report.attack_name(settings)} {attack.norm} {report.radius(settings)}"


def progress(loader, title: str) -> tqdm:
    """A bar on rank 0's stderr; where that is a file, a line every half minute instead of ten a second."""
    return tqdm(loader, desc=title, unit="batch", file=Steady(sys.stderr), disable=not is_main(),
                mininterval=0.2 if sys.stderr.isatty() else 30)
