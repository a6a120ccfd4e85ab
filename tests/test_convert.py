"""The scripts of docs/convert/ on small exports, drawn by hand."""
import base64
import io
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_datasets

ROOT = Path(__file__).resolve().parent.parent
SIZE = (6, 8)
SQUARE = np.zeros(SIZE, bool)
SQUARE[1:4, 2:6] = True  # rows 1 to 3, columns 2 to 5


@pytest.fixture
def source(tmp_path):
    """A folder with one photo, a.jpg."""
    folder = tmp_path / "source"
    (folder / "JPEGImages").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1], (9, 9, 9)).save(folder / "JPEGImages" / "a.jpg")
    return folder


def run(name, *paths, monkeypatch):
    """Run a script as `python docs/convert/{name}.py paths` does."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "convert")
    monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, paths)])
    runpy.run_path(str(ROOT / "docs" / "convert" / f"{name}.py"), run_name="__main__")


@pytest.fixture
def convert(monkeypatch):
    """Run a script on the paths, the last of which is its result; return the data set's images of these names."""
    def call(name, *paths, names=("a",)):
        run(name, *paths, monkeypatch=monkeypatch)
        train, _ = build_datasets("folder", data_root=paths[-1], val_names=[])
        assert [train.name(i) for i in range(len(train))] == [*names]
        assert train.read_pair(0)[0].shape == (3, *SIZE)
        return train
    return call


@pytest.fixture
def refuse(monkeypatch, capsys, tmp_path):
    """Run a script that fails; return its only line. There is neither a result nor a part of one."""
    def call(name, *paths):
        before = {*tmp_path.rglob("*")}
        with pytest.raises(SystemExit) as stop:
            run(name, *paths, monkeypatch=monkeypatch)
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and line.startswith("error: ") and {*tmp_path.rglob("*")} == before
        return line
    return call


def write_labelme(path, *shapes, image="JPEGImages\\a.jpg"):
    """Write a file of Labelme with shapes (label, type, points, other fields)."""
    path.write_text(json.dumps({
        "imagePath": image, "imageData": None, "imageWidth": SIZE[1], "imageHeight": SIZE[0],
        "shapes": [{"label": label, "shape_type": kind, "points": points, **dict(*more)}
                   for label, kind, points, *more in shapes]}))


