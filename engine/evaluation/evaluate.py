"""Score batches clean and attacked; evaluate under a single attack."""
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from attacks import NORMS, Attack, Outcome
from attacks.pixels import Pixels
from datasets import ImageSet
from engine.evaluation.shards import take_share
from engine.records.naming import make_title
from metrics import counts_per_image
from utils.device import device_of
from utils.distributed import fail_together, is_main, world_size
from utils.divergence import refuse_diverged
from utils.logging import PipeSafeStream, logger
from utils.modes import eval_mode
from utils.text import count_of, format_score, format_time
from utils.wide import to_float64


@dataclass
class Scored:
    """A scored batch: `clean` images as loaded, `images` as attacked, both [B, 3, H, W] in [0, 1].

    indices: the images' indices in the data set; labels, preds: int64 [B, H, W]; logits [B, C, H, W]; outcome: what the
    attack returned, None for clean images; candidates: {name: predictions [B, H, W]} of its candidates.
    """

    indices: list[int]
    clean: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor
    preds: Tensor
    outcome: Outcome | None = None
    candidates: dict[str, Tensor] = field(default_factory=dict)


def evaluate(model, loader, metrics, attack=None, *, on_batch=None, title: str | None = None) -> dict:
    """Score `model` on all of `loader`, on adversarial images if `attack` is given; return metrics.get_results().

    model: [0, 1] images -> logits [B, C, H, W], not a parallel wrapper; its train/eval flags are restored. loader:
    batches (images [B, 3, H, W] in [0, 1], labels [B, H, W], indices [B]; without indices images are counted). An
    image's random numbers depend only on the attack's seed and its index. on_batch(scored) is called for every batch,
    under torchrun on each rank for every world_size-th; the results are of all batches.
    """
    metrics.reset()
    title = title or make_title(None if attack is None else attack.settings())
    with fail_together(), show_progress(take_share(loader), title) as bar:
        for scored in score_batches(model, bar, [attack]):
            metrics.update(scored.labels, scored.preds)
            bar.set_postfix_str(f"mIoU {format_score(metrics.get_results()['Mean IoU'])}", refresh=False)
            if on_batch is not None:
                on_batch(scored)
    metrics.sum_ranks()
    return metrics.get_results()


def score_batches(model, loader, attacks: list, *, attacked=None) -> Iterator[Scored]:
    """Yield every batch of `loader`, scored under each of `attacks` (None: clean), each from the previous result.

    attacked: the network that attacks see, `model` by default. An attack that sees another one chooses by that alone,
    so its candidates are not scored.
    Raises FloatingPointError for logits of a network that has diverged, which would have a mean IoU like any others.
    """
    device, attacked, seen = device_of(model), model if attacked is None else attacked, 0
    with eval_mode(model):
        for images, labels, *indices in loader:
            if not indices and world_size() > 1:
                raise ValueError("under torchrun a loader must give the images' indices, as each rank sees only some")
            indices = indices[0].tolist() if indices else list(range(seen, seen + len(images)))
            seen += len(images)
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, torch.int64, non_blocking=True)
            outcome = None
            for attack in attacks:
                start = None if outcome is None else outcome.images
                if attack is not None:
                    outcome = attack.run(attacked, images, labels, image_ids=indices, start=start)
                points = images if outcome is None else outcome.images
                logits = _predict(model, points)
                offered = outcome.candidates if outcome is not None and attacked is model else {}
                candidates = {name: _predict(model, each).argmax(dim=1) for name, each in offered.items()}
                yield Scored(indices, images, points, labels, logits, logits.argmax(dim=1), outcome, candidates)


def _predict(model, images: Tensor) -> Tensor:
    """Return the logits; raise FloatingPointError if the network has diverged."""
    with torch.no_grad():
        logits = model(images)
    refuse_diverged(logits)
    return logits


