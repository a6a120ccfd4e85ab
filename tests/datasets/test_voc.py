import numpy as np
import pytest
import torch

from datasets import build_datasets, check_dataset, describe
from datasets.voc import DATASET_YEAR_DICT, YEARS, VOCSegmentation
from tests.datasets.pictures import encoded
from utils.errors import UserError

# From the development kit's documentation, worked by hand from the bits
HAND_MADE = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 7: (128, 128, 128),
             8: (64, 0, 0), 15: (192, 128, 128), 16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192)}


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda m: torch.tensor(m).byte(), lambda m: np.uint8(m)])
def test_decode_target_uses_vocs_colours_and_leaves_the_mask_alone(kind):
    mask = kind([list(HAND_MADE)])
    before = mask.tolist()
    colours = describe("voc").decode_target(mask)
    assert colours.dtype == np.uint8 and colours.shape == (1, len(HAND_MADE), 3)
    assert colours[0].tolist() == [list(colour) for colour in HAND_MADE.values()]
    assert mask.tolist() == before
    colours[:] = 0  # a new array, not a view of the palette
    assert tuple(VOCSegmentation.palette[1]) == (128, 0, 0)


def test_classes():
    assert VOCSegmentation.num_classes == len(VOCSegmentation.class_names) == 21
    assert VOCSegmentation.class_names[15] == "person"
    assert VOCSegmentation.palette.shape == (256, 3) and VOCSegmentation.palette.dtype == np.uint8
    assert len({tuple(colour) for colour in VOCSegmentation.palette}) == 256


def test_reads_the_splits(voc_root):
    train, val = build_datasets("voc", data_root=voc_root, crop_size=9)
    assert [train.name(i) for i in range(len(train))] == ["a", "b"]
    assert [val.name(i) for i in range(len(val))] == ["c"]
    image, label = train[1]
    assert image.shape == (3, 9, 9) and set(label.unique().tolist()) <= {1, 255}
    image, label = val[0]
    assert image.shape == (3, 8, 12) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert label.dtype == torch.int64 and (label == 2).all()
    assert not val.same_size
    check_dataset(train)


def test_crop_val_makes_one_size(voc_root):
    _, val = build_datasets("voc", data_root=str(voc_root), crop_size=7, crop_val=True)
    assert val.same_size and val[0][0].shape == (3, 7, 7) and val[0][1].shape == (7, 7)


def test_aug_derives_the_training_list_from_the_masks(voc_root, log):
    train, val = build_datasets("voc", data_root=voc_root, year="2012_aug", crop_size=64)
    assert [train.name(i) for i in range(len(train))] == ["a", "b", "d"]
    assert [int(train.read_pair(i)[1][0, 0]) for i in range(3)] == [10, 11, 13]
    assert [val.name(i) for i in range(len(val))] == ["c"] and int(val.read_pair(0)[1][0, 0]) == 2
    assert "3 training images" in log.text and "SegmentationClassAug" in log.text


def test_aug_prefers_train_aug_txt(voc_root, write, log):
    write.text(voc_root / "train_aug.txt", "d\r\na\r\n")
    train, _ = build_datasets("voc", data_root=voc_root, year="2012_aug")
    assert [train.name(i) for i in range(len(train))] == ["d", "a"]
    assert "2 training images" in log.text and "train_aug.txt" in log.text


def test_aug_without_its_masks_names_the_folder(tmp_path, write):
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    write.text(lists / "train.txt", "a\n")
    with pytest.raises(UserError, match="SegmentationClassAug.*--year 2012"):
        build_datasets("voc", data_root=tmp_path, year="2012_aug")


def test_2011_has_a_folder_of_its_own(tmp_path, write):
    lists = tmp_path / "TrainVal" / "VOCdevkit" / "VOC2011" / "ImageSets" / "Segmentation"
    write.text(lists / "train.txt", "a\n")
    write.text(lists / "val.txt", "b\n")
    train, _ = build_datasets("voc", data_root=tmp_path, year="2011")
    assert train.name(0) == "a"


def test_years_are_those_of_torchvision_and_2012_aug():
    assert (*sorted(year for year in DATASET_YEAR_DICT if year.isdigit()), "2012_aug") == YEARS


@pytest.mark.parametrize("year", ["2013", "2007-test", "2011_aug", ""])
def test_unknown_year_lists_the_known(voc_root, year):
    with pytest.raises(UserError, match="2007.*2010.*2012_aug"):
        build_datasets("voc", data_root=voc_root, year=year)


