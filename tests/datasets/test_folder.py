"""Your own images and masks."""
import re
import shutil

import numpy as np
import pytest

from datasets import build_datasets, build_loaders, check_and_filter, describe
from datasets.make_classes import main as make_classes
from tests.datasets.pictures import encoded, paletted
from utils.errors import UserError
from utils.launch import TORCHRUN

RNG = np.random.default_rng(1)
SIZE = (8, 10)


@pytest.fixture
def root(tmp_path):
    """Ten images with index masks of the labels 0 to 3, without a val folder."""
    for i in range(10):
        put(tmp_path / "train", f"{i:02}", RNG.integers(0, 4, SIZE))
    return tmp_path


def put(folder, name, mask):
    """Write an image and its mask."""
    for kind, content in (("images", RNG.integers(0, 256, (*SIZE, 3))), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.png").write_bytes(encoded(content.astype(np.uint8)))


def names_of(dataset):
    return [dataset.name(i) for i in range(len(dataset))]


def test_without_val_a_share_of_the_training_images_validates(root, log):
    train, val = build_datasets("folder", data_root=root, val_share=0.3, crop_size=8)
    assert len(val) == 3 and sorted(names_of(train) + names_of(val)) == [f"{i:02}" for i in range(10)]
    assert names_of(build_datasets("folder", data_root=root, val_share=0.3, seed=9)[1]) == names_of(val) == val.drawn
    assert val.num_classes == 4 and val.class_names == ["0", "1", "2", "3"]
    assert "No classes.txt" in log.text and "4 classes" in log.text
    check_and_filter({"train": train, "val": val})


def test_the_images_of_an_earlier_run_validate_again(root):
    put(root / "train", "aa", RNG.integers(0, 4, SIZE))
    _, val = build_datasets("folder", data_root=root, val_names=["03", "07"])
    assert names_of(val) == ["03", "07"]
    with pytest.raises(UserError, match="1 of the 2 validation images of this run are missing.*gone"):
        build_datasets("folder", data_root=root, val_names=["03", "gone"])


def test_with_val_both_folders_are_used(root):
    put(root / "val", "v", RNG.integers(0, 4, SIZE))
    train, val = build_datasets("folder", data_root=root)
    assert len(train) == 10 and names_of(val) == ["v"] and val.drawn is None


def test_classes_have_names_and_colours(root):
    (root / "classes.txt").write_text("sky # 10 pixels\nold road 1 2 3\nwall 4 5 6\ntree\nignore 9 9 9\n")
    train, _ = build_datasets("folder", data_root=root)
    assert train.class_names == ["sky", "old road", "wall", "tree"]
    assert train.decode_target([1, 255]).tolist() == [[1, 2, 3], [9, 9, 9]]
    mask = np.array([(1, 2, 3), (4, 5, 6), (9, 9, 9)], np.uint8)[RNG.integers(0, 3, SIZE)]
    (root / "train" / "masks" / f"{train.name(0)}.png").write_bytes(encoded(mask))
    expected = np.select([mask[..., 0] == 1, mask[..., 0] == 4], [1, 2], 255)
    assert (train.read_label(0).numpy() == expected).all()


@pytest.mark.parametrize(("text", "words"), [("a\na\n", "line 2"), ("a 1 2 3\nb 1 2 3\n", "line 2"),
                                             ("\n", "0 classes"), ("a 1 2 3\nroad 128 64 256\n", "line 2: 'road 128"),
                                             ("road 12 13 # x\n", "line 1: 'road 12 13' is neither"),
                                             ("road 128,64,128\n", "line 1"), ("road #804080\n", "line 1"),
                                             ("road (1, 2, 3)\n", "line 1"), ("128 64 128\n", "line 1"),
                                             ("a 1 2 3\nignore\nb 4 5 6\n", "line 2: ignore is no class"),
                                             ("ignore 0 0 0\n", "0 classes"),
                                             ("".join(f"{i}\n" for i in range(256)), "256 classes")])
def test_classes_that_are_ambiguous_are_refused(root, text, words):
    (root / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=f"classes.txt.*{words}"):
        describe("folder", data_root=root)


def test_a_number_may_end_a_name(root):
    (root / "classes.txt").write_text("lane 1\nlane 2 7 8 9\n3\n4 1 1 1\n")
    assert describe("folder", data_root=root).names == ("lane 1", "lane 2", "3", "4")


@pytest.mark.parametrize(("labels", "words"), [([0, 128], "0 and 128, which"),
                                               ([0, 20, 40], "0, 20 and 40, which"),
                                               ([0, 7, 9], "0, 7 and 9, which")])
def test_labels_with_large_gaps_need_a_word(tmp_path, labels, words):
    put(tmp_path / "train", "a", np.resize(labels, SIZE))
    with pytest.raises(UserError, match=f"have the labels {words}.*--label_map.*classes.txt") as error:
        describe("folder", data_root=tmp_path)
    mapping = {label: i for i, label in enumerate(labels)}
    example = ",".join(f"{label}:{i}" for label, i in mapping.items() if label != i)
    assert f"give --label_map, such as {example}, or" in str(error.value)
    assert describe("folder", data_root=tmp_path, label_map=mapping).num_classes == len(labels)


def test_painted_masks_need_a_label_map(tmp_path):
    for i in range(4):
        put(tmp_path / "train", str(i), np.resize([0, 255], SIZE))
    with pytest.raises(UserError, match="single class.*: if 255 is a class, give --label_map 255:1 .docs"):
        check_and_filter(dict(zip(("train", "val"), build_datasets("folder", data_root=tmp_path), strict=True)))
    train, _ = build_datasets("folder", data_root=tmp_path, label_map={255: 1})
    assert train.num_classes == 2 and check_and_filter({"train": train})


@pytest.mark.parametrize(("labels", "example"), [([0, 100, 200, 255], "--label_map, such as 0:0,100:1,200:2 "),
                                                 ([0, 37], "--label_map (")])
def test_scaled_masks_beside_names_of_classes_get_an_example(tmp_path, labels, example):
    put(tmp_path / "train", "a", np.resize(labels, SIZE))
    put(tmp_path / "train", "b", np.resize(labels, SIZE))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=re.escape(example)):
        check_and_filter({"train": build_datasets("folder", data_root=tmp_path)[0]})


