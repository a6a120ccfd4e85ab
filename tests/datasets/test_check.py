import pytest
import torch
from PIL import Image

from datasets import build_datasets, build_loaders, check_dataset
from datasets.bad_images import HINT
from datasets.files import read_image, read_mask
from tests.datasets.pictures import PIXELS, encoded
from utils.errors import UserError


@pytest.fixture
def folder(voc_root):
    return voc_root / "VOCdevkit" / "VOC2012"


def problem(voc_root, **kwargs):
    """The one line that checking the training set says."""
    train, _ = build_datasets("voc", data_root=voc_root)
    with pytest.raises(UserError) as error:
        check_dataset(train, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_good_data_set_passes(voc_root):
    for dataset in build_datasets("voc", data_root=voc_root):
        check_dataset(dataset)


@pytest.mark.parametrize("file", ["JPEGImages/b.jpg", "SegmentationClass/b.png"])
def test_missing_file(voc_root, folder, file):
    (folder / file).unlink()
    assert f"Missing file {folder / file}" in problem(voc_root)


@pytest.mark.parametrize("file", ["JPEGImages/b.jpg", "SegmentationClass/b.png"])
@pytest.mark.parametrize("keep", [0, 20, 0.8])
def test_unreadable_file(voc_root, folder, file, keep):
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:int(keep * len(data)) if keep < 1 else keep])
    assert str(folder / file) in problem(voc_root)


def test_mask_of_another_size(voc_root, folder, write):
    write.mask(folder / "SegmentationClass" / "b.png", size=(8, 12))
    message = problem(voc_root)
    assert f"{folder / 'SegmentationClass' / 'b.png'} is 8x12" in message and "12x8" in message


def test_label_outside_the_classes(voc_root, folder, write):
    write.mask(folder / "SegmentationClass" / "b.png", [0] * 11 + [37])
    message = problem(voc_root)
    assert f"{folder / 'SegmentationClass' / 'b.png'} has the label 37" in message and "0 to 20" in message


@pytest.mark.parametrize("mode, label", [("I;16", 300), ("I", -1)])
def test_label_that_is_no_byte(voc_root, folder, mode, label):
    Image.new(mode, (12, 8), label).save(folder / "SegmentationClass" / "b.png", format="TIFF")
    assert f"the label {label}" in problem(voc_root)


def test_mask_in_colours(voc_root, folder, write):
    write.image(folder / "SegmentationClass" / "b.png")
    message = problem(voc_root)
    assert str(folder / "SegmentationClass" / "b.png") in message and "such as 10 20 30" in message


def test_empty_split(voc_root, folder, write):
    write.text(folder / "ImageSets" / "Segmentation" / "train.txt", "\n \n")
    assert str(folder / "ImageSets" / "Segmentation" / "train.txt") in problem(voc_root)


def test_two_images_of_one_name(voc_root, folder, write):
    write.text(folder / "ImageSets" / "Segmentation" / "train.txt", "a\nb\na\n")
    assert "2 images" in problem(voc_root)


def test_limit(voc_root, folder):
    (folder / "JPEGImages" / "b.jpg").write_bytes(b"")
    check_dataset(build_datasets("voc", data_root=voc_root)[0], limit=1)
    problem(voc_root, limit=2)
    problem(voc_root, limit=100)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_wrong_label_stops_training_with_its_file(voc_root, folder, write, num_workers):
    write.mask(folder / "SegmentationClass" / "b.png", 99)
    sets = build_datasets("voc", data_root=voc_root, crop_size=8)
    loader, _ = build_loaders(*sets, batch_size=2, val_batch_size=1, num_workers=num_workers, seed=1)
    with pytest.raises(UserError, match="b.png has the label 99"):
        next(loader.iterate_from(0))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_torn_image_stops_training_with_its_file(voc_root, folder, num_workers):
    (folder / "JPEGImages" / "b.jpg").write_bytes(encoded(PIXELS, "JPEG")[:-40])
    sets = build_datasets("voc", data_root=voc_root, crop_size=8)
    loader, _ = build_loaders(*sets, batch_size=2, val_batch_size=1, num_workers=num_workers, seed=1)
    with pytest.raises(UserError) as error:
        next(loader.iterate_from(0))
    line = str(error.value).strip().splitlines()[-1]  # a worker's traceback comes before
    assert f"Can't read {folder / 'JPEGImages' / 'b.jpg'} (image file is truncated" in line
    assert line.endswith("replace the damaged file. " + HINT)


@pytest.mark.parametrize("mode, suffix", [("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("1", "png"),
                                          ("LA", "png")])
def test_every_image_mode_becomes_rgb(tmp_path, write, mode, suffix):
    write.image(tmp_path / f"x.{suffix}", mode=mode, colour=(255, 255, 255))
    image = read_image(tmp_path / f"x.{suffix}")
    assert image.shape == (3, 8, 12) and image.dtype == torch.uint8 and image.min() > 250


def test_masks_give_indices_whatever_the_palette(tmp_path, write):
    write.mask(tmp_path / "p.png", list(range(10)) + [254, 255])
    assert read_mask(tmp_path / "p.png")[0].tolist() == [*range(10), 254, 255]
