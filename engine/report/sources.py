"""The records and images of a comparison; UserError if they don't belong together."""
import math
from pathlib import Path

import numpy as np

from engine.records.corruptions import is_corruption
from engine.records.naming import finds_radius, make_label
from engine.records.rows import UNIONS, is_red_eps
from engine.records.shards import read_records
from engine.records.store import Record
from utils.errors import UserError
from utils.logging import logger
from utils.strict_json import canonical


def choose_records(folders: dict[str, Path], *, attacks=None, losses=None, norm: str | None = None,
           eps=None) -> dict[str, list[Record]]:
    """Return each run's clean record and those that pass the filters, all of its newest subject.

    attacks, losses: names; eps: numbers. Raises UserError if a run has no records or no clean one, if the filters
    leave nothing, or if classes differ.
    """
    found = {run: _keep_newest_subject(path, _read_all(path)) for run, path in folders.items()}
    kept = {run: [record for record in records if _is_wanted(record.settings, attacks, losses, norm, eps)]
            for run, records in found.items()}
    _refuse_nothing_left(kept, found)
    _refuse_other_classes(kept)
    return kept


def find_common_images(kept: dict[str, list[Record]]) -> tuple[list[str], str]:
    """Return the images that all records have, in a clean record's order, and a note on those left out, or "".

    Raises UserError if there are none, or if labels of an image differ between records.
    """
    records = [(run, record) for run, of_run in kept.items() for record in of_run]
    clean = [record for _, record in records if _is_clean(record)]
    names = [name for name in clean[0].names if all(name in record for _, record in records)]
    run, fewest = min(records, key=lambda pair: len(pair[1]))
    has = f"{make_label(fewest.settings)} of {run} has {len(fewest)} of {max(map(len, clean))}"
    if not names:
        raise UserError(f"no image is in all records ({has}): evaluate all runs on the same images "
                        "(docs/records.md#report)")
    _refuse_other_labels(records, names)
    if len(names) == max(map(len, clean)):
        return names, ""
    note = f"figures are over the {len(names)} images that all records have; {has}"
    logger.warning("%s", note)
    return names, note


def _is_clean(record: Record) -> bool:
    return record.settings["attack"] == "none"


def _read_all(run: Path) -> list[Record]:
    """Return the records of a run that hold an image, oldest first."""
    records = read_records(run)
    if not any(map(len, records)):
        raise UserError(f"{run / 'records'} holds no records: evaluate first with --test_only --attack ...")
    empty = [record.stem for record in records if not len(record)]
    if empty:
        logger.warning("%s: left out %d records without an image: %s", run, len(empty), ", ".join(empty))
    return [record for record in records if len(record)]


def _keep_newest_subject(run: Path, records: list[Record]) -> list[Record]:
    """The records of what the newest clean record is of; a run that was trained further holds others too."""
    clean = [record for record in records if _is_clean(record)]
    if not clean:
        raise UserError(f"no clean record in {run / 'records'}: evaluate with --test_only, which begins with the clean "
                        "images")
    newest = _identify_subject(clean[-1])
    others = [record for record in records if _identify_subject(record) != newest]
    if others:
        logger.warning("%s: %d of %d records are left out, as %s differs from the newest clean record's (%s): %s", run,
                       len(others), len(records), ", ".join(_name_differences(others, clean[-1])), clean[-1].stem,
                       ", ".join(record.stem for record in others))
    return [record for record in records if _identify_subject(record) == newest]


def _identify_subject(record: Record) -> str:
    return canonical([record.header["subject"], record.header["class_names"]])


def _name_differences(records: list[Record], clean: Record) -> list[str]:
    """What of the subject is not the clean record's."""
    first, *others = [record.header["subject"] | {"class_names": record.header["class_names"]}
                      for record in (clean, *records)]
    return sorted({key for other in others for key in {*first, *other} if other.get(key) != first.get(key)})


def _is_wanted(settings: dict, attacks, losses, norm, eps) -> bool:
    return settings["attack"] == "none" or (
        (attacks is None or any(_belongs_to(settings, name) for name in attacks))
        and (losses is None or settings.get("attack_loss") in losses)
        and (norm is None or settings["norm"] == norm or is_corruption(settings))
        and (eps is None or finds_radius(settings) or is_corruption(settings)
             or any(math.isclose(settings["eps"], wanted) for wanted in np.atleast_1d(eps))))


def _belongs_to(settings: dict, attack: str) -> bool:
    """Return whether a record belongs to this attack or corruption; sea, ensemble, noise are recorded as members."""
    if attack == "all":
        return is_corruption(settings)
    if attack in UNIONS:
        return is_red_eps(settings) and settings["attack_loss"] in UNIONS[attack]
    if attack == "noise":
        return settings["attack"].endswith("_noise") and not is_corruption(settings)
    return settings["attack"] == attack


def _refuse_nothing_left(kept: dict[str, list[Record]], found: dict[str, list[Record]]):
    """Raise UserError if the filters leave no attack in any run; a single run may lack attacks that another has."""
    attacked = {make_label(record.settings) for records in found.values() for record in records} - {"clean"}
    if attacked and all(len(records) == 1 for records in kept.values()):
        raise UserError(f"no record of {', '.join(found)} matches --attack, --attack_loss, --attack_norm and --eps: "
                        f"choose from {', '.join(sorted(attacked))}")


def _refuse_other_classes(kept: dict[str, list[Record]]):
    (first, names), *others = [(run, records[0].header["class_names"]) for run, records in kept.items()]
    for run, other in others:
        if other != names:
            raise UserError(f"{first} has the classes {', '.join(names)}, {run} has {', '.join(other)}: only runs on "
                            "the same data set can be compared")


def _refuse_other_labels(records: list[tuple[str, Record]], names: list[str]):
    """Raise UserError if an image's labels differ between records, as --crop_val changes them."""
    (run, first), *others = records
    pixels = first.counts(names)[2]
    for other_run, other in others:
        differ = (other.counts(names)[2] != pixels).any(axis=1)
        if differ.any():
            raise UserError(f"labels of {names[differ.argmax()]} differ between {other.stem} of {other_run} and "
                            f"{first.stem} of {run}: evaluate both with the same data options (docs/records.md#report)")