def test_colours_without_names_name_the_command(tmp_path, capsys):
    put(tmp_path / "train", "a", np.array([(0, 0, 0), (9, 8, 7)])[RNG.integers(0, 2, SIZE)])
    with pytest.raises(UserError, match="in colours.*python -m datasets.make_classes --data_root"):
        build_datasets("folder", data_root=tmp_path)
    make_classes(["--data_root", str(tmp_path)])
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    assert lines[0].startswith("colour_0_0_0 0 0 0 # ") and lines[1].endswith(" pixels in 1 mask")
    assert build_datasets("folder", data_root=tmp_path)[0].num_classes == 2
    before = (tmp_path / "classes.txt").read_bytes()
    with pytest.raises(SystemExit) as stop:
        make_classes(["--data_root", str(tmp_path)])
    assert stop.value.code == 2 and (tmp_path / "classes.txt").read_bytes() == before
    assert "exists and stays" in capsys.readouterr().err


def test_classes_of_index_masks_are_counted(root):
    make_classes(["--data_root", str(root)])
    train, _ = build_datasets("folder", data_root=root, val_names=[])
    pixels = np.bincount(np.concatenate([train.read_label(i).numpy() for i in range(10)]).ravel())
    assert (root / "classes.txt").read_text().splitlines() == [
        f"class_{label} # {count:,} pixels in 10 masks" for label, count in enumerate(pixels)]


@pytest.mark.parametrize(("folders", "words"), [
    (["VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass",
      "VOCdevkit/VOC2012/ImageSets/Segmentation"], "looks like that of voc: give --dataset voc --data_root"),
    (["a/train", "a/trainannot", "a/val", "a/valannot"], "a looks like that of camvid: give --dataset camvid"),
    (["leftImg8bit", "gtFine"], "looks like that of cityscapes: give --dataset cityscapes"),
    (["images", "masks"], "not split"),
    (["train/images", "train/labels"], "looks like a data set of YOLO"), (["x"], "Put them into train/images")])
def test_another_layout_is_named(tmp_path, folders, words):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=words):
        build_datasets("folder", data_root=tmp_path)


