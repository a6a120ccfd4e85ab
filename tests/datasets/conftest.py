"""Small data sets in the layouts of the real ones, and the lines that were logged."""
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.logging import logger

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SEG_DATA", ROOT.parent / "shared" / "data"))


class Writer:
    """Writes the images and masks of a tree."""

    @staticmethod
    def image(path, size=(12, 8), colour=(10, 20, 30), mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).convert(mode).save(path)

    @staticmethod
    def mask(path, labels=0, size=(12, 8), mode="P"):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.broadcast_to(np.asarray(labels, dtype=np.uint8), size[::-1]).copy()
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([255, 0, 0] * 256)  # useless colours: indices must be read, not colours
        image.save(path)

    @staticmethod
    def text(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


@pytest.fixture
def write():
    return Writer


@pytest.fixture
def voc_root(tmp_path, write):
    """VOC2012 in a folder with spaces and umlauts: a, b train, c val, and d only in SegmentationClassAug."""
    root = tmp_path / "meine Bilder ü"
    folder = root / "VOCdevkit" / "VOC2012"
    for label, name in enumerate("abcd"):
        write.image(folder / "JPEGImages" / f"{name}.jpg")
        write.mask(folder / "SegmentationClassAug" / f"{name}.png", 10 + label)
    for label, name in enumerate("abc"):
        write.mask(folder / "SegmentationClass" / f"{name}.png", label)
    write.text(folder / "ImageSets" / "Segmentation" / "train.txt", "\r\n a \r\n\r\nb\t\r\n")
    write.text(folder / "ImageSets" / "Segmentation" / "val.txt", "c\n\n")
    return root


@pytest.fixture
def camvid_root(tmp_path, write):
    """CamVid with two images for training and two for validation."""
    root = tmp_path / "CamVid"
    for split in ("train", "val"):
        write.image(root / split / "0002.png")
        write.image(root / split / "0001.jpg")
        for name in ("0001", "0002"):
            write.mask(root / f"{split}annot" / f"{name}.png", 3, mode="L")
    return root


@pytest.fixture
def log(caplog):
    """The lines logged so far; works whether or not another test has stopped the logger's propagation."""
    level = logger.level
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)


@pytest.fixture
def real():
    """Path of a real data set, by name; skips where it isn't."""
    def find(name):
        if not (DATA / name).is_dir():
            pytest.skip(f"no {DATA / name}")
        return DATA / name
    return find