def test_missing_root_names_folder_and_flags(tmp_path):
    with pytest.raises(UserError, match="VOC2012.*--data_root.*--download") as error:
        build_datasets("voc", data_root=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "VOCdevkit" / "VOC2012") in str(error.value)


def test_missing_split_file_is_named(voc_root):
    (voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(UserError, match="val.txt"):
        build_datasets("voc", data_root=voc_root)


def test_real_images(real):
    train, val = build_datasets("voc", data_root=real("voc_mini"))
    for dataset in (train, val):
        check_dataset(dataset)
    assert [val.name(i) for i in range(3)] == ["val_0001", "val_0023", "val_0114"]
    image, label = val[0]
    assert image.shape == (3, 513, 513) and label.unique().tolist() == [0, 1, 255]


def test_images_of_any_suffix_are_found(voc_root, write):
    folder = voc_root / "VOCdevkit" / "VOC2012"
    for name, suffix in (("a", ".png"), ("b", ".JPG"), ("c", ".jpeg")):
        (folder / "JPEGImages" / f"{name}.jpg").rename(folder / "JPEGImages" / f"{name}{suffix}")
    for dataset in build_datasets("voc", data_root=voc_root):
        check_dataset(dataset)
    write.image(folder / "JPEGImages" / "a.bmp")
    with pytest.raises(UserError, match="2 images in .*JPEGImages have the name a .*a.bmp.*a.png"):
        build_datasets("voc", data_root=voc_root)


@pytest.mark.parametrize("lines", [
    "a.jpg\nb.JPG\n", "JPEGImages/a.jpg\nJPEGImages/b.jpg\n", "JPEGImages\\a.jpg\r\nJPEGImages\\b.jpg\r\n",
    "VOCdevkit/VOC2012/JPEGImages/a.jpg\nVOCdevkit/VOC2012/JPEGImages/b.jpg\n",
    "/JPEGImages/a.jpg /SegmentationClass/a.png\n/JPEGImages/b.jpg /SegmentationClass/b.png\n"])
def test_lists_of_other_forms(voc_root, write, lines):
    write.text(voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt", lines)
    train, _ = build_datasets("voc", data_root=voc_root)
    check_dataset(train)
    assert [(train.name(i), int(train.read_label(i)[0, 0])) for i in range(2)] == [("a", 0), ("b", 1)]


def test_a_list_says_which_masks(voc_root, write):
    write.text(voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt",
               "/JPEGImages/a.jpg /SegmentationClassAug/d.png\n")
    train, _ = build_datasets("voc", data_root=voc_root)
    assert int(train.read_label(0)[0, 0]) == 13


@pytest.mark.parametrize("below", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_data_root_may_point_into_the_tree(voc_root, below, log):
    train, _ = build_datasets("voc", data_root=voc_root / below)
    check_dataset(train)
    assert "VOC 2012: found in" in log.text


def test_a_tree_without_vocdevkit(voc_root):
    (voc_root / "VOCdevkit" / "VOC2012").rename(voc_root / "VOC2012")
    check_dataset(build_datasets("voc", data_root=voc_root)[0])


def test_a_tree_further_down_is_named(voc_root):
    with pytest.raises(UserError, match="looks like that of voc: give --data_root .*VOC2012"):
        build_datasets("voc", data_root=voc_root.parent)


def test_masks_in_vocs_colours(voc_root):
    label = np.array([[0, 1, 20, 255]], np.uint8).repeat(3, 0)
    colours = np.array([HAND_MADE[value] for value in label.ravel()], np.uint8).reshape(*label.shape, 3)
    path = voc_root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "a.png"
    path.write_bytes(encoded(colours))
    train, _ = build_datasets("voc", data_root=voc_root)
    assert (train.read_label(0).numpy() == label).all()
    path.write_bytes(encoded(label[..., None].repeat(3, -1)))  # indices, saved as RGB
    assert (train.read_label(0).numpy() == label).all()
    colours[0, 0] = 1, 2, 3
    path.write_bytes(encoded(colours))
    with pytest.raises(UserError, match="1 of its pixels have colours that are no class's, such as 1 2 3"):
        train.read_label(0)
    path.write_bytes(encoded(np.array([[1, 2, 20]], np.uint8)[..., None].repeat(3, -1)))
    assert train.read_label(0).tolist() == [[1, 2, 20]]


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_another_year_is_named(voc_root, below):
    with pytest.raises(UserError, match="--year 2007: .* holds VOC of 2012 only: give --year 2012, or"):
        build_datasets("voc", data_root=voc_root / below, year="2007")
