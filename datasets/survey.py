"""All images of a split, read once: what is wrong with which, and how often each class occurs."""
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from utils.errors import UserError
from utils.logging import logger

from .check import check_label, check_pair
from .transforms import IGNORE


@dataclass
class Survey:
    """What reading all of a split found; the counts are of the images without a problem."""

    problems: dict[str, list[str]] = field(default_factory=dict)   # image's name -> lines, each naming a file
    remarks: list[str] = field(default_factory=list)               # on images that can be used
    pixels: list[int] = field(default_factory=list)                # of every class, and last of IGNORE
    images: list[int] = field(default_factory=list)                # with such pixels


def survey(dataset, *, title: str, num_workers: int = 0) -> Survey:
    """Read all images and masks of a data set in num_workers threads, with a progress bar."""
    found = Survey()
    total, images = torch.zeros(2, dataset.num_classes + 1, dtype=torch.int64)
    pool = ThreadPoolExecutor(max(1, num_workers))  # PIL decodes without the interpreter's lock
    try:
        read = pool.map(lambda i: inspect(dataset, i), range(len(dataset)))
        bar = tqdm(read, desc=title, total=len(dataset), unit="image", mininterval=0.2 if sys.stderr.isatty() else 30)
        for i, (problems, remarks, pixels) in enumerate(bar):
            if problems:
                found.problems[dataset.name(i)] = problems
            found.remarks += remarks
            total += pixels
            images += pixels > 0
    finally:
        pool.shutdown(cancel_futures=True)  # after a Ctrl-C the rest is not read
    found.pixels, found.images = total.tolist(), images.tolist()
    return found


def inspect(dataset, i: int) -> tuple[list[str], list[str], torch.Tensor]:
    """Read pair i: its problems, its remarks, and its pixels of every class and IGNORE [num_classes + 1]."""
    files, num_classes = dataset.files(i), dataset.num_classes
    try:
        image, label = dataset.raw(i)
        check_pair(image, label, num_classes=num_classes, files=files)
        pixels = torch.bincount(label.flatten().long(), minlength=IGNORE + 1)
        return [], dataset.remarks(i), torch.cat([pixels[:num_classes], pixels[IGNORE:]])
    except UserError as error:
        problems = [str(error)]
    try:  # a mask may be bad beside a bad image
        check_label(dataset.label(i), num_classes=num_classes, file=files[1])
    except UserError as error:
        problems = list(dict.fromkeys([*problems, str(error)]))
    return problems, [], torch.zeros(num_classes + 1, dtype=torch.int64)


def log_survey(found: Survey, class_names: list[str], *, title: str, word: str):
    """Log every problem, as `word`: ..., every remark, and the table of pixels."""
    for lines in found.problems.values():
        for line in lines:
            logger.info("%s: %s", word, line)
    for line in found.remarks:
        logger.info("note: %s", line)
    for line in table(found, class_names, title=title):
        logger.info("%s", line)


def table(found: Survey, class_names: list[str], *, title: str) -> list[str]:
    """Return the lines of a table: pixels of each class, their share, the images that show it; what never occurs."""
    names = [*class_names, f"({IGNORE}, ignored)"]
    width, whole = max(map(len, [title, *names])), max(1, sum(found.pixels))
    lines = [f"{title:{width}} {'pixels':>15} {'share':>8} {'images':>7}"]
    lines += [f"{name:{width}} {pixels:15,} {100 * pixels / whole:7.3f}% {images:7}"
              for name, pixels, images in zip(names, found.pixels, found.images, strict=True)]
    if absent := [name for name, pixels in zip(class_names, found.pixels, strict=False) if pixels == 0]:
        lines.append(f"{title} have no pixel of {', '.join(absent)}")
    return lines
