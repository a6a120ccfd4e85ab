"""The labels of a folder of your own: what a run without classes.txt and make_classes refuse."""
import re

import numpy as np
import pytest

from datasets import build_datasets, build_loaders, check_and_filter, describe
from datasets.make_classes import main as make_classes
from tests.datasets.pictures import encoded
from tests.datasets.test_folder import RNG, SIZE, put
from utils.errors import UserError

TENS = [*range(10)]
REFUSED = [
    ([*range(0, 201, 20)], "the labels 0, 20, 40, 60, 80, 100, 120, ... and 200, which.*such as 20:1,40:2"),
    ([*TENS, 65535], "the labels 0 to 9 and 65535, which.*give --ignore_label 65535 if it marks pixels without a "
                     "class, --label_map 65535:10 if it is one, or name all"),
    ([*TENS, 50, 60], "the labels 0 to 9, 50 and 60, which.*--label_map, such as 50:10,60:11, or name all"),
    ([*range(300)], "have 299 labels, and 255 can be classes"),
]


def put_labels(root, labels):
    """Two masks of 16 bits that have the labels."""
    side = int(np.ceil(len(labels) ** 0.5)) + 1
    for name in "ab":
        put(root / "train", name, np.zeros(SIZE))
        mask = np.resize(labels, (side, side)).astype(np.uint16)
        (root / "train" / "masks" / f"{name}.png").write_bytes(encoded(mask))


@pytest.mark.parametrize(("labels", "words"), REFUSED)
def test_labels_that_are_no_class_numbers_are_shown(tmp_path, labels, words):
    put_labels(tmp_path, labels)
    with pytest.raises(UserError, match=words):
        describe("folder", data_root=tmp_path)


@pytest.mark.parametrize(("labels", "words"), [
    *REFUSED[:3], ([*range(300)], "more than 255 labels"), ([255], "have ignored pixels only"), ([3, 4], "3 to 4"),
    ([0, 255], "The 2 masks in .* have a single class, 0 .*: if 255 is a class, give --label_map 255:1")])
def test_make_classes_refuses_what_a_run_refuses(tmp_path, capsys, labels, words):
    put_labels(tmp_path, labels)
    with pytest.raises(SystemExit) as stop:
        make_classes(["--data_root", str(tmp_path)])
    assert stop.value.code == 2 and re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "classes.txt").exists()


@pytest.mark.parametrize(("labels", "flags", "names"), [
    ([*range(0, 201, 20)], ["--label_map", ",".join(f"{20 * i}:{i}" for i in range(11))], range(11)),
    ([*TENS, 65535], ["--ignore_label", "65535"], TENS), ([0, 255], ["--label_map", "255:1"], [0, 1])])
def test_make_classes_takes_the_flags_that_it_names(tmp_path, capsys, labels, flags, names):
    put_labels(tmp_path, labels)
    make_classes(["--data_root", str(tmp_path), *flags])
    assert "give main.py the same --label_map" in capsys.readouterr().out
    assert describe("folder", data_root=tmp_path).names == tuple(f"class_{i}" for i in names)
    assert " # 0 pixels" not in (tmp_path / "classes.txt").read_text()


@pytest.mark.parametrize(("flags", "words"), [
    (["--label_map", "1:x"], "argument --label_map: '1:x' can't be read"), (["--ignore_label", "1"], "in colours"),
    (["--ignore_label", "1", "--label_map", "1:2"], "--ignore_label 1: --label_map makes it 2")])
def test_make_classes_refuses_flags_in_a_line(tmp_path, capsys, flags, words):
    put(tmp_path / "train", "a", RNG.integers(0, 2, (*SIZE, 3)))
    with pytest.raises(SystemExit) as stop:
        make_classes(["--data_root", str(tmp_path), *flags])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def build(root, **flags):
    return dict(zip(("train", "val"), build_datasets("folder", data_root=root, **flags), strict=True))


@pytest.mark.parametrize("damaged", ["00", "09"])
def test_damaged_masks_are_left_to_the_check(tmp_path, log, damaged):
    """Also where all masks are read to learn the classes, so that they can be listed and skipped."""
    for i in range(10):
        put(tmp_path / "train", f"{i:02}", RNG.integers(0, 4, SIZE))
    put(tmp_path / "val", "v", RNG.integers(0, 4, SIZE))
    for name in (damaged, "05"):
        (tmp_path / "train" / "masks" / f"{name}.png").write_bytes(b"")
    sets = build(tmp_path)
    assert sets["train"].class_names == ["0", "1", "2", "3"]
    with pytest.raises(UserError, match=r"masks/0\d.png .*--skip_bad_images"):
        check_and_filter(sets)
    with pytest.raises(UserError, match="--check_data found 2 problems"):
        check_and_filter(sets, check_all=True)
    assert len(check_and_filter(sets, skip_bad=True)["train"]) == 8


def test_a_damaged_mask_beyond_the_first_does_not_reach_training(tmp_path):
    for i in range(12):
        put(tmp_path / "train", f"{i:02}", RNG.integers(0, 4, SIZE))
    (tmp_path / "train" / "masks" / "11.png").write_bytes(b"")
    with pytest.raises(UserError, match="Can't read .*masks/11.png"):
        check_and_filter(build(tmp_path, val_names=["00"]))


def test_masks_none_of_which_can_be_read_are_an_error(tmp_path):
    put(tmp_path / "train", "a", RNG.integers(0, 4, SIZE))
    (tmp_path / "train" / "masks" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="Can't read .*masks/a.png"):
        describe("folder", data_root=tmp_path)


def test_classes_without_colours_for_masks_in_colours_say_what_to_add(tmp_path):
    put(tmp_path / "train", "a", RNG.integers(0, 2, (*SIZE, 3)))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="add to each of its lines .*`name red green blue`, or move the file away"):
        build(tmp_path)


def test_a_val_folder_without_images_is_to_be_filled_or_removed(tmp_path):
    put(tmp_path / "train", "a", RNG.integers(0, 4, SIZE))
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    (tmp_path / "val" / "images" / "x.txt").touch()
    with pytest.raises(UserError, match=f"val/images .but 1 .txt.: put the .* there, or remove {tmp_path}/val to"):
        build(tmp_path)


def test_a_batch_of_more_than_val_share_leaves_names_it(tmp_path):
    for i in range(4):
        put(tmp_path / "train", str(i), RNG.integers(0, 4, SIZE))
    sets = build(tmp_path, val_share=0.7)
    with pytest.raises(UserError, match="more than the 1 training image: .*, or a smaller --val_share: 3 images valid"):
        build_loaders(sets["train"], sets["val"], batch_size=2, val_batch_size=1, num_workers=0, seed=1)


def test_masks_with_a_single_class_are_named_by_their_folder(tmp_path):
    put(tmp_path / "train", "a", np.resize([0, 255], SIZE))
    put(tmp_path / "train", "b", np.resize([0, 255], SIZE))
    with pytest.raises(UserError, match="masks in .*/train/masks have a single class"):
        check_and_filter(build(tmp_path))
