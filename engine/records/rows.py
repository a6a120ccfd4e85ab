"""Rows of results from records: the scores under every recorded attack, and in the worst case over several of them."""
import numpy as np

from attacks import ENSEMBLE_LOSSES, SEA_LOSSES
from engine.records.naming import label
from engine.records.store import Record
from metrics.robustness import scores, worst_case
from utils.strict_json import canonical

UNIONS = {"sea": SEA_LOSSES, "ensemble": ENSEMBLE_LOSSES}  # of APGD with red-eps
WORST = "worst case"
OF_A_LOSS = ("attack_loss", "class_weights")  # settings in which the members of a union may differ
SHARED = ("norm", "eps", "steps", "restarts")
SCORES = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Mean IoU lower", "Image IoU", "Foreground IoU",
          "Target share")


def rows_of(records: list[Record], names: list[str], *, class_names: list[str],
            shared: set[str] | None = None) -> list[dict]:
    """A flat row for each record of a run and each union of records, over the images `names`; clean first.

    A union is of the records, not targeted ones, that attack with one norm and eps, and lets the adversary choose one
    of them or the clean image for every image: `sea` and `ensemble` (APGD with red-eps on SEA_LOSSES or
    ENSEMBLE_LOSSES, all else equal) and `worst case` (all there are, with `shared` those whose canonical settings are
    in it). Its Mean IoU is bracketed from below by "Mean IoU lower"; "settings" and "loss" are None, "members" the
    labels of its records, "records" their stems; a worst case has no steps and restarts. "radius" is the maximum over
    images; "loss", "forwards" and "backwards" are means, passes summed over members; "ratio" is Mean IoU as a share of
    the clean one. Raises ValueError without a clean record.
    """
    records = sorted(records, key=lambda record: canonical(record.settings))
    (clean,) = [record for record in records if record.settings["attack"] == "none"]
    rows = [_member_row(record, names, class_names) for record in records]
    rows += [_union_row(name, clean, members, names, class_names) for name, members in _unions(records, shared)]
    rows.sort(key=order)
    whole = rows[0]["Mean IoU"]
    return [{**row, "ratio": row["Mean IoU"] / whole if whole else float("nan")} for row in rows]


def order(row: dict) -> tuple:
    """What rows are sorted by: clean, attacks, unions; then norm, name, loss, steps, eps."""
    union = [*UNIONS, WORST].index(row["attack"]) if row["members"] else -1
    return (row["attack"] != "none", union, row["norm"] != "linf", row["norm"] or "", row["attack"],
            row["attack_loss"] or "", row["steps"] or 0, row["eps"])


def _unions(records: list[Record], shared: set[str] | None) -> list[tuple[str, list[Record]]]:
    """(name, members) of every union that the records make up."""
    attacked = [record for record in records
                if record.settings["attack"] != "none" and record.settings.get("target") is None]
    red_eps = [record for record in attacked if is_red_eps(record.settings)]
    unions = [(name, [record for record in group if record.settings["attack_loss"] in losses])
              for group in _grouped(red_eps, lambda settings: without(settings, *OF_A_LOSS))
              for name, losses in UNIONS.items()
              if {record.settings["attack_loss"] for record in group} >= set(losses)]
    if shared is not None:
        attacked = [record for record in attacked if canonical(record.settings) in shared]
    by_ball = _grouped(attacked, lambda settings: [settings["norm"], settings["eps"]])
    return unions + [(WORST, group) for group in by_ball if len(group) > 1]


def is_red_eps(settings: dict) -> bool:
    """Whether this is APGD with radius reduction."""
    return settings["attack"] == "apgd" and bool(settings.get("red_eps"))


def without(settings: dict, *keys: str) -> dict:
    """All other settings."""
    return {key: value for key, value in settings.items() if key not in keys}


def _grouped(records: list[Record], key) -> list[list[Record]]:
    groups = {}
    for record in records:
        groups.setdefault(canonical(key(record.settings)), []).append(record)
    return list(groups.values())


def _member_row(record: Record, names: list[str], class_names: list[str]) -> dict:
    results = scores(*record.counts(names), background=_background(class_names))
    lines = record.lines(names)
    loss = sum(line["loss"] for line in lines) / len(names)
    if all("at_target" in line for line in lines):
        labelled = sum(sum(line["pixels"]) for line in lines)
        results["Target share"] = sum(line["at_target"] for line in lines) / labelled if labelled else float("nan")
    return _row(record.settings["attack"], [record], names, class_names=class_names, results=results,
                attack_loss=record.settings.get("attack_loss"), settings=record.settings, members=[], loss=loss)


def _union_row(name: str, clean: Record, members: list[Record], names: list[str], class_names: list[str]) -> dict:
    candidates = [record.counts(names) for record in (clean, *members)]
    intersection, union, _ = map(np.stack, zip(*candidates, strict=True))  # [K, N, S] each
    results = worst_case(intersection, union, candidates[0][2], background=_background(class_names))
    labels = [label(record.settings) for record in members]
    row = _row(name, members, names, class_names=class_names, results=results, attack_loss=None, settings=None,
               members=labels, loss=None)
    return row | ({"steps": None, "restarts": None} if name == WORST else {})


def _row(attack: str, records: list[Record], names: list[str], *, class_names, results, attack_loss, settings, members,
         loss) -> dict:
    """All of a row but the ratio."""
    lines = [line for record in records for line in record.lines(names)]
    scored = {score: results[score] for score in SCORES if score in results}
    return {
        "attack": attack, "attack_loss": attack_loss,
        **{key: records[0].settings.get(key) for key in SHARED},
        "settings": settings, "members": members, "records": [record.stem for record in records], "images": len(names),
        "Mean IoU lower": None, **scored,
        "Class IoU": dict(zip(class_names, results["Class IoU"].values(), strict=True)),
        "radius": max(line["radius"] for line in lines), "loss": loss,
        **{passes: sum(line[passes] for line in lines) / len(names) for passes in ("forwards", "backwards")},
    }


def _background(class_names: list[str]) -> int | None:
    return 0 if class_names[0] == "background" else None
