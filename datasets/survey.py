"""Read all images of a split once: list the problems and count the pixels of each class."""
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from utils.distributed import is_main
from utils.errors import UserError
from utils.logging import logger

from .check import check_label, check_pair
from .label_check import Labels, count_labels
from .transforms import IGNORE


@dataclass
class Survey:
    """What was found in a split; the counts include only images without a problem."""

    problems: dict[str, list[str]] = field(default_factory=dict)   # image name -> lines, each naming a file
    remarks: list[str] = field(default_factory=list)               # on usable images
    pixels: list[int] = field(default_factory=list)                # of each class, then of IGNORE
    images: list[int] = field(default_factory=list)                # that contain each class, then IGNORE
    labels: Labels = field(default_factory=Labels)                 # as stored, if they are used otherwise


def survey(dataset, *, title: str, num_workers: int = 0) -> Survey:
    """Return what is found in all images and masks of a data set; read them in num_workers threads."""
    found = Survey()
    pixel_counts, image_counts = torch.zeros(2, dataset.num_classes + 1, dtype=torch.int64)
    pool = ThreadPoolExecutor(max(1, num_workers))  # PIL decodes without the interpreter's lock
    try:
        read = pool.map(lambda i: _inspect(dataset, i), range(len(dataset)))
        bar = tqdm(read, desc=title, total=len(dataset), unit="image", mininterval=0.2 if sys.stderr.isatty() else 30)
        for i, ((problems, remarks, pixels), labels) in enumerate(bar):
            if problems:
                found.problems[dataset.name(i)] = problems
            found.remarks += remarks
            pixel_counts += pixels
            image_counts += pixels > 0
            found.labels.update(labels)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, skip the rest
    found.pixels, found.images = pixel_counts.tolist(), image_counts.tolist()
    return found


def _inspect(dataset, i: int):
    """Return what inspect_pair() does, and the stored labels of a good pair where they may be used otherwise."""
    found = inspect_pair(dataset, i)
    return found, count_labels(dataset, [i] if dataset.relabels and not found[0] else [])


def inspect_pair(dataset, i: int) -> tuple[list[str], list[str], torch.Tensor]:
    """Return pair i's problems, its remarks, and its pixels of each class and of IGNORE [num_classes + 1]."""
    files, num_classes = dataset.files(i), dataset.num_classes
    try:
        image, label = dataset.read_pair(i)
        check_pair(image, label, num_classes=num_classes, files=files)
        pixels = torch.bincount(label.flatten().long(), minlength=IGNORE + 1)
        return [], dataset.remarks(i), torch.cat([pixels[:num_classes], pixels[IGNORE:]])
    except UserError as error:
        problems = [str(error)]
    try:  # a bad image may also have a bad mask
        check_label(dataset.read_label(i), num_classes=num_classes, file=files[1])
    except UserError as error:
        problems = list(dict.fromkeys([*problems, str(error)]))
    return problems, [], torch.zeros(num_classes + 1, dtype=torch.int64)


def log_survey(found: Survey, class_names: list[str], *, title: str, prefix: str):
    """Log every problem after "{prefix}: ", every remark, and the table of pixels."""
    for lines in found.problems.values():
        for line in lines:
            logger.info("%s: %s", prefix, line)
    for line in found.remarks:
        logger.info("note: %s", line)
    for line in format_table(found, class_names, title=title):
        logger.info("%s", line)


def format_table(found: Survey, class_names: list[str], *, title: str) -> list[str]:
    """Return the lines of a table of each class's pixels, their share, and its images, then the absent classes."""
    names = [*class_names, f"({IGNORE}, ignored)"]
    width, whole = max(map(len, [title, *names])), max(1, sum(found.pixels))
    lines = [f"{title:{width}} {'pixels':>15} {'share':>8} {'images':>7}"]
    lines += [f"{name:{width}} {pixels:15,} {100 * pixels / whole:7.3f}% {images:7}"
              for name, pixels, images in zip(names, found.pixels, found.images, strict=True)]
    if absent := [name for name, pixels in zip(class_names, found.pixels, strict=False) if pixels == 0]:
        lines.append(f"{title} have no pixels of {', '.join(absent)}")
    return lines


def count_pixels(dataset, *, title: str = "pixels of each class", on_label=None) -> torch.Tensor:
    """Return the labelled pixels of each class, int64 [num_classes], with a progress bar on rank 0; reads no image.

    on_label(), if given, is called before each label.
    """
    counts = torch.zeros(dataset.num_classes, dtype=torch.int64)
    for index in tqdm(range(len(dataset)), desc=title, unit="label", leave=False, disable=not is_main(),
                      mininterval=0.2 if sys.stderr.isatty() else 30):
        if on_label is not None:
            on_label()
        label = dataset.read_label(index).flatten().long()
        counts += torch.bincount(label[label < dataset.num_classes], minlength=dataset.num_classes)
    return counts


def count_frequencies(dataset, *, title: str = "class frequencies") -> torch.Tensor:
    """Return each class's share of the labelled pixels of the images that have it, float64 [num_classes]; 0 if none.

    With a progress bar on rank 0; reads no image.
    """
    own, of_images = torch.zeros(2, dataset.num_classes, dtype=torch.float64)
    for index in tqdm(range(len(dataset)), desc=title, unit="label", leave=False, disable=not is_main(),
                      mininterval=0.2 if sys.stderr.isatty() else 30):
        label = dataset.read_label(index).flatten().long()
        pixels = torch.bincount(label[label < dataset.num_classes], minlength=dataset.num_classes)
        own += pixels
        of_images += pixels.sum() * (pixels > 0)
    return own / of_images.clamp(min=1)
