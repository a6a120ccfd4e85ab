"""Runs with records of random counts."""
import json

import numpy as np

from engine.records import naming
from engine.records.store import Records

CLASSES = ["background", "road", "sky"]
CLEAN = {"attack": "none", "norm": None, "eps": 0.0, "steps": 0}
NAMES = ["one", "two", "three", "four"]


def pgd(eps=4 / 255, **settings):
    return {"attack": "pgd", "attack_loss": "ce", "norm": "linf", "eps": eps, "steps": 10, "restarts": 1,
            "target": None, "seed": 1, "step_size": eps / 4, **settings}


def apgd(loss, eps=4 / 255, **settings):
    weights = {"class_weights": [0.5, 0.3, 0.2]} if loss == "mce_bal" else {}
    return {"attack": "apgd", "attack_loss": loss, "norm": "linf", "eps": eps, "steps": 100, "restarts": 1,
            "target": None, "seed": 1, "red_eps": True, **weights, **settings}


def pixels_of(name, classes=3):
    return np.random.default_rng(sum(map(ord, name))).integers(20, 90, classes)


def record(run, settings, *, names=NAMES, seed=None, subject="a", class_names=CLASSES, change=None):
    """Write a record of random counts; returns its path. change: {image: (intersection, union)}."""
    rng = np.random.default_rng(abs(hash_of(settings)) if seed is None else seed)
    share = 0.9 if settings["attack"] == "none" else 0.5
    lines = []
    for number, name in enumerate(names):
        pixels = pixels_of(name, len(class_names))
        intersection = rng.binomial(pixels, share)
        union = pixels + rng.integers(0, 40, len(pixels))
        intersection, union = (change or {}).get(name, (intersection, union))
        lines.append({"image": name, "intersection": intersection, "union": union, "pixels": pixels,
                      "radius": settings["eps"] * (0.5 + 0.1 * number), "loss": 1.5 + number,
                      "forwards": settings["steps"] + number, "backwards": settings["steps"]})
    header = {"attack": settings, "subject": {"weights": subject}, "class_names": class_names}
    with Records(run / "records", header, label=naming.make_label(settings)) as records:
        records.append(lines)
    return records.path


def record_without_first_class(run):
    """Write a clean record in which no pixel is labelled or predicted as the first class, and none is right."""
    nothing = {name: (np.zeros(3, int), pixels_of(name) * [0, 1, 1]) for name in NAMES}
    path = record(run, CLEAN, change=nothing)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line["pixels"][0] = 0
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def hash_of(settings):
    return sum(map(ord, json.dumps(settings, sort_keys=True)))
