"""The scripts of docs/convert/ on small exports, drawn by hand."""
import importlib.util
import json
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


def convert(name, *paths):
    """Run a script's main on the paths, the last of which is its result; return the data set's only image."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "convert" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*paths)
    train, _ = build_datasets("folder", data_root=paths[-1], val_names=[])
    assert [train.name(i) for i in range(len(train))] == ["a"] and train.read_pair(0)[0].shape == (3, *SIZE)
    return train


def test_labelme(source, tmp_path):
    shapes = [("tree", "polygon", [[2, 1], [5, 1], [5, 3], [2, 3]]), ("__ignore__", "rectangle", [[7, 5], [6, 4]]),
              ("bird", "circle", [[0, 5], [1, 5]])]
    (source / "a.json").write_text(json.dumps({
        "imagePath": "JPEGImages\\a.jpg", "imageData": None, "imageWidth": SIZE[1], "imageHeight": SIZE[0],
        "shapes": [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]}))
    train = convert("labelme", source, tmp_path / "data")
    expected = np.where(SQUARE, 2, 0)
    expected[4:, 6:] = 255
    expected[4:, 0], expected[5, 1] = 1, 1  # within a radius of 1
    assert train.class_names == ["_background_", "bird", "tree"]
    assert (train.read_label(0).numpy() == expected).all()


def test_cvat(source, tmp_path):
    (source / "SegmentationClass").mkdir()
    Image.fromarray(np.where(SQUARE[..., None], (250, 50, 83), (0, 0, 0)).astype(np.uint8)).save(
        source / "SegmentationClass" / "a.png")
    (source / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nacorn:51,221,255::\ncar:250,50,83::\n"
                                         "background:0,0,0::\n")
    train = convert("cvat", source, tmp_path / "data")
    assert train.class_names == ["background", "acorn", "car"]
    assert (train.read_label(0).numpy() == np.where(SQUARE, 2, 0)).all()


def test_coco(source, tmp_path):
    pytest.importorskip("pycocotools", reason="make extras installs it")
    square = {"id": 1, "image_id": 7, "category_id": 30, "area": 12, "iscrowd": 0, "bbox": [2, 1, 4, 3],
              "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    crowd = {"id": 2, "image_id": 7, "category_id": 4, "area": 6, "iscrowd": 1, "bbox": [0, 0, 1, 6],
             "segmentation": {"size": list(SIZE), "counts": [0, 6, 42]}}  # the first column
    (tmp_path / "coco.json").write_text(json.dumps({
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [crowd, square], "categories": [{"id": 30, "name": "boat"}, {"id": 4, "name": "crowd"}]}))
    train = convert("coco", tmp_path / "coco.json", source / "JPEGImages", tmp_path / "data")
    expected = np.where(SQUARE, 2, 0)
    expected[:, 0] = 255
    assert train.class_names == ["background", "crowd", "boat"]
    assert (train.read_label(0).numpy() == expected).all()
