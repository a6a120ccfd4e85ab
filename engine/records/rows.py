"""Rows of scores from records: under each recorded attack, and in the worst case over several of them."""
import numpy as np

from attacks import ENSEMBLE_LOSSES, SEA_LOSSES
from engine.records.corruptions import is_corruption
from engine.records.naming import finds_radius, make_label, name_sources
from engine.records.store import Record
from metrics import count_defined, greedy_selection, scores, worst_case
from utils.strict_json import canonical

UNIONS = {"sea": SEA_LOSSES, "ensemble": ENSEMBLE_LOSSES}  # of APGD with red-eps
WORST = "worst case"
# Settings in which the members of a union may differ.
LOSS_SETTINGS = ("attack_loss", "class_weights", "class_weights_from")
SHARED = ("norm", "eps", "steps", "restarts")
SCORES = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Mean IoU lower", "Image IoU", "Foreground IoU",
          "Target share")


def make_rows(records: list[Record], names: list[str], *, class_names: list[str],
            shared: set[str] | None = None) -> list[dict]:
    """Return a flat row for each record and each union of records, over the images `names`; clean first.

    In a union the adversary chooses, image by image, one of several untargeted records of one norm and eps or the
    clean image: `sea` and `ensemble` (APGD with red-eps on SEA_LOSSES or ENSEMBLE_LOSSES, all else equal) and `worst
    case` (all records, or those whose canonical settings are in `shared`). "Mean IoU lower" is a lower bound of its
    Mean IoU; "settings" and "loss" are None, "members" its records' labels, "records" their stems; a worst case has
    neither steps nor restarts. Attacks made on other networks ("transfer_from") are in a union only with those made on
    the same ones; corruptions are in none. "radius" is the maximum over images; "loss", "forwards" and "backwards" are
    means, passes summed over members; "ratio" is Mean IoU as a share of the clean one. A class that is in no label and
    no prediction has the Class IoU nan, and is not among the "Classes" of Mean IoU. A record whose attack offers
    candidates (race) has the scores of a union. Records of min_radius, which have no eps, are left out: see radii.py.
    Raises ValueError without a clean one.
    """
    records = sorted((record for record in records if not finds_radius(record.settings)),
                     key=lambda record: canonical(record.settings))
    (clean,) = [record for record in records if record.settings["attack"] == "none"]
    rows = [_make_member_row(record, names, class_names) for record in records]
    rows += [_make_union_row(name, clean, members, names, class_names)
             for name, members in _find_unions(records, shared)]
    rows.sort(key=sort_key)
    whole = rows[0]["Mean IoU"]
    return [{**row, "ratio": row["Mean IoU"] / whole if whole else float("nan")} for row in rows]


def sort_key(row: dict) -> tuple:
    """Return what rows are sorted by: clean, attacks, unions; then norm, name, loss, steps, eps."""
    union = [*UNIONS, WORST].index(row["attack"]) if row["members"] else -1
    return (row["attack"] != "none", union, row["norm"] != "linf", row["norm"] or "", row["attack"],
            row["attack_loss"] or "", name_sources(row), row["steps"] or 0, row["eps"])


def _find_unions(records: list[Record], shared: set[str] | None) -> list[tuple[str, list[Record]]]:
    """Return (name, members) of every union that these records form."""
    attacked = [record for record in records if record.settings["attack"] != "none"
                and record.settings.get("target") is None and not is_corruption(record.settings)]
    red_eps = [record for record in attacked if is_red_eps(record.settings)]
    unions = [(name, [record for record in group if record.settings["attack_loss"] in losses])
              for group in _group(red_eps, lambda settings: drop_keys(settings, *LOSS_SETTINGS))
              for name, losses in UNIONS.items()
              if {record.settings["attack_loss"] for record in group} >= set(losses)]
    if shared is not None:
        attacked = [record for record in attacked if canonical(record.settings) in shared]
    by_ball = _group(attacked, lambda settings: [settings["norm"], settings["eps"], settings.get("transfer_from")])
    return unions + [(WORST, group) for group in by_ball if len(group) > 1]


