"""Masks that would train and score without an error, and give a wrong mIoU."""
import numpy as np
import pytest

from datasets import build_datasets, check, check_and_filter
from datasets.camvid import CamVid
from main import main
from tests.datasets.pictures import encoded
from utils.errors import UserError

RNG = np.random.default_rng(0)
SIZE = (10, 12)


@pytest.fixture
def camvid(tmp_path):
    """Return a function that writes a CamVid whose masks are arrays, and returns its root and data sets."""
    def make(train, val=None, **flags):
        root = tmp_path / "data"
        for split, masks in (("train", train), ("val", val or [np.arange(120).reshape(SIZE) % 11])):
            for i, mask in enumerate(masks):
                for folder, content in ((split, RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)),
                                        (f"{split}annot", np.asarray(mask, dtype=np.uint8))):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    (root / folder / f"{i:03}.png").write_bytes(encoded(content))
        return root, dict(zip(("train", "val"), build_datasets("camvid", data_root=root, **flags), strict=True))
    return make


def draw(labels, count=1):
    """Masks in which each of the labels occurs."""
    return [RNG.permutation(np.resize(labels, SIZE).ravel()).reshape(SIZE) for _ in range(count)]


@pytest.mark.parametrize(("train", "words"), [
    (draw([0, 255], 3),
     "3 training masks .* single class, Sky \\(0: 180, 255: 180 pixels\\).*--label_map 255:1;.*--dataset"),
    (draw([4], 2), "have a single class, Pavement \\(4: 240 pixels\\).*: add masks .*--dataset"),
    (draw([0, 128], 2), "labels that are not classes \\(128: 120 pixels, first in .*000.png\\).* 128:1, or 128:255"),
    (draw([*range(0, 240, 20)], 9), "multiples of 20, as if scaled.*0 to 10.*--label_map, such as 0:0,20:1,40:2,"),
    (draw([0, 1, 2, 3, 31], 1), "labels that are not classes \\(31: 24 pixels"),
    (draw([11, 255], 2), "ignored pixels only \\(11: 120, 255: 120 pixels\\)"),
], ids=["painted", "one class", "grey", "scaled", "32 classes", "ignored"])
@pytest.mark.parametrize("split", ["training", "validation"])
def test_labels_that_cannot_be_right_are_refused(camvid, train, words, split):
    good = draw(range(11))
    root, sets = camvid(*(train, good) if split == "training" else (good, train))
    with pytest.raises(UserError, match=words.replace("training", split)) as error:
        check_and_filter(sets)
    assert str(root) in str(error.value) and "docs/data.md#wrong-labels" in str(error.value)


def test_the_other_masks_are_read_before_anything_is_refused(camvid, log):
    _, sets = camvid([*draw([3], 8), *draw(range(11), 2), *draw([11])])
    check_and_filter(sets)
    assert "all pixels of 1 of the 11 training masks are ignored" in log.text
    assert "have no pixel" not in log.text


def test_what_is_no_class_is_found_with_a_suspicion_and_counted_with_check_data(camvid, log):
    _, sets = camvid([*draw(range(11), 8), *draw([0, 11, 31], 2)])
    check_and_filter(sets, check_all=True)
    assert "training masks have labels that are not classes and are ignored (31: 80 pixels, first in " in log.text
    assert log.text.count("/008.png") and "validation masks have labels" not in log.text
    _, sets = camvid([*draw([11]), *draw(range(11), 7), *draw([0, 11, 31], 2)])
    with pytest.raises(UserError, match="not classes .31: 80 pixels, first in .*008.png"):
        check_and_filter(sets)


@pytest.mark.parametrize("check_all", [True, False])
def test_labels_of_label_map_that_no_mask_has_are_named(camvid, log, check_all):
    _, sets = camvid(draw([0, 1, 9], 2), label_map={77: 1, 9: 255, 6: 5, 10: 2})
    check_and_filter(sets, check_all=check_all)
    assert "the 3 masks has the label 77, which --label_map" in log.text and log.text.count(" 77,") <= 2
    log.clear()
    _, sets = camvid(draw([0, 1, 9], 12), label_map={77: 1})
    check_and_filter(sets, check_all=check_all)
    assert ("the 13 masks has the label 77" in log.text) == check_all


