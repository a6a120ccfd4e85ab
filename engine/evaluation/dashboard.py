"""Show a validation and a sweep on a dashboard."""
from pathlib import Path

import numpy as np

from attacks import NORMS
from engine.records.naming import make_title, name_attack
from engine.records.summary import format_table
from utils.images import choose_evenly, read_rgb, to_uint8

MOST_SAMPLES = 8  # images under each attack
XLABEL = "eps (linf in grey levels, n/255)"


class Samples:
    """An on_batch callback that shows `count` images, evenly spaced, as image | target | prediction."""

    def __init__(self, dashboard, dataset, count: int):
        chosen = choose_evenly(len(dataset), count) if dashboard.enabled else []
        self.windows = {index: f"Sample {k}" for k, index in enumerate(chosen)}
        self.dashboard, self.dataset = dashboard, dataset

    def __call__(self, scored, *, itr: int = 0):
        """Show the chosen images of a batch (evaluate.Scored)."""
        for index, image, target, pred in zip(scored.indices, scored.images, scored.labels, scored.preds, strict=True):
            if index in self.windows:
                masks = [self.dataset.decode_target(mask.cpu().numpy()) for mask in (target, pred)]
                self.dashboard.image(self.windows[index], _place_side_by_side([to_uint8(image), *masks]), itr=itr)


def show_validation(dashboard, results: dict, confusion, *, itr: int, class_names: list[str]):
    """Show a validation's scores: curves of mIoU and pixel accuracy, a bar for each class, the confusion matrix.

    confusion: pixels [N, N], a row for each true class; shown as percentages of its row.
    """
    dashboard.scalar("[Val] Overall Acc", itr, results["Overall Acc"])
    dashboard.scalar("[Val] Mean IoU", itr, results["Mean IoU"])
    dashboard.bars("[Val] Class IoU", dict(zip(class_names, results["Class IoU"].values(), strict=True)), itr=itr)
    if dashboard.enabled:
        counts = confusion.cpu().numpy()
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        dashboard.heat_map("[Val] Confusion (%)", shares, class_names, itr=itr)


def show_results(dashboard, rows: list[dict], pictures: Path, names: list[str]):
    """Show a sweep: its table, mIoU over eps, and images before and under the attacks that have pictures."""
    if not dashboard.enabled:
        return
    dashboard.text("Results", format_table(rows))
    show_robustness(dashboard, rows)
    clean = next(row for row in rows if row["attack"] == "none")
    for row in rows:
        if row["settings"] and row is not clean:
            _show_samples(dashboard, _name_samples(row["settings"]), pictures / clean["records"][0],
                          pictures / row["records"][0], names)


def _name_samples(settings: dict) -> str:
    """Return an attack with its steps: those of 10 and of 30 at one eps have windows of their own."""
    steps, restarts = settings.get("steps") or 0, settings.get("restarts") or 1
    times = f"{restarts} x " if restarts > 1 else ""
    return make_title(settings) + (f", {times}{steps} steps" if steps > 1 or restarts > 1 else "")


def show_robustness(dashboard, rows: list[dict]):
    """Show the window Robust Mean IoU: a line per attack and norm over eps (linf in grey levels) from clean on."""
    clean = next(result["Mean IoU"] for result in rows if result["attack"] == "none")
    attacked = [(f"{name_attack(row['settings'] or row)} {row['norm']}", row) for row in rows
                if row["attack"] != "none" and row["norm"] in NORMS]  # not corruptions
    lines = {}
    for name, row in attacked:
        several = len({other["steps"] for title, other in attacked if title == name}) > 1
        points = lines.setdefault(f"{name}, {row['steps']} steps" if several else name, [(0.0, clean)])
        points.append((row["eps"] * (255 if row["norm"] == "linf" else 1), row["Mean IoU"]))
    if lines:
        dashboard.curves("Robust Mean IoU", {line: sorted(points) for line, points in lines.items()}, xlabel=XLABEL)


def _show_samples(dashboard, title: str, clean: Path, attacked: Path, names: list[str]):
    """Show image | target | prediction | prediction under attack | perturbation (scaled) of images with pictures."""
    paths = {name: [*(clean / f"{name}_{kind}.png" for kind in ("image", "target", "pred")),
                    *(attacked / f"{name}_{kind}.png" for kind in ("pred", "perturbation"))] for name in names}
    whole = [name for name in names if all(path.is_file() for path in paths[name])]
    for k in choose_evenly(len(whole), MOST_SAMPLES) if whole else []:
        dashboard.image(f"{whole[k]}: {title}", _place_side_by_side([read_rgb(path) for path in paths[whole[k]]]))


def _place_side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures [H, W, 3] as one, [3, H, W]."""
    return np.concatenate(pictures, axis=1).transpose(2, 0, 1)
