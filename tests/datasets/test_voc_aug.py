"""python -m datasets.voc_aug: masks and list from trees as SBD and VOC ship them, against what was put in."""
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datasets import build_datasets, check_dataset
from datasets.voc import compute_colours
from datasets.voc_aug import main
from utils import optional

TRAIN, VAL, SBD = ["2007_1", "2007_2"], ["2007_3"], ["2007_1", "2007_3", "2008_1", "2008_2"]


def draw(seed):
    return np.random.default_rng(seed).integers(0, 21, (70, 80)).astype(np.uint8)


@pytest.fixture
def trees(tmp_path):
    """SBD and VOC; 2007_1 is in both, with other masks, and 2007_3 validates."""
    voc, sbd = tmp_path / "data" / "VOCdevkit" / "VOC2012", tmp_path / "benchmark_RELEASE"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    (sbd / "dataset" / "cls").mkdir(parents=True)
    for name in {*TRAIN, *VAL, *SBD}:
        Image.fromarray(np.zeros((70, 80, 3), np.uint8)).save(voc / "JPEGImages" / f"{name}.jpg")
    for number, name in enumerate(TRAIN + VAL):
        label = draw(number)
        label[:3] = 255
        image = Image.fromarray(label, mode="P")
        image.putpalette(compute_colours().astype(np.uint8).tobytes())
        image.save(voc / "SegmentationClass" / f"{name}.png")
    for split, names in (("train", TRAIN), ("val", VAL)):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for number, name in enumerate(SBD):
        savemat(sbd / "dataset" / "cls" / f"{name}.mat",
                {"GTcls": {"Segmentation": draw(100 + number), "CategoriesPresent": np.array([1])}})
    return tmp_path, voc, sbd


def run(trees, *flags):
    main(["--sbd", str(trees[2]), "--data_root", str(trees[0] / "data"), *flags])


def test_masks_and_list(trees, capsys):
    run(trees)
    _, voc, _ = trees
    names = (voc / "ImageSets" / "Segmentation" / "train_aug.txt").read_text().split()
    assert names == ["2007_1", "2007_2", "2008_1", "2008_2"]
    assert "4 training images of 2012_aug; the whole data has 10582" in capsys.readouterr().out
    masks = {name: np.array(Image.open(voc / "SegmentationClassAug" / f"{name}.png")) for name in names}
    assert (masks["2008_1"] == draw(102)).all() and (masks["2008_2"] == draw(103)).all()
    own = np.array(Image.open(voc / "SegmentationClass" / "2007_1.png"))
    assert (masks["2007_1"] == own).all() and (own[:3] == 255).all(), "VOC's own mask"
    train, val = build_datasets("voc", data_root=trees[0] / "data", year="2012_aug")
    assert [train.name(i) for i in range(len(train))] == names and len(val) == 1
    check_dataset(train)


def test_repeated_it_changes_nothing_and_goes_on_where_it_was_stopped(trees):
    run(trees)
    _, voc, _ = trees
    masks = sorted((voc / "SegmentationClassAug").iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in masks}
    masks[-1].unlink()
    run(trees)
    after = {path.name: path.stat().st_mtime_ns for path in masks}
    assert {name for name in before if before[name] != after[name]} == {masks[-1].name}


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_masks_of_the_same_labels_stay(trees, mode):
    _, voc, _ = trees
    (voc / "SegmentationClassAug").mkdir()
    path = voc / "SegmentationClassAug" / "2008_1.png"
    image = Image.fromarray(draw(102))
    if mode == "P":
        image = image.convert("P")  # a palette of greys
        image.putdata(draw(102).ravel())
    image.save(path)
    before = path.read_bytes()
    run(trees)
    assert path.read_bytes() == before


def test_a_mask_that_differs_is_replaced_by_force_alone(trees, capsys):
    _, voc, _ = trees
    (voc / "SegmentationClassAug").mkdir()
    path = voc / "SegmentationClassAug" / "2008_1.png"
    Image.fromarray(draw(7)).save(path)
    with pytest.raises(SystemExit) as stop:
        run(trees)
    assert stop.value.code == 2 and "2008_1.png has other labels" in capsys.readouterr().err
    assert (np.array(Image.open(path)) == draw(7)).all()
    run(trees, "--force")
    assert (np.array(Image.open(path)) == draw(102)).all()


