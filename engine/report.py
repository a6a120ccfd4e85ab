"""Results for people and programs: rows, the table on the screen, results.json, PNGs, the dashboard's windows."""
import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from utils.logging import logger

SCORES = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU")


def attack_settings(name: str, attack) -> dict:
    """What attacked, as the first part of a row; `none` is clean."""
    return {"attack": name, **(attack.settings() if attack is not None else {"norm": None, "eps": 0.0, "steps": 0})}


def row(settings: dict, results: dict, *, class_names: list[str]) -> dict:
    """One result: what attacked, and how the model scored; Class IoU by class name."""
    class_iou = dict(zip(class_names, results["Class IoU"].values(), strict=True))
    return {**settings, **{score: results[score] for score in SCORES}, "Class IoU": class_iou}


def radius(settings: dict) -> str:
    """A row's eps as people write it: for linf 4/255 where it is a number of grey levels (below 8, of quarters)."""
    eps = settings["eps"]
    levels = Fraction(eps * 255).limit_denominator(4 if eps * 255 < 8 else 1)
    if settings["norm"] == "linf" and eps and math.isclose(levels, eps * 255, rel_tol=1e-9):
        return f"{float(levels):g}/255"
    return f"{eps:g}"


def label(settings: dict) -> str:
    """A row's name in file names: clean, or pgd_linf_4-255_10steps."""
    if settings["attack"] == "none":
        return "clean"
    eps = radius(settings).replace("/", "-")
    return f"{settings['attack']}_{settings['norm']}_{eps}_{settings['steps']}steps"


def table(rows: list[dict], *, first: dict[str, list] | None = None) -> str:
    """Rows as a Markdown table, one line each; `first` adds columns in front, {title: a value per row}."""
    columns = {
        **(first or {}),
        "Attack": [result["attack"] for result in rows],
        "Norm": [result["norm"] or "-" for result in rows],
        "eps": [radius(result) for result in rows],
        "Steps": [str(result["steps"]) for result in rows],
        **{score: [f"{result[score]:.4f}" for result in rows] for score in ("Mean IoU", "Overall Acc", "Mean Acc")},
    }
    widths = [max(map(len, [title, *map(str, values)])) for title, values in columns.items()]
    lines = [list(columns), ["-" * width for width in widths], *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in lines)


def write_results(path: Path, results: dict):
    """Write results.json, nan as null; results of an earlier evaluation are kept as results.1.json, .2 and so on."""
    keep_earlier(path)
    path.write_text(json.dumps(_without_nan(results), indent=1) + "\n", encoding="utf-8")
    logger.info("Results written to %s", path)


def keep_earlier(path: Path):
    """Rename what is at `path`, a file or a folder, to the first free of name.1, name.2, ..."""
    if path.exists():
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))


def _without_nan(value):
    """JSON knows no nan."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def to_uint8(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] -> [H, W, 3] uint8, rounded (cutting off would darken a third of the pixels)."""
    return image.detach().mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def overlay(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Prediction colours at 70 % over the image, both [H, W, 3] uint8."""
    return np.rint(0.3 * image + 0.7 * colours).astype(np.uint8)


class PngWriter:
    """on_batch callback: <folder>/<name>_{image,target,pred,overlay}.png for every image."""

    def __init__(self, folder: Path, dataset):
        self.folder, self.dataset = Path(folder), dataset
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, indices, images, labels, preds):
        """Write the pictures of a batch."""
        for index, image, target, pred in zip(indices, images, labels, preds, strict=True):
            image, pred = to_uint8(image), self.dataset.decode_target(pred.cpu().numpy())
            pictures = {"image": image, "target": self.dataset.decode_target(target.cpu().numpy()),
                        "pred": pred, "overlay": overlay(image, pred)}
            for kind, picture in pictures.items():
                Image.fromarray(picture).save(self.folder / f"{self.dataset.name(index)}_{kind}.png")


class Samples:
    """on_batch callback: shows `count` images, evenly spaced over the data set, as image | target | prediction."""

    def __init__(self, dashboard, dataset, count: int):
        chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int)) if dashboard.enabled else []
        self.windows = {int(index): f"Sample {k}" for k, index in enumerate(chosen)}
        self.dashboard, self.dataset = dashboard, dataset

    def __call__(self, indices, images, labels, preds):
        """Show those of a batch that were chosen."""
        for index, image, target, pred in zip(indices, images, labels, preds, strict=True):
            if index in self.windows:
                masks = [self.dataset.decode_target(mask.cpu().numpy()) for mask in (target, pred)]
                pictures = [to_uint8(image), *masks]  # side by side
                self.dashboard.vis_image(self.windows[index], np.concatenate(pictures, axis=1).transpose(2, 0, 1))


def show_validation(dashboard, results: dict, *, itr: int, class_names: list[str]):
    """A validation's scores in the windows [Val] Overall Acc, [Val] Mean IoU and [Val] Class IoU."""
    dashboard.vis_scalar("[Val] Overall Acc", itr, results["Overall Acc"])
    dashboard.vis_scalar("[Val] Mean IoU", itr, results["Mean IoU"])
    class_iou = zip(class_names, results["Class IoU"].values(), strict=True)
    dashboard.vis_table("[Val] Class IoU", {name: f"{iou:.4f}" for name, iou in class_iou})


def show_robustness(dashboard, rows: list[dict]):
    """The window Robust Mean IoU: a line per attack and norm over eps (linf in grey levels), starting at clean."""
    clean = next(result["Mean IoU"] for result in rows if result["attack"] == "none")
    attacked = [result for result in rows if result["attack"] != "none"]
    for line in dict.fromkeys((result["attack"], result["norm"]) for result in attacked):
        unit = 255 if line[1] == "linf" else 1
        points = [(result["eps"] * unit, result["Mean IoU"]) for result in attacked
                  if (result["attack"], result["norm"]) == line]
        for x, y in sorted([(0.0, clean), *points]):
            dashboard.vis_scalar("Robust Mean IoU", x, y, line=f"{line[0]} {line[1]}")