def write_coco(path, *, files=("a.jpg",), categories=((30, "boat"), (4, "crowd")), **changes):
    """Write COCO's annotations of a square of category 30 in each image, and of a crowd of category 4 in the first."""
    square = {"category_id": 30, "area": 12, "iscrowd": 0, "bbox": [2, 1, 4, 3],
              "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    crowd = {"id": 100, "image_id": 7, "category_id": 4, "area": 6, "iscrowd": 1, "bbox": [0, 0, 1, 6],
             "segmentation": {"size": list(SIZE), "counts": [0, 6, 42]}}  # the first column
    path.write_text(json.dumps({
        "images": [{"id": 7 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
                   for i, name in enumerate(files)],
        "annotations": [crowd, *({**square, "id": 1 + i, "image_id": 7 + i} for i in range(len(files)))],
        "categories": [{"id": key, "name": name} for key, name in categories]} | changes))
    return path


@pytest.fixture
def two(source):
    """Two folders with a photo each, both named x.jpg."""
    for folder in ("i1", "i2"):
        (source / folder).mkdir()
        (source / folder / "x.jpg").write_bytes((source / "JPEGImages" / "a.jpg").read_bytes())
    return source


def test_labelme(source, tmp_path, convert):
    write_labelme(source / "a.json", ("tree", "polygon", [[2, 1], [5, 1], [5, 3], [2, 3]]),
                  ("__ignore__", "rectangle", [[7, 5], [6, 4]]), ("bird", "circle", [[0, 5], [1, 5]]))
    train = convert("labelme", source, tmp_path / "data")
    expected = np.where(SQUARE, 2, 0)
    expected[4:, 6:] = 255
    expected[4:, 0], expected[5, 1] = 1, 1  # within a radius of 1
    assert train.class_names == ["_background_", "bird", "tree"]
    assert (train.read_label(0).numpy() == expected).all()


def test_cvat(source, tmp_path, convert):
    (source / "SegmentationClass").mkdir()
    Image.fromarray(np.where(SQUARE[..., None], (250, 50, 83), (0, 0, 0)).astype(np.uint8)).save(
        source / "SegmentationClass" / "a.png")
    (source / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nacorn:51,221,255::\ncar:250,50,83::\n"
                                         "background:0,0,0::\n")
    train = convert("cvat", source, tmp_path / "data")
    assert train.class_names == ["background", "acorn", "car"]
    assert (train.read_label(0).numpy() == np.where(SQUARE, 2, 0)).all()


@pytest.fixture
def cvat(source):
    """Return a function that writes an export of CVAT with these lines of labels."""
    def write(*lines):
        (source / "SegmentationClass").mkdir()
        Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(source / "SegmentationClass" / "a.png")
        (source / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(f"{one}\n" for one in lines))
        return source
    return write


def test_cvats_names_are_kept_from_being_misread(cvat, tmp_path, convert, capsys):
    train = convert("cvat", cvat("background:0,0,0::", "road # asphalt:1,2,3::", "a:b:4,5,6::", "ignore:7,8,9::"),
                    tmp_path / "data")
    assert train.class_names == ["background", "road - asphalt", "a:b"] and (train.read_label(0) == 1).all()
    said = capsys.readouterr().out
    assert "'road # asphalt' is written as 'road - asphalt'" in said and "'ignore' is no class: its" in said


def test_cvats_folders_become_part_of_names(two, cvat, tmp_path, convert):
    cvat("background:0,0,0::", "car:1,2,3::")
    for folder in ("i1", "i2"):
        (two / folder).rename(two / "JPEGImages" / folder)
        (two / "SegmentationClass" / folder).mkdir()
        Image.new("RGB", SIZE[::-1]).save(two / "SegmentationClass" / folder / "x.png")
    convert("cvat", two, tmp_path / "data", names=["a", "i1_x", "i2_x"])


def test_cvats_export_of_another_kind_is_refused(source, tmp_path, refuse):
    assert "labelmap.txt is missing: name the folder of an unpacked" in refuse("cvat", source, tmp_path / "data")
    (source / "labelmap.txt").write_text("car\n")
    assert "has the line 'car'" in refuse("cvat", source, tmp_path / "data")
    (source / "labelmap.txt").write_text("car:1,2,3::\n")
    assert "No files in" in refuse("cvat", source, tmp_path / "data")


def test_coco(source, tmp_path, convert):
    pytest.importorskip("pycocotools", reason="make extras installs it")
    train = convert("coco", write_coco(tmp_path / "coco.json"), source / "JPEGImages", tmp_path / "data")
    expected = np.where(SQUARE, 2, 0)
    expected[:, 0] = 255
    assert train.class_names == ["background", "crowd", "boat"]
    assert (train.read_label(0).numpy() == expected).all()


def test_cocos_images_of_one_name_are_all_kept(two, tmp_path, convert):
    pytest.importorskip("pycocotools", reason="make extras installs it")
    write_coco(tmp_path / "coco.json", files=("i1/x.jpg", "i2/x.jpg"), categories=((4, "# a"), (30, "ignore")))
    train = convert("coco", tmp_path / "coco.json", two, tmp_path / "data", names=["i1_x", "i2_x"])
    assert train.class_names == ["background", "- a"]
    assert (train.read_label(1).numpy() == np.where(SQUARE, 255, 0)).all()


@pytest.mark.parametrize(("changes", "words"), [
    ({"categories": [(i, str(i)) for i in range(255)]}, "256 classes: 1 to 255 are possible"),
    ({"categories": [(4, "a"), (30, "a")]}, "2 labels are called 'a'"),
    ({"files": ["gone.jpg"]}, "gone.jpg is missing"),
    ({"files": ["a.jpg", "a.jpg"]}, "would both be called a"), ({"annotations": []}, "annotations of objects"),
    ({"categories": [(4, "a")]}, "an object of a.jpg can't be drawn")])
def test_coco_that_can_not_be_converted_is_refused(source, tmp_path, refuse, changes, words):
    pytest.importorskip("pycocotools", reason="make extras installs it")
    assert words in refuse("coco", write_coco(tmp_path / "coco.json", **changes), source / "JPEGImages",
                           tmp_path / "data")


def test_paths_that_are_wrong_are_refused(source, tmp_path, refuse):
    write_labelme(source / "a.json", ("tree", "polygon", [[2, 1], [5, 1], [5, 3]]))
    line = refuse("labelme", source)
    assert "give 2 paths, not 1: python " in line and line.endswith("labelme.py path/to/json path/to/data")
    assert f"{source} exists: name a new folder" in refuse("labelme", source, source)
    assert "No JSON files in" in refuse("labelme", source / "JPEGImages", tmp_path / "data")
    pytest.importorskip("pycocotools", reason="make extras installs it")
    assert "gone.json: No such file" in refuse("coco", tmp_path / "gone.json", source, tmp_path / "data")


def test_labelmes_images_of_one_name_are_all_kept(two, tmp_path, convert):
    for i in (1, 2):
        write_labelme(two / f"{i}.json", ("car", "rectangle", [[0, 0], [i, i]]), image=f"i{i}/x.jpg")
    train = convert("labelme", two, tmp_path / "data", names=["i1_x", "i2_x"])
    assert [int(train.read_label(i).sum()) for i in range(2)] == [4, 9]


def test_labelmes_masks_are_drawn(source, tmp_path, convert):
    file = io.BytesIO()
    Image.fromarray(np.eye(3, dtype=bool)).save(file, "PNG")
    write_labelme(source / "a.json", ("car", "mask", [[2, 1], [4, 3]],
                                      {"mask": base64.b64encode(file.getvalue()).decode()}))
    expected = np.zeros(SIZE)
    expected[[1, 2, 3], [2, 3, 4]] = 1
    assert (convert("labelme", source, tmp_path / "data").read_label(0).numpy() == expected).all()


@pytest.mark.parametrize(("shape", "words"), [
    (("car", "line", [[0, 0], [1, 1]]), "a.json has a shape of type line, which has no area: draw it as a polygon"),
    (("car", "mask", [[0, 0], [1, 1]], {"mask": "x"}), "a.json has a shape of 'car' that can't be drawn"),
    (("car", "polygon", [[0, 0]]), "a.json has a shape of 'car' that can't be drawn")])
def test_what_labelme_can_not_draw_is_refused_and_leaves_nothing(source, tmp_path, refuse, convert, shape, words):
    write_labelme(source / "a.json", shape)
    assert words in refuse("labelme", source, tmp_path / "data")
    write_labelme(source / "a.json", ("car", "rectangle", [[0, 0], [1, 1]]))
    convert("labelme", source, tmp_path / "data")


def test_files_that_are_not_labelmes_are_refused(source, tmp_path, refuse):
    (source / "a.json").write_text("[1]")
    assert "a.json is not a file of Labelme" in refuse("labelme", source, tmp_path / "data")
    write_labelme(source / "a.json", image="gone.jpg")
    assert "gone.jpg is missing: put the image there" in refuse("labelme", source, tmp_path / "data")
