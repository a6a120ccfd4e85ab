"""--cache: the same pairs as without, decoded once, within the bound."""
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets, build_loaders, cache_decoded
from datasets import files as image_files
from main import main
from utils.errors import UserError

SIZE = (80, 70)  # width, height
GB = 4 * SIZE[0] * SIZE[1] / 1e9  # of one decoded pair


@pytest.fixture
def root(tmp_path):
    """CamVid's layout, six training images and three for validation."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for i in range(count):
            Image.fromarray(draws.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).save(
                tmp_path / split / f"{split}{i}.png")
            labels = draws.integers(0, 12, SIZE[::-1])
            Image.fromarray(labels.astype(np.uint8 if i % 2 else np.uint16)).save(
                tmp_path / f"{split}annot" / f"{split}{i}.png")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded."""
    found, read = [], image_files._read
    monkeypatch.setattr(image_files, "_read", lambda path, decode: found.append(path.name) or read(path, decode))
    return found


def train_set(root, kind, *, limit_gb=1.0, num_workers=0):
    found, _ = build_datasets("camvid", data_root=root, crop_size=65)
    cache_decoded(found, kind, limit_gb=limit_gb, folder=root / "cache", num_workers=num_workers)
    return found


def take(dataset, count=8, **settings):
    loader, _ = build_loaders(dataset, dataset, **{"batch_size": 2, "val_batch_size": 1, "num_workers": 0, "seed": 1,
                                                  **settings})
    return [batch for batch, _ in zip(loader.iterate_from(0), range(count), strict=False)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_batches_are_those_without_a_cache(root, kind, num_workers):
    plain = take(train_set(root, "none"))
    for _ in range(2):  # on disk: first written, then read
        for one, other in zip(plain, take(train_set(root, kind, num_workers=num_workers), num_workers=num_workers),
                              strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_each_image_is_decoded_once(root, decoded, kind):
    data = train_set(root, kind)
    for _ in range(3):
        for i in range(6):
            data[i]
    assert len(decoded) == 6 + 2 * 6  # the images' headers, for their sizes; image and mask
    decoded.clear()
    again = train_set(root, kind)
    for i in range(6):
        again[i]
    assert len(decoded) == (6 if kind == "disk" else 6 + 2 * 6)  # the headers; memory is a process's own


def test_what_does_not_fit_is_decoded_each_time(root, decoded, log):
    for kind in ("ram", "disk"):
        data = train_set(root, kind, limit_gb=2.5 * GB)
        assert f"--cache {kind}: 2 of 6 training images decoded" in log.text
        for i in range(6):
            data[i]
        decoded.clear()
        for i in range(6):
            data[i]
        assert len(decoded) == 2 * 4
    assert len(list((root / "cache").iterdir())) == 2
    other = train_set(root, "disk", limit_gb=2.5 * GB)
    other.pairs = other.pairs[2:]
    cache_decoded(other, "disk", limit_gb=2.5 * GB, folder=root / "cache", num_workers=0)
    assert other.cache.count == 0, "what another data set has there counts"


def test_a_changed_image_is_decoded_again_and_a_damaged_copy_replaced(root):
    before = train_set(root, "disk")[0][0]
    path = root / "train" / "train0.png"
    Image.new("RGB", SIZE, (9, 9, 9)).save(path)
    os.utime(path, ns=(1, 1))
    changed = train_set(root, "disk")
    torch.manual_seed(0)
    assert not torch.equal(changed[0][0], before) and (changed.read_pair(0)[0] == 9).all()
    stored = root / "cache" / changed.cache.names[0]
    stored.write_bytes(stored.read_bytes()[:200])
    assert (changed.cache.read_pair(changed, 0)[0] == 9).all() and stored.stat().st_size > 4 * SIZE[0] * SIZE[1]


def test_what_labels_mean_is_part_of_a_copy(root):
    train_set(root, "disk")[0]
    mapped, _ = build_datasets("camvid", data_root=root, crop_size=65, label_map={3: 255})
    cache_decoded(mapped, "disk", limit_gb=1.0, folder=root / "cache", num_workers=0)
    for _ in range(2):
        assert 3 not in mapped.cache.read_pair(mapped, 0)[1]


def test_a_wrong_size_is_told_as_without_a_cache(root):
    Image.new("L", (40, 30)).save(root / "trainannot" / "train3.png")
    for kind in ("none", "ram", "disk"):
        with pytest.raises(UserError, match="train3.png is 40x30, but its image .* is 80x70"):
            train_set(root, kind)[3]


def test_a_full_disk_is_an_error(root, monkeypatch):
    data = train_set(root, "disk")
    monkeypatch.setattr("numpy.save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="--cache disk: .*No space left.*make room"):
        data[0]
    assert list((root / "cache").iterdir()) == []


def test_memory_that_processes_cannot_share_is_refused(root, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
    train_set(root, "ram")
    train_set(root, "disk", num_workers=2)
    with pytest.raises(UserError, match="--cache ram: .* give --cache disk or --num_workers 0"):
        train_set(root, "ram", num_workers=2)


@pytest.mark.slow
def test_a_training_has_the_same_bits(root, tmp_path):
    runs = {}
    for kind in ("none", "ram", "disk"):
        main(["--dataset", "camvid", "--data_root", str(root), "--model", "deeplabv3_mobilenet", "--crop_size", "65",
              "--no-pretrained_backbone", "--batch_size", "2", "--total_itrs", "2", "--num_workers", "1",
              "--output_dir", str(tmp_path / "runs"), "--exp_name", kind, "--cache", kind])
        runs[kind] = torch.load(next((tmp_path / "runs" / kind).glob("latest_*")), weights_only=True)["model_state"]
    for kind in ("ram", "disk"):
        assert all(torch.equal(value, runs["none"][key]) for key, value in runs[kind].items())
    assert len(list((tmp_path / "runs" / ".decoded").glob("*.npy"))) == 6
