"""Decoded images kept in memory or on disk, so that training decodes each only once."""
import errno
import hashlib
import multiprocessing
import os
import shutil
import sys
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import PIL
import torch
from torchvision import tv_tensors
from tqdm import tqdm

from utils.errors import UserError
from utils.logging import PipeSafeStream, logger

from .bad_images import HINT
from .check import check_pair
from .files import read_image_size
from .image_lists import to_one_line

VERSION = 1  # raise it when images are decoded or labels converted otherwise: earlier copies are then left alone
CHANNELS = 4  # bytes of a pixel: red, green, blue, label
SPARE = 2e9  # bytes that a cache on disk leaves, for checkpoints


def cache_decoded(dataset, kind: str, *, limit_gb: float, folder: Path, num_workers: int):
    """Let `dataset` keep decoded images, "ram" in memory, "disk" in `folder`: the first ones that fit limit_gb.

    "none" changes nothing. Images are decoded when training begins. Raises UserError if none fits, if the disk has no
    room, and for "ram" where each of the loader's processes would hold a copy.
    """
    if kind == "none":
        return
    if kind == "ram" and num_workers and multiprocessing.get_start_method() != "fork":
        raise UserError("--cache ram: the loader's processes can't share memory on this system: give --cache disk or "
                        "--num_workers 0")
    sizes = [CHANNELS * width * height for width, height in (read_image_size(image) for image, _ in dataset.pairs)]
    cache = DiskCache(dataset, folder) if kind == "disk" else RamCache(dataset)
    others = cache.count_foreign_bytes()
    cache.count = sum(others + used <= limit_gb * 1e9 for used in accumulate(sizes))
    where = f"on disk, in {to_one_line(folder)}" if kind == "disk" else "in memory"
    there = f", where other images take {others / 1e9:.2f} GB" if others else ""
    if not cache.count:
        raise UserError(f"--cache_gb {limit_gb:g}: no image fits {where}{there}: raise it"
                        f"{', or delete that folder' if others else ''}")
    logger.info("--cache %s: will keep %d of %d training images, %.2f GB %s%s (at most %g, --cache_gb)", kind,
                cache.count, len(sizes), sum(sizes[:cache.count]) / 1e9, where, there, limit_gb)
    cache.refuse_full_disk(sum(sizes[:cache.count]))
    dataset.cache = cache


class RamCache:
    """Pairs in memory, decoded when training begins; the loader's processes, forks of this one, share them."""

    def __init__(self, dataset):
        self.dataset, self.count, self.pairs = dataset, 0, []

    def count_foreign_bytes(self) -> int:
        """Return 0: nothing else is kept there."""
        return 0

    def refuse_full_disk(self, size: int):
        """Do nothing."""

    def fill(self):
        """Decode the pairs, unless that is done. Raises UserError for a bad image."""
        if self.pairs:
            return
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
                self.pairs = list(tqdm(pool.map(self._decode, range(self.count)), desc="decoding", total=self.count,
                                       file=PipeSafeStream(sys.stderr),
                                       mininterval=0.2 if sys.stderr.isatty() else 30))
        except UserError as error:
            raise UserError(f"{error} {HINT}") from None

    def read_pair(self, dataset, i: int) -> tuple:
        """Return pair i as dataset.read_pair(i) does, labels as uint8."""
        return self.pairs[i] if i < len(self.pairs) else dataset.read_pair(i)

    def _decode(self, i: int) -> tuple:
        return _read_checked(self.dataset, i)


class DiskCache:
    """Pairs in files, each written when its image is first needed; later runs find them there.

    A file's name depends on size and time of image and mask, on what labels mean, on Pillow's version and on VERSION.
    """

    def __init__(self, dataset, folder: Path):
        self.folder, self.count = folder, 0
        meaning = (VERSION, PIL.__version__, type(dataset).__name__, dataset.num_classes, dataset.label_map,
                   dataset.mask_colours)
        self.names = [_make_name(pair, meaning) for pair in dataset.pairs]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._explain(error) from None

    def count_foreign_bytes(self) -> int:
        """Return the size of the files that are not of this data set."""
        return sum(_size_of(self.folder / name) for name in {*os.listdir(self.folder)} - {*self.names})

    def refuse_full_disk(self, size: int):
        """Raise UserError if `size` bytes, without those that are there, don't fit on the disk."""
        missing = size - sum(_size_of(self.folder / name) for name in self.names[:self.count])
        if missing > (free := shutil.disk_usage(self.folder).free) - SPARE:
            raise UserError(f"--cache disk: {to_one_line(self.folder)} needs {missing / 1e9:.1f} GB, and "
                            f"{SPARE / 1e9:g} for checkpoints, but {free / 1e9:.1f} are free: make room, or lower "
                            "--cache_gb")

    def fill(self):
        """Do nothing: an image is decoded when it is needed."""

    def read_pair(self, dataset, i: int) -> tuple:
        """Return pair i as dataset.read_pair(i) does, labels as uint8. Raises UserError."""
        if i >= self.count:
            return dataset.read_pair(i)
        path = self.folder / self.names[i]
        try:
            return _load(path)
        except (OSError, ValueError, EOFError):  # not there yet, or damaged: it is written again
            image, label = _read_checked(dataset, i)
            self._write(path, image, label)
            return image, label

    def _write(self, path: Path, image: torch.Tensor, label: torch.Tensor):
        """Write image [3, H, W] as [H, W, 3], then the label, in one array [4, H, W]; then its checksum."""
        stored = torch.cat([image.permute(1, 2, 0).flatten(), label.flatten()]).view(CHANNELS, *label.shape).numpy()
        temporary = None  # as yet
        try:
            self.folder.mkdir(exist_ok=True)  # it may be deleted at any time
            temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # others may write the same file, on any machine
            with temporary.open("xb") as file:
                np.save(file, stored)
                np.save(file, np.array(zlib.crc32(stored)))
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise self._explain(error) from None

    def _explain(self, error: OSError) -> UserError:
        remedy = "make room there" if error.errno == errno.ENOSPC else "choose another --output_dir"
        return UserError(f"--cache disk: {to_one_line(self.folder)} can't be written ({error}): {remedy}, or leave out "
                         "--cache")


def _read_checked(dataset, i: int) -> tuple:
    """Return pair i with its label as uint8. Raises UserError for a label that is not a class, as without a cache."""
    image, label = dataset.read_pair(i)
    check_pair(image, label, num_classes=dataset.num_classes, files=dataset.files(i))
    return image, tv_tensors.wrap(label.to(torch.uint8), like=label)


def _load(path: Path) -> tuple:
    """Return the pair that _write() wrote. Raises ValueError if the file is damaged."""
    with path.open("rb") as file:
        stored, checksum = np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)
    if zlib.crc32(stored) != checksum:
        raise ValueError(f"{path} is damaged")
    height, width = stored.shape[1:]
    pixels = torch.from_numpy(stored).flatten()
    image = pixels[:-height * width].view(height, width, 3).permute(2, 0, 1)
    return tv_tensors.Image(image), tv_tensors.Mask(pixels[-height * width:].view(height, width))


def _make_name(pair: tuple[Path, Path], meaning: tuple) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in pair]
    return hashlib.sha256(repr((files, meaning)).encode(errors="surrogateescape")).hexdigest()[:32] + ".npy"


def _size_of(path: Path) -> int:
    """Return a file's size, 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
