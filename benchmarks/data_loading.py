"""Loading CamVid's training images at crop 513, in one process, against Pillow one by one.

    python -m benchmarks.data_loading --camvid FOLDER [--rounds 5]

Without --camvid the images are drawn: 24 photograph-like PNG files of CamVid's size.
"""
import argparse
import random
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import plain
from benchmarks.timing import Result, compare, measure_in_turn
from datasets import build_datasets, cache_decoded

CROP, IMAGES, SIZE = 513, 48, (360, 480)


def draw_images(folder: Path):
    """Write images and masks in CamVid's layout: smooth with some noise, so that they are compressed as photographs."""
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in (split, f"{split}annot"):
            (folder / name).mkdir(parents=True)
        for i in range(24 if split == "train" else 1):
            coarse = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(SIZE[::-1])
            noise = draws.integers(-4, 5, (*SIZE, 3))
            pixels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
            mask = Image.fromarray(draws.integers(0, 12, (12, 16), dtype=np.uint8)).resize(SIZE[::-1], Image.NEAREST)
            mask.save(folder / f"{split}annot" / f"{i}.png")


def make_ours(root: str, cache: str, cache_folder: str):
    """Return a function that loads images of the training set."""
    data, _ = build_datasets("camvid", data_root=root, crop_size=CROP)
    cache_decoded(data, cache, limit_gb=8, folder=Path(cache_folder), num_workers=0)
    if data.cache is not None:
        data.cache.fill()  # as the loader does when training begins
    return partial(_load_all, data.load_bytes, len(data))


def make_decoding(root: str):
    """Return a function that only decodes them."""
    data, _ = build_datasets("camvid", data_root=root, crop_size=CROP)
    return partial(_load_all, data.read_pair, len(data))


def make_plain(root: str):
    """Return a function that loads them the plain way."""
    pairs = build_datasets("camvid", data_root=root, crop_size=CROP)[0].pairs
    return partial(_load_all, partial(_load_plain, pairs), len(pairs))


def _load_plain(pairs, i: int):
    return plain.load(*pairs[i], CROP, void_from=11)


def _load_all(load, length: int):
    torch.set_num_threads(1)  # as the loader's processes have
    random.seed(0)
    torch.manual_seed(0)
    for i in range(IMAGES):
        load(i % length)


def run(*, rounds: int, camvid: str | None = None) -> list[Result]:
    """Return the results, by CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        root = camvid or f"{folder}/drawn"
        if camvid is None:
            draw_images(Path(root))
        makers = {f"cache {kind}": partial(make_ours, root, kind, f"{folder}/cache")
                  for kind in ("none", "ram", "disk")}
        makers["decoding alone"] = partial(make_decoding, root)
        found = measure_in_turn({"plain": partial(make_plain, root), **makers}, rounds=rounds)
        return [compare("data_loading", name, "plain", found, per=IMAGES, cpu=True) for name in makers]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--camvid", metavar="FOLDER", help="of the data set")
    for result in run(**vars(parser.parse_args())):
        print(result.line)
