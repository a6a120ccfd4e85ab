"""Class names and colours without images, and which flags a data set takes."""
import numpy as np
import pytest

from datasets import DATASETS, Classes, build_datasets, describe
from utils.errors import UserError


@pytest.mark.parametrize(("name", "count"), [("voc", 21), ("camvid", 11), ("synthetic", 5)])
def test_classes_are_known_without_the_data(name, count, tmp_path):
    classes = describe(name, data_root=tmp_path / "nowhere", year="2012")
    assert classes.num_classes == len(classes.names) == count
    assert classes.palette.shape == (256, 3) and classes.palette.dtype == np.uint8


def test_they_are_those_of_the_built_data_set():
    _, val = build_datasets("synthetic", data_root=None)
    classes = describe("synthetic")
    assert list(classes.names) == val.class_names and classes.num_classes == val.num_classes
    mask = np.array([[0, 5, 255]])
    assert (classes.decode_target(mask) == val.decode_target(mask)).all()


def test_a_built_data_set_uses_its_own_palette():
    _, val = build_datasets("synthetic", data_root=None)
    val.palette = np.full((256, 3), 7, np.uint8)
    assert (val.decode_target(np.zeros((2, 2), int)) == 7).all()
    assert (describe("synthetic").decode_target([0]) == 0).all()


def test_a_mask_is_coloured_by_its_labels():
    classes = Classes(("a", "b"), np.arange(768).reshape(256, 3).astype(np.uint8))
    assert classes.decode_target([[1, 255]]).tolist() == [[[3, 4, 5], [253, 254, 255]]]


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="Unknown --dataset nope.*" + ".*".join(DATASETS)):
        describe("nope")
