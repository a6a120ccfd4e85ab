"""The labels of a folder of your own: what a run without classes.txt and make_classes refuse."""
import re

import numpy as np
import pytest

from datasets import describe
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
