"""Check the data sets of a run before it starts (--check_data) and leave out bad images (--skip_bad_images)."""
from utils import distributed
from utils.errors import UserError
from utils.logging import logger

from .check import check_dataset, check_names, find_shared
from .image_lists import to_one_line
from .label_check import is_suspicious, log_foreign, log_odd_labels, read_labels, refuse_wrong_labels
from .label_maps import log_unused_labels
from .survey import log_survey, survey

CHECKED_IMAGES = 8  # of each split, unless all are read
HINT = "(--check_data lists all bad images, --skip_bad_images continues without them: docs/data.md#check-the-data)"
SPLITS = {"train": "training", "val": "validation"}  # the words for log lines and errors


def check_and_filter(sets: dict, *, check_all: bool = False, skip_bad: bool = False, skipped: dict | None = None,
                     num_workers: int = 0) -> dict:
    """Return the data sets {"train": ..., "val": ...} after checking them; with skip_bad, without their bad images.

    Checks the first CHECKED_IMAGES of each split. With check_all or skip_bad, reads all images and logs every problem
    and the pixels of each class. `skipped` ({split: names}) is what an earlier skip_bad left out: those images are
    left out again and the rest is not read. Raises UserError if a split is empty or an image is bad. All ranks must
    call this; rank 0 reads for all.
    """
    for dataset in sets.values():
        check_names(dataset)
    skip_known = skip_bad and skipped is not None
    if skip_known:
        sets = remove_images(sets, skipped)
        log_skipped(sets, "as before; to read all images again, repeat --skip_bad_images")
    if check_all or (skip_bad and not skip_known):
        bad = find_bad_images(sets, num_workers=num_workers, prefix="skipped" if skip_bad else "bad")
        if not skip_bad:
            raise_if_bad([line for found in bad.values() for lines in found.values() for line in lines])
        sets = remove_images(sets, bad)
        if skip_bad:
            log_skipped(sets, "--skip_bad_images")
        return check_first(sets, surveyed=True)
    return check_first(sets)


def check_first(sets: dict, *, surveyed: bool = False) -> dict:
    """Return the data sets if their first images and labels are right. Raises UserError.

    surveyed: whether find_bad_images() has read all labels.
    """
    found = {}
    with distributed.fail_together():
        try:
            for split, dataset in sets.items() if distributed.is_main() else ():
                check_dataset(dataset, limit=CHECKED_IMAGES)
                found[split] = read_labels(dataset, title=SPLITS[split], limit=CHECKED_IMAGES)
        except UserError as error:
            raise UserError(f"{error} {HINT}") from None
        for split, labels in found.items():
            if is_suspicious(labels, sets[split]):
                refuse_wrong_labels(labels, sets[split], title=SPLITS[split])
                log_odd_labels(labels, sets[split], title=SPLITS[split])
        if found and not surveyed and all(labels.masks == len(sets[split]) for split, labels in found.items()):
            warn_about_unused(sets, found)
        if len(found) > 1:
            warn_about_shared(sets)
    return sets


def warn_about_unused(sets: dict, labels: dict):
    """Log the labels of --label_map that no mask of any split has; `labels` ({split: Labels}) are of all masks."""
    log_unused_labels(next(iter(sets.values())).label_map, set().union(*(found.stored for found in labels.values())),
                      masks=sum(found.masks for found in labels.values()))


def warn_about_shared(sets: dict):
    """Log how many validation images are training images too, by the content of their files."""
    shared = find_shared(*(sets[split] for split in SPLITS))
    if shared:
        logger.warning("Warning: %d of %d validation images are also training images, the first is %s: scores on them "
                       "do not show what the network does on new images (docs/data.md#check-the-data)", len(shared),
                       len(sets["val"]), to_one_line(shared[0]))


def find_bad_images(sets: dict, *, num_workers: int = 0, prefix: str = "bad") -> dict[str, dict[str, list[str]]]:
    """Read all images on rank 0, log the problems and return them on all ranks: {split: {image name: lines}}."""
    found, labels = {}, {}
    with distributed.fail_together():
        for split, dataset in sets.items() if distributed.is_main() else ():
            title = f"{SPLITS[split]} images"
            result = survey(dataset, title=f"reading {title}", num_workers=num_workers)
            log_survey(result, dataset.class_names, title=title.capitalize(), prefix=prefix)
            logger.info("%d of %d %s are bad", len(result.problems), len(dataset), title)
            log_foreign(result.labels, title=SPLITS[split])
            found[split], labels[split] = result.problems, result.labels
        if labels:
            warn_about_unused(sets, labels)
    return distributed.broadcast_object(found)


def raise_if_bad(lines: list[str]):
    """Raise UserError if there are problems."""
    if lines:
        raise UserError(f"--check_data found {len(lines)} problem{'s' * (len(lines) > 1)}, listed above. The first: "
                        f"{lines[0]} To continue without the bad images, use --skip_bad_images.")


def remove_images(sets: dict, names: dict) -> dict:
    """Return the data sets without the named images ({split: names}); raise UserError if a split is left empty."""
    sets = {split: dataset.without(names.get(split, ())) for split, dataset in sets.items()}
    for split, dataset in sets.items():
        if len(dataset) == 0:
            raise UserError(f"All {len(dataset.skipped)} {SPLITS[split]} images in {to_one_line(dataset.origin)} are "
                            "bad, so --skip_bad_images leaves nothing to use. Unpack the data set again.")
    return sets


def log_skipped(sets: dict, reason: str):
    """Log how many images of each data set are left out, and why."""
    counts = [f"{len(dataset.skipped)} of {len(dataset.skipped) + len(dataset)} {SPLITS[split]}"
              for split, dataset in sets.items()]
    logger.info("Skipped %s images (%s)", " and ".join(counts), reason)
