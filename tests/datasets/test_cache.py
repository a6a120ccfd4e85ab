"""--cache: the same pairs as without, decoded once, within the bound."""
import os
import shutil

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
    data.cache.fill()
    for _ in range(3):
        for i in range(6):
            data[i]
    assert len(decoded) == 6 + 2 * 6  # the images' headers, for their sizes; image and mask
    decoded.clear()
    again = train_set(root, kind)
    again.cache.fill()
    for i in range(6):
        again[i]
    assert len(decoded) == (6 if kind == "disk" else 6 + 2 * 6)  # the headers; memory is a process's own


def test_what_does_not_fit_is_decoded_each_time(root, decoded, log):
    for kind in ("ram", "disk"):
        data = train_set(root, kind, limit_gb=2.5 * GB)
        assert f"--cache {kind}: will keep 2 of 6 training images" in log.text
        data.cache.fill()
        for i in range(6):
            data[i]
        decoded.clear()
        for i in range(6):
            data[i]
        assert len(decoded) == 2 * 4
    assert len(list((root / "cache").iterdir())) == 2
    other = train_set(root, "none")
    other.pairs = other.pairs[2:]
    with pytest.raises(UserError, match="--cache_gb .*no image fits on disk.*other images take.*raise it, or delete"):
        cache_decoded(other, "disk", limit_gb=2.5 * GB, folder=root / "cache", num_workers=0)


def test_a_changed_image_is_decoded_again_and_a_damaged_copy_replaced(root):
    train_set(root, "disk")[0]
    for path, mode, value in ((root / "train" / "train0.png", "RGB", (9, 9, 9)),
                              (root / "trainannot" / "train0.png", "L", 7)):
        size = path.stat().st_size
        Image.new(mode, SIZE, value).save(path)
        path.write_bytes(path.read_bytes().ljust(size, b"x"))  # as long as before, but of another time
        os.utime(path, ns=(1, 1))
        changed = train_set(root, "disk")
        changed[0]
    image, label = changed.cache.read_pair(changed, 0)
    assert (image == 9).all() and (label == 7).all()
    stored = root / "cache" / changed.cache.names[0]
    whole = stored.read_bytes()
    for damaged in (whole[:200], whole[:-1], whole[:2000] + b"\0" * 500 + whole[2500:], b""):
        stored.write_bytes(damaged)
        again = changed.cache.read_pair(changed, 0)
        assert torch.equal(again[0], image) and torch.equal(again[1], label) and stored.read_bytes() == whole


def test_what_labels_mean_is_part_of_a_copy(root):
    train_set(root, "disk")[0]
    mapped, _ = build_datasets("camvid", data_root=root, crop_size=65, label_map={3: 255})
    cache_decoded(mapped, "disk", limit_gb=1.0, folder=root / "cache", num_workers=0)
    for _ in range(2):
        assert 3 not in mapped.cache.read_pair(mapped, 0)[1]


def test_a_wrong_size_is_told_as_without_a_cache(root):
    Image.new("L", (40, 30)).save(root / "trainannot" / "train3.png")
    for kind in ("none", "ram", "disk", "disk"):
        with pytest.raises(UserError, match="train3.png is 40x30, but its image .* is 80x70"):
            data = train_set(root, kind)
            if kind == "ram":
                data.cache.fill()
            data[3]


def test_a_label_that_is_no_byte_is_refused_each_time(root):
    """258 would become 2, and 65535 ignored."""
    (root / "classes.txt").write_text("a\nb\nc\n")
    for split in ("train", "val"):
        (root / split / "images").mkdir()
        (root / split / "masks").mkdir()
        for path in (root / split).glob("*.png"):
            path.rename(root / split / "images" / path.name)
            Image.fromarray(np.full(SIZE[::-1], 258 if path.stem == "train3" else 1, np.uint16)).save(
                root / split / "masks" / path.name)
    for kind in ("none", "disk", "disk", "ram"):
        data, _ = build_datasets("folder", data_root=root, crop_size=65)
        cache_decoded(data, kind, limit_gb=1.0, folder=root / "cache", num_workers=0)
        with pytest.raises(UserError, match="train3.png has the label 258"):
            data.cache.fill() if kind == "ram" else data[3]


def test_memory_holds_what_is_counted(root):
    data = train_set(root, "ram")  # half of its masks have 16 bits
    data.cache.fill()
    held = sum(part.numel() * part.element_size() for pair in data.cache.pairs for part in pair)
    assert held == round(6 * GB * 1e9)


def test_a_folder_that_is_deleted_is_made_again(root):
    data = train_set(root, "disk")
    data[0]
    shutil.rmtree(root / "cache")
    data[0]
    assert len(list((root / "cache").iterdir())) == 1


def test_a_full_disk_is_an_error(root, monkeypatch):
    data = train_set(root, "disk")
    monkeypatch.setattr("numpy.save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="--cache disk: .*No space left.*make room"):
        data[0]
    assert list((root / "cache").iterdir()) == []


def test_a_disk_without_room_is_refused_at_the_start(root, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9e9, 7e9, 2e9))
    with pytest.raises(UserError, match="--cache disk: .* needs 0.0 GB, and 2 for checkpoints, but 2.0 are free"):
        train_set(root, "disk")


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