def is_red_eps(settings: dict) -> bool:
    """Return whether this is APGD with radius reduction."""
    return settings["attack"] == "apgd" and bool(settings.get("red_eps"))


def drop_keys(settings: dict, *keys: str) -> dict:
    """Return the settings without these keys."""
    return {key: value for key, value in settings.items() if key not in keys}


def _group(records: list[Record], key) -> list[list[Record]]:
    groups = {}
    for record in records:
        groups.setdefault(canonical(key(record.settings)), []).append(record)
    return list(groups.values())


def _make_member_row(record: Record, names: list[str], class_names: list[str]) -> dict:
    results = _score([record], names, class_names)
    lines = record.lines(names)
    loss = sum(line["loss"] for line in lines) / len(names)
    if all("at_target" in line for line in lines):
        labelled = sum(sum(line["pixels"]) for line in lines)
        results["Target share"] = sum(line["at_target"] for line in lines) / labelled if labelled else float("nan")
    return _make_row(record.settings["attack"], [record], names, class_names=class_names, results=results,
                attack_loss=record.settings.get("attack_loss"), settings=record.settings, members=[], loss=loss)


def _make_union_row(name: str, clean: Record, members: list[Record], names: list[str], class_names: list[str]) -> dict:
    results = _score([clean, *members], names, class_names)
    labels = [make_label(record.settings) for record in members]
    row = _make_row(name, members, names, class_names=class_names, results=results, attack_loss=None, settings=None,
               members=labels, loss=None)
    return row | ({"steps": None, "restarts": None} if name == WORST else {})


def choose_counts(records: list[Record], names: list[str]) -> tuple[tuple, tuple]:
    """Return what a row's two main scores are pooled from: per image and class, and per image.

    The first is (intersection, union) [N, S] of the choice for the mean IoU; the second (correct, labelled pixels)
    [N, 1] of that for the accuracy. records: the row's; of a union the clean one comes first.
    """
    intersection, union, pixels = _offer(records, names)
    chosen, images = greedy_selection(intersection, union)[0], np.arange(len(names))
    correct = intersection.sum(2).min(0)
    return ((intersection[chosen, images], union[chosen, images]),
            (correct[:, None], pixels.sum(1, keepdims=True)))


def _score(records: list[Record], names: list[str], class_names: list[str]) -> dict:
    """Return the scores of a record, or those of the worst choice, image by image, among all that records offer."""
    intersection, union, pixels = _offer(records, names)
    background = _find_background(class_names)
    if len(intersection) == 1:
        return scores(intersection[0], union[0], pixels, background=background)
    return worst_case(intersection, union, pixels, background=background)


def _offer(records: list[Record], names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return intersection, union [K, N, S] of the K images that records offer of each, and labelled pixels [N, S]."""
    offered = [counts for record in records for counts in record.candidates(names)]
    intersection, union, pixels = map(np.stack, zip(*offered, strict=True))
    return intersection, union, pixels[0]


def _make_row(attack: str, records: list[Record], names: list[str], *, class_names, results, attack_loss, settings,
              members, loss) -> dict:
    """Return a row without its ratio."""
    lines = [line for record in records for line in record.lines(names)]
    scored = {score: results[score] for score in SCORES if score in results}
    return {
        "attack": attack, "attack_loss": attack_loss,
        **{key: records[0].settings.get(key) for key in SHARED},
        **{key: records[0].settings[key] for key in ("transfer_from",) if key in records[0].settings},
        "settings": settings, "members": members, "records": [record.stem for record in records], "images": len(names),
        "Mean IoU lower": None, **scored, "Classes": count_defined(results["Class IoU"]),
        "Class IoU": dict(zip(class_names, results["Class IoU"].values(), strict=True)),
        "radius": max(line["radius"] for line in lines), "loss": loss,
        **{passes: sum(line[passes] for line in lines) / len(names) for passes in ("forwards", "backwards")},
    }


def _find_background(class_names: list[str]) -> int | None:
    return 0 if class_names[0] == "background" else None
