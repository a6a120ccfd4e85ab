"""Results for people and programs: rows, the table on the screen, results.json, PNGs, the dashboard's windows."""
import itertools
import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from utils.errors import UserError
from utils.logging import logger
from utils.text import is_file_name, plain


def attack_name(settings: dict) -> str:
    """An attack as people call it: none, pgd, apgd-mce, red-eps apgd as red-apgd-mce, with a target pgd-to-3."""
    name, loss = settings["attack"], settings.get("attack_loss")
    name = f"red-{name}" if settings.get("red_eps") else name
    parts = [loss] if loss not in (None, name, "ce", "margin") else []
    target = settings.get("target")
    parts += ["bf16"] if settings.get("amp") or settings.get("attack_amp") else []
    return "-".join([name, *parts, *([] if target is None else ["to", str(target).replace(" ", "-")])])


def radius(settings: dict) -> str:
    """A row's eps as people write it: for linf 4/255 where it is a number of grey levels (below 8, of quarters)."""
    eps = settings["eps"]
    levels = Fraction(eps * 255).limit_denominator(4 if eps * 255 < 8 else 1)
    if settings["norm"] == "linf" and eps and math.isclose(levels, eps * 255, rel_tol=1e-9):
        return f"{float(levels):g}/255"
    return f"{eps:g}"


def label(settings: dict) -> str:
    """A result's name in file names: clean, or pgd_linf_4-255_10steps."""
    if settings["attack"] == "none":
        return "clean-bf16" if settings.get("amp") else "clean"
    parts = [attack_name(settings), settings["norm"], radius(settings).replace("/", "-")]
    parts += [f"{settings['steps']}steps"] if settings.get("steps") else []
    parts += [f"{settings['restarts']}restarts"] if settings.get("restarts", 1) > 1 else []
    return "_".join(parts)


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, one line each."""
    return markdown({
        "Attack": [attack_name(result["settings"] or result) for result in rows],
        "Norm": [result["norm"] or "-" for result in rows],
        "eps": [radius(result) for result in rows],
        "Steps": ["-" if result["steps"] is None else str(result["steps"]) for result in rows],
        "Mean IoU": [bracket(result) for result in rows],
        **{score: [f"{result[score]:.4f}" for result in rows] for score in ("Overall Acc", "Image IoU")},
    })


def markdown(columns: dict[str, list[str]]) -> str:
    """Columns as a Markdown table that is legible as text too."""
    columns = [[plain(title), *map(plain, values)] for title, values in columns.items()]
    widths = [max(map(len, column)) for column in columns]
    title, *rows = zip(*columns, strict=True)
    lines = [title, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in lines)


def bracket(row: dict) -> str:
    """Mean IoU, for a worst case with the lower bound that no choice of attacks is below."""
    lower = row["Mean IoU lower"]
    return f"{row['Mean IoU']:.4f}" + ("" if lower is None else f" (>= {lower:.4f})")


def write_results(path: Path, results: dict):
    """Write results.json, nan as null; results of an earlier evaluation are kept as results.1.json, .2 and so on."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(without_nan(results), indent=1) + "\n", encoding="utf-8")
    keep_earlier(path)
    os.replace(temporary, path)  # whole or not at all
    logger.info("Results written to %s", path)


def keep_earlier(path: Path):
    """Rename what is at `path`, a file or a folder, to the first free of name.1, name.2, ..."""
    if path.exists():
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))


def without_nan(value):
    """JSON knows no nan."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def to_uint8(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] -> [H, W, 3] uint8, rounded (cutting off would darken a third of the pixels)."""
    return image.detach().mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def overlay(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Prediction colours at 70 % over the image, both [H, W, 3] uint8."""
    return np.rint(0.3 * image + 0.7 * colours).astype(np.uint8)


class Pictures:
    """Pictures of results: <folder>/<result>/<name>_{image,target,pred,overlay,perturbation}.png.

    Of `count` images, evenly spaced over `names`; where they are `needed`, also of what is recorded already. image is
    what was scored; perturbation shows its difference to the clean image, scaled so that the largest one is black or
    white.
    """

    def __init__(self, folder: Path, dataset, names: list[str], *, count: int, needed: bool = True):
        self.folder, self.dataset, self.needed = Path(folder), dataset, needed
        self.names = {names[k] for k in evenly(len(names), count)}
        for name in self.names:
            if not is_file_name(name):
                raise UserError(f"no picture can be called after the image {name!r}: rename it, to fewer letters "
                                "and no slash")

    def lacks(self, result: str, name: str) -> bool:
        """Whether this image has to be attacked for its pictures."""
        return self.needed and name in self.names and not (self.folder / result / f"{name}_image.png").is_file()

    def draw(self, scored) -> dict[str, dict[str, np.ndarray]]:
        """Those pictures of a batch (engine.evaluate.Scored) that are wanted: {image name: {kind: uint8 [H, W, 3]}}."""
        drawn = {}
        for k, index in enumerate(scored.indices):
            name = self.dataset.name(index)
            if name not in self.names:
                continue
            image, pred = to_uint8(scored.images[k]), self.dataset.decode_target(scored.preds[k].cpu().numpy())
            delta = scored.images[k] - scored.clean[k]
            drawn[name] = {"target": self.dataset.decode_target(scored.labels[k].cpu().numpy()), "pred": pred,
                           "overlay": overlay(image, pred), "perturbation": to_uint8(scaled(delta)),
                           "image": image}  # the last: where it is, all are
        return drawn

    def write(self, result: str, drawn: dict[str, dict[str, np.ndarray]]):
        """Write what draw() gave."""
        for name, pictures in drawn.items():
            (self.folder / result).mkdir(parents=True, exist_ok=True)
            for kind, picture in pictures.items():
                Image.fromarray(picture).save(self.folder / result / f"{name}_{kind}.png")


def scaled(delta: Tensor) -> Tensor:
    """A perturbation [3, H, W] as a picture: grey where it is 0, black and white at its largest size."""
    return 0.5 + 0.5 * delta / delta.abs().amax().clamp_min(1e-12)


def evenly(length: int, count: int) -> list[int]:
    """`count` places, evenly spaced over `length` ones from the first to the last; all where there are no more."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int)).tolist()


class Samples:
    """on_batch callback: shows `count` images, evenly spaced over the data set, as image | target | prediction."""

    def __init__(self, dashboard, dataset, count: int):
        chosen = evenly(len(dataset), count) if dashboard.enabled else []
        self.windows = {index: f"Sample {k}" for k, index in enumerate(chosen)}
        self.dashboard, self.dataset = dashboard, dataset

    def __call__(self, scored):
        """Show those of a batch (engine.evaluate.Scored) that were chosen."""
        for index, image, target, pred in zip(scored.indices, scored.images, scored.labels, scored.preds, strict=True):
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
    attacked = [(f"{attack_name(result['settings'] or result)} {result['norm']}", result) for result in rows
                if result["attack"] != "none"]
    for line in dict.fromkeys(title for title, _ in attacked):
        points = [(result["eps"] * (255 if result["norm"] == "linf" else 1), result["Mean IoU"])
                  for title, result in attacked if title == line]
        for x, y in sorted([(0.0, clean), *points]):
            dashboard.vis_scalar("Robust Mean IoU", x, y, line=line)