def test_a_list_of_the_same_images_stays_and_another_is_refused_before_masks_are_written(trees, capsys):
    _, voc, _ = trees
    path = voc / "ImageSets" / "Segmentation" / "train_aug.txt"
    path.write_text("2007_1\n")
    assert "lists other images" in refused(trees, capsys)
    assert path.read_text() == "2007_1\n" and not (voc / "SegmentationClassAug").exists()
    path.write_text("2008_2\n2007_1\n2008_1\n2007_2\n")
    run(trees)
    assert path.read_text().startswith("2008_2"), "its order decides the batches"
    run(trees, "--force")
    assert path.read_text().startswith("2007_1")


def refused(trees, capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        run(trees, *flags)
    error, = capsys.readouterr().err.splitlines()[-1:]
    assert stop.value.code == 2 and error.startswith("error: ")
    return error


@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_whole_numbers_of_any_type_are_read(trees, kind):
    _, voc, sbd = trees
    label = draw(5)
    label[:2] = 255
    savemat(sbd / "dataset" / "cls" / "2008_1.mat", {"GTcls": {"Segmentation": label.astype(kind)}})
    run(trees)
    assert (np.array(Image.open(voc / "SegmentationClassAug" / "2008_1.png")) == label).all()


def test_what_is_wrong_is_named(trees, capsys):
    _, voc, sbd = trees
    path = sbd / "dataset" / "cls" / "2008_1.mat"
    good = path.read_bytes()
    wrong = [({"GTinst": 1, "other": 2}, "no GTcls with a Segmentation: it holds GTinst, other. Give --sbd the "
                                         "release's folder with cls, not inst"),
             ({"GTcls": {"Boundaries": 1}}, "it holds GTcls.")]
    wrong += [({"GTcls": {"Segmentation": np.full((70, 80), value, kind)}}, says) for value, kind, says in (
        (30, "uint8", "label 30:"), (256, "int16", "label 256:"), (-1, "int16", "label -1:"),
        (300, "int32", "label 300:"), (300.0, "float64", "label 300:"), (-1.0, "float32", "label -1:"),
        (2.5, "float64", "float64 [70, 80], not whole numbers"), (np.nan, "float32", "not whole numbers"))]
    wrong += [({"GTcls": {"Segmentation": np.zeros((2, 3, 4), np.uint8)}}, "uint8 [2, 3, 4], not whole numbers [H, W]"),
              ({"GTcls": {"Segmentation": np.zeros((80, 70), np.uint8)}}, "has 70x80 pixels")]
    for content, says in wrong:
        savemat(path, content)
        error = refused(trees, capsys)
        assert "2008_1.mat" in error and says in error
        assert not (voc / "SegmentationClassAug" / "2008_1.png").exists(), "it would train on a wrong mask"
    path.write_bytes(good[:60])
    assert "2008_1.mat" in refused(trees, capsys)
    (sbd / "dataset" / "cls").rename(sbd / "dataset" / "other")
    assert (f"looked for dataset/cls/*.mat, cls/*.mat, benchmark_RELEASE/dataset/cls/*.mat in --sbd {sbd}, but "
            f"{sbd}/dataset holds other. Give --sbd") in refused(trees, capsys)
    sbd.rename(sbd.with_name("moved"))
    assert f"but {sbd} does not exist. Give --sbd" in refused(trees, capsys)
    sbd.with_name("moved").rename(sbd)
    (sbd / "dataset" / "other").rename(sbd / "dataset" / "cls")
    (voc / "JPEGImages").rename(voc / "images")
    assert (f"the folder {voc}/JPEGImages does not exist; {voc} holds ImageSets, "
            "SegmentationClass, SegmentationClassAug, images. Unpack VOC again") in refused(trees, capsys)
    assert not (voc / "ImageSets" / "Segmentation" / "train_aug.txt").exists()


def test_without_scipy_the_command_that_installs_it_is_named(trees, capsys, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="scipy")

    monkeypatch.setattr(optional, "import_module", import_module)
    assert refused(trees, capsys) == "error: scipy is not installed: run `make extras`"
