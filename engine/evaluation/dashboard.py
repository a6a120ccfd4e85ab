"""Show a validation and a sweep on a dashboard."""
import numpy as np

from attacks import NORMS
from engine.records.naming import name_attack
from utils.images import choose_evenly, to_uint8
from utils.text import format_score


class Samples:
    """An on_batch callback that shows `count` images, evenly spaced, as image | target | prediction."""

    def __init__(self, dashboard, dataset, count: int):
        chosen = choose_evenly(len(dataset), count) if dashboard.enabled else []
        self.windows = {index: f"Sample {k}" for k, index in enumerate(chosen)}
        self.dashboard, self.dataset = dashboard, dataset

    def __call__(self, scored):
        """Show the chosen images of a batch (evaluate.Scored)."""
        for index, image, target, pred in zip(scored.indices, scored.images, scored.labels, scored.preds, strict=True):
            if index in self.windows:
                masks = [self.dataset.decode_target(mask.cpu().numpy()) for mask in (target, pred)]
                pictures = [to_uint8(image), *masks]  # side by side
                self.dashboard.vis_image(self.windows[index], np.concatenate(pictures, axis=1).transpose(2, 0, 1))


def show_validation(dashboard, results: dict, *, itr: int, class_names: list[str]):
    """Show a validation's scores in the windows [Val] Overall Acc, [Val] Mean IoU and [Val] Class IoU."""
    dashboard.vis_scalar("[Val] Overall Acc", itr, results["Overall Acc"])
    dashboard.vis_scalar("[Val] Mean IoU", itr, results["Mean IoU"])
    class_iou = zip(class_names, results["Class IoU"].values(), strict=True)
    dashboard.vis_table("[Val] Class IoU", {name: format_score(iou) for name, iou in class_iou})


def show_robustness(dashboard, rows: list[dict]):
    """Show the window Robust Mean IoU: a line per attack and norm over eps (linf in grey levels) from clean on."""
    clean = next(result["Mean IoU"] for result in rows if result["attack"] == "none")
    attacked = [(f"{name_attack(result['settings'] or result)} {result['norm']}", result) for result in rows
                if result["attack"] != "none" and result["norm"] in NORMS]  # not corruptions
    for line in dict.fromkeys(title for title, _ in attacked):
        points = [(result["eps"] * (255 if result["norm"] == "linf" else 1), result["Mean IoU"])
                  for title, result in attacked if title == line]
        for x, y in sorted([(0.0, clean), *points]):
            dashboard.vis_scalar("Robust Mean IoU", x, y, line=line)