def show_progress(loader, title: str) -> tqdm:
    """Return a progress bar on rank 0's stderr; to a file it writes a line every half minute."""
    return tqdm(loader, desc=title, unit="batch", file=PipeSafeStream(sys.stderr), disable=not is_main(),
                mininterval=0.2 if sys.stderr.isatty() else 30)


def announce(bar, attacks: list, title: str, images: int) -> Iterator[tuple]:
    """Yield the batches of `bar` and log what `attacks` on `images` of them cost; nothing for clean images.

    Before the first batch: the gradients of each image. After it: its time, times this process's number of batches.
    """
    if attacks == [None]:
        yield from bar
        return
    logger.info("%s: %s per image, %s", title, describe_cost(attacks), count_of(images, "image"))
    begun = time.monotonic()
    for number, batch in enumerate(bar):
        yield batch
        if number == 0 and len(bar) > 1:
            if sys.stderr.isatty():
                bar.clear()
            logger.info("%s: about %s for %d images", title, format_time(len(bar) * (time.monotonic() - begun)), images)


def describe_cost(attacks: list[Attack]) -> str:
    """Return what an image costs under all `attacks`: 10 gradients, or 1000 queries where they use none."""
    if gradients := sum(attack.count_gradients() for attack in attacks):
        return count_of(gradients, "gradient")
    queries = sum(attack.restarts * getattr(attack, "steps", 0) for attack in attacks)
    return f"no gradients, {queries} queries" if queries else "no gradients"


def make_lines(scored: Scored, images: ImageSet, attack: Attack | None) -> list[dict]:
    """Return a record line for each image of a batch; of a targeted attack with "at_target", its hits.

    "candidates", of an attack that offers some: {name: intersection and union}; the line has those of "winner".
    """
    intersection, union, pixels = _count(scored.labels, scored.preds, images)
    norm = NORMS["linf" if attack is None else attack.norm]
    radii = norm.measure(to_float64(scored.images) - to_float64(scored.clean))
    losses = Pixels(scored.logits, scored.labels).cross_entropy()
    passes = torch.zeros(2, len(scored.indices)) if scored.outcome is None else torch.stack(
        [scored.outcome.forwards, scored.outcome.backwards])
    hits = [{}] * len(scored.indices)  # labelled pixels predicted as the target
    if attack is not None and attack.target is not None:
        labelled = (scored.labels >= 0) & (scored.labels < images.num_classes)
        there = labelled & (scored.preds == torch.as_tensor(attack.target).to(scored.preds))
        hits = [{"at_target": count} for count in there.flatten(1).sum(1).tolist()]
    offered = {name: _count(scored.labels, preds, images) for name, preds in scored.candidates.items()}
    return [{**hits[k], **_describe_candidates(offered, (intersection, union), k), "image": images.name(index),
             "intersection": intersection[k], "union": union[k], "pixels": pixels[k], "radius": radii[k].item(),
             "loss": losses[k].item(), "forwards": int(passes[0, k]), "backwards": int(passes[1, k])}
            for k, index in enumerate(scored.indices)]


def _count(labels: Tensor, preds: Tensor, images: ImageSet) -> list[list[list[int]]]:
    """Return [intersection, union, pixels], each a list of images of lists of classes."""
    return [counts.tolist() for counts in counts_per_image(labels, preds, images.num_classes)]


def _describe_candidates(offered: dict[str, list], chosen: tuple[list, list], k: int) -> dict:
    """Return what the line of image k of the batch says about its candidates, {} if there are none.

    chosen: intersection and union of the attack's result. "winner" is the candidate that it is, None for the start.
    """
    if not offered:
        return {}
    counts = {name: {"intersection": intersection[k], "union": union[k]}
              for name, (intersection, union, _) in offered.items()}
    winners = [name for name, each in counts.items() if each == {"intersection": chosen[0][k], "union": chosen[1][k]}]
    return {"candidates": counts, "winner": winners[0] if winners else None}
