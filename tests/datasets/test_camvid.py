import numpy as np
import pytest

from datasets import build_datasets, check_dataset, describe
from datasets.camvid import CamVid
from tests.datasets.pictures import PIXELS, encoded
from utils.errors import UserError


def test_sorted_pairs_of_equal_names(camvid_root):
    train, val = build_datasets("camvid", data_root=camvid_root, crop_size=6)
    assert [train.name(i) for i in range(len(train))] == ["0001", "0002"]
    image, label = val[1]
    assert image.shape == (3, 8, 12) and (label == 3).all()
    assert train[0][0].shape == (3, 6, 6)


def test_labels_from_11_on_are_ignored(camvid_root, write):
    write.mask(camvid_root / "valannot" / "0001.png", [9, 10, 11, 12, 30, 254] * 2, mode="L")
    _, val = build_datasets("camvid", data_root=camvid_root)
    assert val[0][1][0, :6].tolist() == [9, 10, 255, 255, 255, 255]
    check_dataset(val)


def test_stray_files_are_no_images(camvid_root, write):
    write.text(camvid_root / "train" / "Thumbs.db", "x")
    write.text(camvid_root / "train" / "._0001.jpg", "x")
    train, _ = build_datasets("camvid", data_root=camvid_root)
    assert len(train) == 2


def test_same_size_only_where_it_is_so(camvid_root, write):
    _, val = build_datasets("camvid", data_root=camvid_root)
    assert val.same_size
    write.image(camvid_root / "val" / "0003.png", size=(13, 8))
    write.mask(camvid_root / "valannot" / "0003.png", size=(13, 8))
    _, val = build_datasets("camvid", data_root=camvid_root)
    assert not val.same_size
    _, val = build_datasets("camvid", data_root=camvid_root, crop_size=5, crop_val=True)
    assert val.same_size


def test_images_that_exif_turns_are_of_the_size_of_their_masks(camvid_root, write):
    (camvid_root / "val" / "0001.jpg").write_bytes(encoded(PIXELS.swapaxes(0, 1), orientation=6))  # stored 8 x 12
    _, val = build_datasets("camvid", data_root=camvid_root)
    check_dataset(val)
    assert val.same_size and {tuple(val[i][0].shape) for i in range(2)} == {(3, 8, 12)}
    write.mask(camvid_root / "valannot" / "0001.png", size=(8, 12))
    assert not val.same_size and val[0][0].shape == (3, 12, 8)


@pytest.mark.parametrize("folder", ["train", "trainannot", "val", "valannot"])
def test_missing_folder_is_named(camvid_root, folder):
    (camvid_root / folder).rename(camvid_root / "elsewhere")
    with pytest.raises(UserError, match="--data_root") as error:
        build_datasets("camvid", data_root=camvid_root)
    assert str(camvid_root / folder) in str(error.value)


def test_colours_of_segnet():
    assert CamVid.num_classes == len(CamVid.class_names) == 11
    decoded = describe("camvid").decode_target(np.array([0, 3, 4, 10, 255]))
    assert decoded.tolist() == [[128, 128, 128], [128, 64, 128], [60, 40, 222], [0, 128, 192], [0, 0, 0]]


def test_real_data(real):
    train, val = build_datasets("camvid", data_root=real("CamVid"), crop_size=64)
    assert (len(train), len(val)) == (367, 101)
    assert val.same_size
    check_dataset(train, limit=5)
    check_dataset(val, limit=5)
    image, label = val[0]
    assert image.shape == (3, 360, 480)
    assert set(label.unique().tolist()) <= {*range(11), 255}
    road = label[-90:, 180:300] == CamVid.class_names.index("Road")
    assert road.float().mean() > 0.8  # before the car there is road
