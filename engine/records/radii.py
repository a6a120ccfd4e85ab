"""Results of min_radius: each image's own radius, and how many images have one of at most eps."""
import math

import numpy as np

from engine.records.naming import format_radius, name_attack
from engine.records.store import Record
from utils.text import format_markdown

SHOWN = {"linf": tuple(level / 255 for level in (0.25, 0.5, 1, 2, 4, 8)), "l2": (0.25, 0.5, 1.0, 2.0, 4.0)}
QUARTILES = {"lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75}


def describe_radii(record: Record, names: list[str], *, asked=None) -> dict:
    """Return what a record of min_radius says about the images `names`.

    "radii": {image: its smallest radius}, None where fewer pixels than the asked share are wrong; without images that
    have no label. "lower quartile", "median" and "upper quartile" are radii of images, None where that image has none;
    "at most": [[eps, share of images with a radius of at most eps]] for the radii `asked` (default SHOWN); "wrong when
    clean" and "not found": numbers of images; "forwards" and "backwards": means.
    """
    settings, lines = record.settings, record.lines(names)
    radii = {line["image"]: line["radius"] if _succeeds(line, settings["min_radius_share"]) else math.inf
             for line in lines if sum(line["pixels"])}
    found = np.array(list(radii.values()))
    shares = [[eps, float(np.mean(found <= eps)) if len(found) else math.nan]
              for eps in asked or SHOWN.get(settings["norm"], ())]
    return {"settings": settings, "record": record.stem, "images": len(found),
            **{name: _finite(np.quantile(found, share, method="inverted_cdf")) if len(found) else None
               for name, share in QUARTILES.items()},
            "wrong when clean": int((found == 0).sum()), "not found": int(np.isinf(found).sum()), "at most": shares,
            "radii": {name: _finite(radius) for name, radius in radii.items()},
            **{passes: sum(line[passes] for line in lines) / len(names) for passes in ("forwards", "backwards")}}


def format_radii(described: list[dict]) -> str:
    """Return a Markdown table for each norm, with a line for each description; with "run" it names runs."""
    return "\n\n".join(map(format_markdown, tabulate_radii(described)))


def tabulate_radii(described: list[dict]) -> list[dict[str, list[str]]]:
    """Return the columns {title: cells} of each of these tables."""
    norms = dict.fromkeys(each["settings"]["norm"] for each in described)
    return [_make_columns([each for each in described if each["settings"]["norm"] == norm]) for norm in norms]


def _make_columns(described: list[dict]) -> dict[str, list[str]]:
    columns = {"Run": [each["run"] for each in described]} if "run" in described[0] else {}
    settings = [each["settings"] for each in described]
    columns |= {"Attack": [f"{name_attack(each)} {each['norm']}" for each in settings],
                "Wrong": [f"{100 * each['min_radius_share']:.4g} %" for each in settings],
                "Steps": [str(each["steps"]) for each in settings],
                "Images": [str(each["images"]) for each in described]}
    columns |= {name: [_format(each[name], each["settings"]) for each in described] for name in QUARTILES}
    columns |= {name: [str(each[name]) for each in described] for name in ("wrong when clean", "not found")}
    asked = [eps for eps, _ in described[0]["at most"]]
    return columns | {
        f"within {format_radius({**described[0]['settings'], 'eps': eps})}":
            [f"{100 * each['at most'][place][1]:.0f} %" if each["images"] else "-" for each in described]
        for place, eps in enumerate(asked)}


def _succeeds(line: dict, share: float) -> bool:
    labelled = sum(line["pixels"])
    return labelled - sum(line["intersection"]) >= share * labelled - 1e-6  # pixels: share is not exact as a float


def _finite(radius: float) -> float | None:
    return float(radius) if math.isfinite(radius) else None


def _format(radius: float | None, settings: dict) -> str:
    if radius is None:
        return "not found"
    return f"{radius * 255:.3g}/255" if settings["norm"] == "linf" else f"{radius:.3g}"
