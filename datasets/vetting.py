"""Data sets that a run may start with: checked, and without what is bad where that was asked for."""
from utils import distributed
from utils.errors import UserError
from utils.logging import logger

from .check import check_dataset, check_names
from .names import shown
from .survey import log_survey, survey

CHECKED_IMAGES = 8  # of each split, where not all are read
HINT = "(--check_data lists all bad images, --skip_bad_images goes on without them)"
SPLITS = {"train": "training", "val": "validation"}  # in a sentence


def vetted(sets: dict, *, check_all: bool = False, skip_bad: bool = False, skipped: dict | None = None,
           num_workers: int = 0) -> dict:
    """Return the data sets by split, "train" and "val", checked, and with skip_bad without their bad images.

    The first CHECKED_IMAGES are read, or with check_all or skip_bad all: then every problem and the number of each
    class's pixels are logged. skipped, the names by split that skip_bad found before, spares it the reading.
    Raises UserError where a split is empty or a problem is left. Of several processes one reads all; each calls this.
    """
    for dataset in sets.values():
        check_names(dataset)
    known = skip_bad and skipped is not None
    if known:
        sets = without(sets, skipped)
        say_skipped(sets, "as before, without reading all images again; --skip_bad_images reads them anew")
    if check_all or (skip_bad and not known):
        bad = problems(sets, num_workers=num_workers, word="skipped" if skip_bad else "bad")
        if not skip_bad:
            refuse([line for found in bad.values() for lines in found.values() for line in lines])
            return sets
        sets = without(sets, bad)
        say_skipped(sets, "--skip_bad_images")
        return sets
    try:
        for dataset in sets.values():
            check_dataset(dataset, limit=CHECKED_IMAGES)
    except UserError as error:
        raise UserError(f"{error} {HINT}") from None
    return sets


def problems(sets: dict, *, num_workers: int = 0, word: str = "bad") -> dict[str, dict[str, list[str]]]:
    """Read everything, on rank 0, and log what is found; returns on all ranks {split: {image's name: lines}}."""
    found = {}
    with distributed.together():
        for split, dataset in sets.items() if distributed.is_main() else ():
            title = f"{SPLITS[split]} images"
            result = survey(dataset, title=f"reading {title}", num_workers=num_workers)
            log_survey(result, dataset.class_names, title=title.capitalize(), word=word)
            logger.info("%d of %d %s are bad", len(result.problems), len(dataset), title)
            found[split] = result.problems
    return distributed.from_main(found)


def refuse(lines: list[str]):
    """Raise UserError if there are problems."""
    if lines:
        raise UserError(f"--check_data found {len(lines)} problem{'s' * (len(lines) > 1)}, listed above, the first: "
                        f"{lines[0]} Or go on without the bad images: --skip_bad_images.")


def without(sets: dict, names: dict) -> dict:
    """Return the data sets without the images of these names, by split; UserError where none is left."""
    sets = {split: dataset.without(names.get(split, ())) for split, dataset in sets.items()}
    for split, dataset in sets.items():
        if len(dataset) == 0:
            raise UserError(f"All {len(dataset.skipped)} {SPLITS[split]} images in {shown(dataset.origin)} are bad: "
                            "--skip_bad_images leaves none. Unpack the data set again.")
    return sets


def say_skipped(sets: dict, how: str):
    """Log how many images each data set is without."""
    counts = [f"{len(dataset.skipped)} of {len(dataset.skipped) + len(dataset)} {SPLITS[split]}"
              for split, dataset in sets.items()]
    logger.info("Skipped %s images (%s)", " and ".join(counts), how)
