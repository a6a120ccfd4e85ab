"""Decoded images kept in memory or on disk, so that training decodes each only once."""
import hashlib
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors
from tqdm import tqdm

from utils.errors import UserError
from utils.logging import PipeSafeStream, logger

from .files import read_image_size

CHANNELS = 4  # bytes of a pixel: red, green, blue, label


def cache_decoded(dataset, kind: str, *, limit_gb: float, folder: Path, num_workers: int):
    """Let `dataset` keep decoded images, "ram" in memory, "disk" in `folder`: the first ones that fit limit_gb.

    "none" changes nothing. Raises UserError for a damaged image, a full disk, and "ram" where each of the loader's
    processes would hold a copy.
    """
    if kind == "none":
        return
    if kind == "ram" and num_workers and multiprocessing.get_start_method() != "fork":
        raise UserError("--cache ram: the loader's processes can't share memory on this system: give --cache disk or "
                        "--num_workers 0")
    sizes = [CHANNELS * width * height for width, height in (read_image_size(image) for image, _ in dataset.pairs)]
    cache = DiskCache(dataset, folder) if kind == "disk" else None
    limit = limit_gb * 1e9 - (cache.count_foreign_bytes() if cache else 0)
    count = sum(used <= limit for used in accumulate(sizes))
    where = f"on disk in {folder}" if cache else "in memory"
    logger.info("--cache %s: %d of %d training images decoded, %.2f GB %s (at most %g, --cache_gb)", kind, count,
                len(sizes), sum(sizes[:count]) / 1e9, where, limit_gb)
    if cache is None:
        cache = RamCache(dataset, count)
    cache.count, dataset.cache = count, cache


class RamCache:
    """Pairs in memory, decoded at the start; the loader's processes, forks of this one, share them."""

    def __init__(self, dataset, count: int):
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
            self.pairs = list(tqdm(pool.map(dataset.read_pair, range(count)), desc="decoding", total=count,
                                   file=PipeSafeStream(sys.stderr), mininterval=0.2 if sys.stderr.isatty() else 30))

    def read_pair(self, dataset, i: int) -> tuple:
        """Return pair i as dataset.read_pair(i) does."""
        return self.pairs[i] if i < len(self.pairs) else dataset.read_pair(i)


class DiskCache:
    """Pairs in files, each written when its image is first needed; later runs find them there.

    A file's name depends on size and time of image and mask and on what labels mean, so a changed image has a new file.
    """

    def __init__(self, dataset, folder: Path):
        self.folder, self.count = folder, 0
        meaning = type(dataset).__name__, dataset.num_classes, dataset.label_map, dataset.mask_colours
        self.names = [_make_name(pair, meaning) for pair in dataset.pairs]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _to_user_error(folder, error) from None

    def count_foreign_bytes(self) -> int:
        """Return the size of the files that are not of this data set."""
        own = {*self.names}
        return sum(path.stat().st_size for path in self.folder.glob("*.npy") if path.name not in own)

    def read_pair(self, dataset, i: int) -> tuple:
        """Return pair i as dataset.read_pair(i) does, labels as uint8. Raises UserError."""
        if i >= self.count:
            return dataset.read_pair(i)
        path = self.folder / self.names[i]
        try:
            stored = np.load(path, allow_pickle=False)  # [4, H, W]: the image's bytes as [H, W, 3], then the label's
            height, width = stored.shape[1:]
        except (OSError, ValueError, EOFError):  # not there yet, or damaged: it is written again
            image, label = dataset.read_pair(i)
            if image.shape[1:] == label.shape:  # else the data set says what is wrong
                self._write(path, image, label)
            return image, label
        pixels = torch.from_numpy(stored).flatten()
        image = pixels[:-height * width].view(height, width, 3).permute(2, 0, 1)
        return tv_tensors.Image(image), tv_tensors.Mask(pixels[-height * width:].view(height, width))

    def _write(self, path: Path, image: torch.Tensor, label: torch.Tensor):
        parts = image.permute(1, 2, 0).flatten(), label.flatten().to(torch.uint8)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # other processes may write the same file
        try:
            with temporary.open("wb") as file:
                np.save(file, torch.cat(parts).view(CHANNELS, *label.shape).numpy())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _to_user_error(self.folder, error) from None


def _make_name(pair: tuple[Path, Path], meaning: tuple) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in pair]
    return hashlib.sha256(repr((files, meaning)).encode(errors="surrogateescape")).hexdigest()[:32] + ".npy"


def _to_user_error(folder: Path, error: OSError) -> UserError:
    return UserError(f"--cache disk: {folder} can't be written ({error}): make room there, or leave out --cache")
