"""One function for clean and attacked evaluation."""
import sys

import torch
from tqdm import tqdm

from engine.report import radius
from utils.modes import eval_mode


def evaluate(model, loader, metrics, attack=None, *, on_batch=None, title: str | None = None) -> dict:
    """Score `model` on all of `loader`, on adversarial images where there is an attack; returns metrics.get_results().

    model: [0, 1] images -> logits [B, C, H, W], not a parallel wrapper; it gets its train/eval flags back. loader:
    batches (images [B, 3, H, W] in [0, 1], labels [B, H, W], and the images' indices [B], else they are counted).
    An image's random start depends on the attack's seed and its index alone. on_batch(indices, images, labels, preds)
    sees what was scored, the adversarial images where there are any.
    """
    device = next(model.parameters()).device
    metrics.reset()
    seen = 0
    with eval_mode(model), _progress(loader, title or _title(attack)) as bar:
        for images, labels, *indices in bar:
            indices = indices[0].tolist() if indices else list(range(seen, seen + len(images)))
            seen += len(images)
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True)
            if attack is not None:
                images = attack(model, images, labels, image_ids=indices)
            with torch.no_grad():
                preds = model(images).argmax(dim=1)  # [B, H, W]
            metrics.update(labels, preds)
            bar.set_postfix_str(f"mIoU {metrics.get_results()['Mean IoU']:.4f}", refresh=False)
            if on_batch is not None:
                on_batch(indices, images, labels, preds)
    return metrics.get_results()


def _title(attack) -> str:
    return "clean" if attack is None else f"{type(attack).__name__.lower()} {attack.norm} {radius(attack.settings())}"


def _progress(loader, title: str) -> tqdm:
    """A bar on stderr; where that is a file, a line every half minute instead of ten a second."""
    return tqdm(loader, desc=title, unit="batch", mininterval=0.2 if sys.stderr.isatty() else 30)