def test_masks_that_look_right_are_not_read_a_second_time(camvid, monkeypatch):
    _, sets = camvid(draw(range(11), 20))
    read, real = [], CamVid.read_stored_label
    monkeypatch.setattr(CamVid, "read_stored_label", lambda self, i: read.append(i) or real(self, i))
    check_and_filter(sets)
    assert max(read) == 7


def test_labels_from_1_are_a_warning(camvid, log):
    _, sets = camvid(draw(range(1, 5), 2), draw(range(11)))
    check_and_filter(sets)
    assert "label 0 (Sky) is in none of the 2 training masks, which have 1 to 4" in log.text
    assert "Training masks have no pixel of Sky, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist" in log.text


def test_a_label_0_that_is_ignored_is_no_sign_of_another_numbering(camvid, log):
    _, sets = camvid(draw(range(5), 2), draw(range(11)), label_map={0: 255})
    check_and_filter(sets)
    assert "label 0 (Sky) is in none" not in log.text


@pytest.mark.parametrize(("flags", "expected"), [
    ({"label_map": {0: 10, 20: 1, 255: 3}}, {0: 10, 20: 1, 255: 3, 1: 1}),
    ({"label_map": {0: 1, 1: 0, 20: 255}}, {0: 1, 1: 0, 20: 255, 255: 255}),
])
def test_label_map_is_applied_at_once(camvid, flags, expected):
    mask = draw([0, 1, 20, 255])[0]
    _, sets = camvid([mask], **flags)
    assert (sets["train"].read_label(0).numpy() == np.vectorize(expected.get)(mask)).all()
    plain = camvid([mask])[1]["train"]
    assert plain.digest() != sets["train"].digest()


@pytest.mark.parametrize("flags", [[], ["--check_data"], ["--skip_bad_images"], ["--test_only"]])
def test_a_run_ends_before_it_begins(camvid, tmp_path, capsys, flags):
    painted = draw([0, 255], 3)
    root, _ = camvid(painted, painted)
    ckpt = []
    if flags == ["--test_only"]:
        import torch

        from network import modeling
        torch.save(modeling.deeplabv3_mobilenet(num_classes=11, pretrained_backbone=False).state_dict(),
                   tmp_path / "a.pth")
        ckpt = ["--ckpt", str(tmp_path / "a.pth"), "--model", "deeplabv3_mobilenet"]
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", "camvid", "--data_root", str(root), "--output_dir", str(tmp_path / "runs"), "--batch_size",
              "2", "--num_workers", "0", "--no-pretrained_backbone", *flags, *ckpt])
    assert stop.value.code == 2 and "have a single class" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_colours_of_camvid_are_read(camvid):
    root, _ = camvid(draw(range(11)))
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[0], colours[1], colours[2] = (0, 0, 192), (192, 0, 64), (64, 192, 0)  # sidewalk, lane marking, wall
    (root / "trainannot" / "000.png").write_bytes(encoded(colours))
    train, _ = build_datasets("camvid", data_root=root)
    label = train.read_label(0)
    assert label[:4, 0].tolist() == [train.class_names.index(name) for name in ("Pavement", "Road", "Building")] + [255]


def test_kaggles_camvid_is_read(camvid, log):
    root, sets = camvid(draw(range(11), 2))
    for split in ("train", "val"):
        (root / f"{split}annot").rename(root / f"{split}_labels")
        for path in (root / f"{split}_labels").iterdir():
            path.rename(path.with_name(f"{path.stem}_L.png"))
    train, _ = build_datasets("camvid", data_root=root)
    check_and_filter({"train": train})
    assert len(train) == 2 and f"CamVid: train masks found in {root / 'train_labels'}" in log.text


