"""Batches scored clean and attacked, and the one function that evaluates under a single attack."""
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from attacks import Attack, Outcome
from attacks.losses import Pixels
from datasets import ImageSet
from engine.evaluation.shards import share_of
from engine.records.naming import title_of
from metrics import counts_per_image
from utils.device import device_of
from utils.distributed import fail_together, is_main, world_size
from utils.logging import PipeSafeStream
from utils.modes import eval_mode


@dataclass
class Scored:
    """A batch as it was scored: clean images as loaded, images as attacked, both [B, 3, H, W] in [0, 1].

    indices: the images' places in the data set; labels, preds: int64 [B, H, W]; logits [B, C, H, W]; outcome: what the
    attack returned, None for clean images.
    """

    indices: list[int]
    clean: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor
    preds: Tensor
    outcome: Outcome | None = None


def evaluate(model, loader, metrics, attack=None, *, on_batch=None, title: str | None = None) -> dict:
    """Score `model` on all of `loader`, on adversarial images if there is an attack; returns metrics.get_results().

    model: [0, 1] images -> logits [B, C, H, W], not a parallel wrapper; it gets its train/eval flags back. loader:
    batches (images [B, 3, H, W] in [0, 1], labels [B, H, W], and the images' indices [B], else they are counted).
    An image's random numbers depend only on the attack's seed and its index. on_batch(scored) sees every batch. Under
    torchrun each rank scores, and its on_batch sees, every world_size-th batch; the results are of all batches.
    """
    metrics.reset()
    title = title or title_of(None if attack is None else attack.settings())
    with fail_together(), progress(share_of(loader), title) as bar:
        for scored in scored_batches(model, bar, [attack]):
            metrics.update(scored.labels, scored.preds)
            bar.set_postfix_str(f"mIoU {metrics.get_results()['Mean IoU']:.4f}", refresh=False)
            if on_batch is not None:
                on_batch(scored)
    metrics.sum_ranks()
    return metrics.get_results()


def scored_batches(model, loader, attacks: list) -> Iterator[Scored]:
    """Yield every batch of `loader`, scored under each of `attacks` in turn; None among them is clean.

    Each attack begins where the one before it ended: several are one attack whose radius grows (--warm_start).
    """
    device = device_of(model)
    seen = 0
    with eval_mode(model):
        for images, labels, *indices in loader:
            if not indices and world_size() > 1:
                raise ValueError("a loader for several ranks gives the images' indices: no rank sees all of them")
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


def progress(loader, title: str) -> tqdm:
    """Return a bar on rank 0's stderr; where that is a file, it writes a line every half minute."""
    return tqdm(loader, desc=title, unit="batch", file=PipeSafeStream(sys.stderr), disable=not is_main(),
                mininterval=0.2 if sys.stderr.isatty() else 30)


def lines_of(scored: Scored, images: ImageSet, attack: Attack | None) -> list[dict]:
    """Return a record line for each image of a batch; with a target also "at_target", the labelled pixels there."""
    intersection, union, pixels = (counts.tolist() for counts in
                                     counts_per_image(scored.labels, scored.preds, images.num_classes))
    delta = (scored.images.double() - scored.clean.double()).flatten(1)
    radii = delta.norm(dim=1) if attack is not None and attack.norm == "l2" else delta.abs().amax(1)
    losses = Pixels(scored.logits, scored.labels).cross_entropy()
    passes = torch.zeros(2, len(scored.indices)) if scored.outcome is None else torch.stack(
        [scored.outcome.forwards, scored.outcome.backwards])
    if not losses.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    hits = [{}] * len(scored.indices)
    if attack is not None and attack.target is not None:
        labelled = (scored.labels >= 0) & (scored.labels < images.num_classes)
        there = labelled & (scored.preds == torch.as_tensor(attack.target).to(scored.preds))
        hits = [{"at_target": count} for count in there.flatten(1).sum(1).tolist()]
    return [{**hits[k], "image": images.name(index), "intersection": intersection[k], "union": union[k],
             "pixels": pixels[k], "radius": radii[k].item(), "loss": losses[k].item(),
             "forwards": int(passes[0, k]), "backwards": int(passes[1, k])} for k, index in enumerate(scored.indices)]