@pytest.mark.parametrize("name", ["labels", "Annotations", "label", "mask", "gt"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_under_another_name_are_to_be_renamed(root, name, split, log):
    put(root / "val", "v", RNG.integers(0, 4, SIZE))
    (root / split / "masks").rename(root / split / name)
    with pytest.raises(UserError, match=f"{split}/masks does not exist, but .*{split}/{name} does: rename it to masks"):
        build_datasets("folder", data_root=root)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_missing_folder_of_the_validation_split_is_named(root, kind):
    put(root / "val", "v", RNG.integers(0, 4, SIZE))
    shutil.rmtree(root / "val" / kind)
    with pytest.raises(UserError, match=f"/val/{kind} does not exist: put the {kind} of the.*or remove {root}/val"):
        build_datasets("folder", data_root=root)


def test_a_data_root_that_does_not_exist_is_all_that_is_said(tmp_path, log):
    with pytest.raises(UserError, match="--data_root .*gone does not exist: name the folder"):
        describe("folder", data_root=tmp_path / "gone")
    assert "classes" not in log.text


def test_a_folder_of_validation_images_alone_can_be_tested(tmp_path):
    put(tmp_path / "val", "v", RNG.integers(0, 4, SIZE))
    assert build_datasets("folder", data_root=tmp_path, train=False)[1].num_classes == 4
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert names_of(build_datasets("folder", data_root=tmp_path, train=False)[1]) == ["v"]


@pytest.mark.parametrize(("rank", "bars"), [("0", 1), ("1", 0)])
def test_counting_classes_shows_a_bar_on_rank_0(root, capsys, monkeypatch, rank, bars):
    for name, value in zip(TORCHRUN, (rank, "2", rank, "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    describe("folder", data_root=root)
    assert ("counting classes: 100%" in capsys.readouterr().err) == bars


def test_a_single_class_is_counted_in_the_singular(tmp_path, log):
    put(tmp_path / "train", "a", np.resize([0, 255], SIZE))
    describe("folder", data_root=tmp_path, label_map={77: 0, 9: 255})
    assert ": 1 class, named" in log.text
    assert "none of the 1 mask has the labels 9, 77, which --label_map or --ignore_label names" in log.text


@pytest.mark.parametrize(("label_map", "words"), [
    ({0: 255}, "class 0 (0) is in no label, as label 0 means 255 (--ignore_label, --label_map): .*counts in the mean"),
    ({1: 0, 9: 255}, "class 1 .* as label 1 means 0 "),
    ({0: 255, 3: 0}, None), ({0: 1, 1: 0}, None)])
def test_a_class_that_no_label_means_is_a_warning(root, log, label_map, words):
    describe("folder", data_root=root, label_map=label_map)
    assert ("Warning: class" in log.text) == (words is not None)
    assert words is None or re.search(words.replace("(", "\\(").replace(")", "\\)"), log.text)


@pytest.mark.parametrize(("changed", "most", "expected", "words"), [
    (False, 10, 4, None), (True, 10, 1, "Validation images differ in size: --val_batch_size is 1, not 4"),
    (False, 2, 1, "Validation images may differ in size: --val_batch_size is 1, not 4")])
def test_images_of_one_size_are_batched(root, log, monkeypatch, changed, most, expected, words):
    monkeypatch.setattr("datasets.folder.MOST_HEADERS", most)
    if changed:
        for kind, content in (("images", np.zeros((9, 10, 3))), ("masks", np.zeros((9, 10)))):
            (root / "train" / kind / "05.png").write_bytes(encoded(content.astype(np.uint8)))
    _, val = build_datasets("folder", data_root=root, val_names=["01", "03", "05"])
    _, loader = build_loaders(None, val, batch_size=1, val_batch_size=4, num_workers=0, seed=1)
    assert loader.batch_size == expected and ("in size" in log.text) == (words is not None)
    assert words is None or words in log.text


@pytest.mark.parametrize(("lines", "flags", "warned"), [
    ("a 0 0 0\nb 4 5 6\nc 1 2 3\n", {}, True), ("a 0 0 0\nb 1 2 3\nc 4 5 6\n", {}, False),
    ("a 0 0 0\nb 4 5 6\nc 1 2 3\n", {"label_map": {1: 2, 2: 1}}, False), ("a\nb\nc\n", {}, False)])
def test_a_palette_that_contradicts_the_classes_is_a_warning(tmp_path, log, lines, flags, warned):
    put(tmp_path / "train", "a", np.resize([0, 1, 2], SIZE))
    palette = [0, 0, 0, 1, 2, 3, 4, 5, 6]
    (tmp_path / "train" / "masks" / "a.png").write_bytes(encoded(paletted(
        np.resize([0, 1, 2], SIZE).astype(np.uint8), palette)))
    (tmp_path / "classes.txt").write_text(lines)
    build_datasets("folder", data_root=tmp_path, val_names=[], **flags)
    assert ("label 1 in the colour 1 2 3, which classes.txt gives class 2" in log.text) == warned


def test_a_damaged_mask_is_left_to_the_check(root):
    (root / "classes.txt").write_text("a 1 2 3\nb\nc\nd\n")
    (root / "train" / "masks" / "00.png").write_bytes(b"")
    assert len(build_datasets("folder", data_root=root, val_names=[])[0]) == 10