def test_images_of_any_format_are_used_and_other_files_counted(camvid, log):
    root, _ = camvid(draw(range(11), 3))
    for name, kind in (("003.TIF", "TIFF"), ("004.bmp", "BMP"), ("005.webp", "WEBP"), ("006.Jpeg", "JPEG")):
        (root / "train" / name).write_bytes(encoded(np.zeros((*SIZE, 3), np.uint8), kind))
        (root / "trainannot" / f"{name[:3]}.png").write_bytes(encoded(draw(range(11))[0].astype(np.uint8)))
    (root / "train" / "Thumbs.db").write_bytes(b"")
    (root / "trainannot" / "099.png").write_bytes(encoded(np.zeros(SIZE, np.uint8)))
    train, _ = build_datasets("camvid", data_root=root)
    assert len(train) == 7 and [train.name(i) for i in (3, 6)] == ["003", "006"]
    check_and_filter({"train": train})
    assert f"Not used in {root / 'train'}, as they are not images: 1 .db" in log.text
    assert f"1 mask in {root / 'trainannot'} without an image, the first is 099.png" in log.text


def test_missing_masks_are_counted(camvid):
    root, _ = camvid(draw(range(11), 12))
    for i in (9, 11):
        (root / "trainannot" / f"{i:03}.png").unlink()
    train, _ = build_datasets("camvid", data_root=root)
    with pytest.raises(UserError, match="trainannot/009.png; 2 of 12 masks are missing"):
        check_and_filter({"train": train})
    assert len(check_and_filter({"train": train}, skip_bad=True)["train"]) == 10


def test_two_images_of_one_name_are_an_error(camvid):
    root, _ = camvid(draw(range(11), 2))
    (root / "train" / "001.bmp").write_bytes(encoded(np.zeros((*SIZE, 3), np.uint8), "BMP"))
    train, _ = build_datasets("camvid", data_root=root)
    with pytest.raises(UserError, match="2 images in .* have the name 001"):
        check_and_filter({"train": train})


def test_images_of_both_splits_are_counted(camvid, log):
    root, sets = camvid(draw(range(11), 3), draw(range(11), 4))
    check_and_filter(sets)
    assert "also training images" not in log.text
    (root / "val" / "002.png").write_bytes((root / "train" / "000.png").read_bytes())
    check_and_filter(sets)
    assert f"1 of 4 validation images are also training images, the first is {root / 'val' / '002.png'}" in log.text


def test_files_of_one_size_are_not_read_to_the_end(camvid, monkeypatch):
    root, sets = camvid(draw(range(11), 3), draw(range(11), 3))
    for split in ("train", "val"):
        for i in range(3):
            (root / split / f"{i:03}.png").write_bytes(f"start of {split} {i:03}".encode().ljust(19) + bytes(1 << 17))
    for name in ("train/002.png", "val/001.png"):
        (root / name).write_bytes(b"same start".ljust(19) + bytes(1 << 17))
    (root / "val/002.png").write_bytes(b"same start".ljust(19) + bytes((1 << 17) - 1) + b"x")
    lengths, read_bytes = [], check.read_bytes
    monkeypatch.setattr(check, "read_bytes", lambda path, **limit: lengths.append(limit) or read_bytes(path, **limit))
    assert check.find_shared(sets["train"], sets["val"]) == [root / "val" / "001.png"]
    assert lengths.count({}) == 3 and len(lengths) == 9


@pytest.mark.parametrize(("labels", "label_map", "said"), [
    ([0, 255], {}, "give --label_map 255:1"), ([3, 255], {}, "give --label_map 255:0"),
    ([3], {}, "add masks that have"),
    ([0, 255], {0: 255, 255: 1}, "add masks that have"), ([0, 1], {0: 255}, "add masks that have")])
def test_255_is_offered_as_a_class_only_where_masks_have_it(camvid, labels, label_map, said):
    _, sets = camvid(draw(labels, 2), label_map=label_map)
    with pytest.raises(UserError, match=f"single class.*: .*{said}"):
        check_and_filter({"train": sets["train"]})
