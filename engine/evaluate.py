"""One function for clean and attacked evaluation, and the list of results that a call asks for."""
import sys

import torch
from tqdm import tqdm

from engine import options, report
from metrics import StreamSegMetrics
from utils.logging import logger
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


def evaluate_all(opts, model, loader, dataset, attacks: list, *, folder, dashboard) -> dict:
    """Evaluate clean, then under each of `attacks`, (name, attack) pairs; returns what results.json holds.

    Shows and writes what was found, also where an error or a Ctrl-C ends it half-way.
    """
    rows = []
    results = {"options": options.to_dict(opts), "results": rows}
    pictures = folder / "val_results"
    if opts.save_val_results:
        report.keep_earlier(pictures)
    try:
        for name, attack in [("none", None), *attacks]:
            settings = report.attack_settings(name, attack)
            writer = report.PngWriter(pictures / report.label(settings), dataset) if opts.save_val_results else None
            scores = evaluate(model, loader, StreamSegMetrics(dataset.num_classes), attack, on_batch=writer)
            rows.append(report.row(settings, scores, class_names=dataset.class_names))
    finally:
        if rows:
            logger.info("\n%s\n", report.table(rows))
            report.write_results(folder / "results.json", results)
            report.show_robustness(dashboard, rows)
    return results


def _title(attack) -> str:
    if attack is None:
        return "clean"
    return f"{type(attack).__name__.lower()} {attack.norm} {report.radius(attack.settings())}"


def _progress(loader, title: str) -> tqdm:
    """A bar on stderr; where that is a file, a line every half minute instead of ten a second."""
    return tqdm(loader, desc=title, unit="batch", mininterval=0.2 if sys.stderr.isatty() else 30)
