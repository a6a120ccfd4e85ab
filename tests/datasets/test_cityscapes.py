"""Cityscapes in its authors' layout, against an independent reading with Pillow and NumPy."""
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets, check_dataset, describe
from main import main
from network import build_model
from utils.errors import UserError

# cityscapesScripts: train id -> id.
IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
CITIES = {"train": ("aachen", "bochum"), "val": ("frankfurt",)}


def make_tree(root, *, kind="labelIds", size=(70, 90), each=2):
    draw = np.random.default_rng(0)
    for split, cities in CITIES.items():
        for city in cities:
            for number in range(each):
                name = f"{city}_{number:06d}_000019"
                for part in ("leftImg8bit", "gtFine"):
                    (root / part / split / city).mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
                    root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
                labels = draw.integers(0, 34, size) if kind == "labelIds" else draw.choice([*range(19), 255], size)
                Image.fromarray(labels.astype(np.uint8)).save(
                    root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png")
    return root


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "cityscapes")


def read(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_pixel_by_pixel(tmp_path, kind):
    root = make_tree(tmp_path, kind=kind)
    train, val = build_datasets("cityscapes", data_root=root, crop_size=65)
    assert (len(train), len(val)) == (4, 2)
    check_dataset(val)
    for number in range(2):
        name = f"frankfurt_{number:06d}_000019"
        image, label = val[number]
        assert val.name(number) == f"{name}_leftImg8bit"
        pixels = read(root / "leftImg8bit" / "val" / "frankfurt" / f"{name}_leftImg8bit.png")
        assert np.array_equal((image.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8), pixels)
        stored = read(root / "gtFine" / "val" / "frankfurt" / f"{name}_gtFine_{kind}.png")
        expected = stored if kind == "labelTrainIds" else np.array(
            [IDS.index(value) if value in IDS else 255 for value in range(256)])[stored]
        assert np.array_equal(label.numpy(), expected)
    image, label = train[0]
    assert image.shape == (3, 65, 65) and {*label.unique().tolist()} <= {*range(19), 255}


def test_classes_and_colours_are_the_published_ones():
    classes = describe("cityscapes")
    assert (len(classes.names), classes.names[0], classes.names[13], classes.names[18]) == (
        19, "road", "car", "bicycle")
    assert classes.palette[[0, 1, 10, 13, 18]].tolist() == [
        [128, 64, 128], [244, 35, 232], [70, 130, 180], [0, 0, 142], [119, 11, 32]]


def test_training_changes_colours_and_not_labels(tree):
    """Of an image of one colour and one class, crops differ in colour alone."""
    for path in (tree / "leftImg8bit" / "train").rglob("*.png"):
        Image.new("RGB", (90, 70), (90, 120, 60)).save(path)
    for path in (tree / "gtFine" / "train").rglob("*.png"):
        Image.new("L", (90, 70), 26).save(path)
    train, _ = build_datasets("cityscapes", data_root=tree, crop_size=65)
    torch.manual_seed(0)
    colours = set()
    for _ in range(5):
        image, label = train[0]
        assert {*label.unique().tolist()} <= {13, 255}
        colours.add(tuple(image[:, label == 13][:, 0].mul(255).round().int().tolist()))
    assert len(colours) == 5


def test_a_label_that_is_no_id_names_its_file(tree):
    path = min((tree / "gtFine" / "val").rglob("*.png"))
    labels = read(path)
    labels[3, 4] = 40
    Image.fromarray(labels).save(path)
    _, val = build_datasets("cityscapes", data_root=tree)
    with pytest.raises(UserError, match=f"{path.name}.*40.*0 to 18"):
        val[0]


def test_a_label_map_gives_ids_their_classes(tree):
    """To class 0, road, and not to id 0, which is ignored."""
    plain, mapped = (build_datasets("cityscapes", data_root=tree, label_map=label_map)[1][0][1]
                     for label_map in (None, {4: 0, 26: 255}))
    stored = read(min((tree / "gtFine" / "val").rglob("*.png")))
    assert (mapped.numpy()[stored == 4] == 0).all() and (plain.numpy()[stored == 4] == 255).all()
    assert (mapped.numpy()[stored == 26] == 255).all() and (plain.numpy()[stored == 26] == 13).all()
    others = ~np.isin(stored, (4, 26))
    assert np.array_equal(mapped.numpy()[others], plain.numpy()[others])


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine"])
def test_a_missing_part_is_named(tree, missing):
    """What was looked for, what was found, what to do."""
    (tree / missing).rename(tree / "elsewhere")
    with pytest.raises(UserError, match="docs/data.md#cityscapes") as error:
        build_datasets("cityscapes", data_root=tree)
    there = ", ".join(sorted(({"leftImg8bit", "gtFine"} - {missing}) | {"elsewhere"}))
    assert (f"the folder {tree / missing}/train does not exist; {tree} holds {there}. Unpack "
            f"{missing}_trainvaltest.zip into {tree} (docs") in str(error.value)


@pytest.mark.parametrize(("names", "says"), [
    ((), "{root} holds nothing"), (("x",), "{root} holds x"),
    (tuple("gfedcba"), "{root} holds a, b, c, d, e and 2 more"),
    (None, "{root} does not exist")])
def test_what_another_folder_holds_is_named(tmp_path, names, says):
    root = tmp_path / "given"
    for name in names or ():
        (root / name).mkdir(parents=True)
    if names == ():
        (root / ".hidden").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        build_datasets("cityscapes", data_root=root)
    assert (f"the folder {root}/leftImg8bit/train does not exist; {says.format(root=root)}. Set --data_root to the "
            "folder that holds leftImg8bit and gtFine") in str(error.value)


def test_a_missing_split_is_named_with_those_that_are_there(tree):
    (tree / "gtFine" / "val").rename(tree / "gtFine" / "test")
    with pytest.raises(UserError, match=f"{tree}/gtFine/val does not exist; {tree}/gtFine holds test, train. Unpack"):
        build_datasets("cityscapes", data_root=tree)


def test_a_missing_mask_is_named(tree):
    path = min((tree / "gtFine" / "val").rglob("*.png"))
    path.unlink()
    _, val = build_datasets("cityscapes", data_root=tree)
    with pytest.raises(UserError, match=path.name):
        check_dataset(val)


def test_no_images_says_what_was_looked_for(tree):
    for path in (tree / "leftImg8bit" / "val").rglob("*.png"):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(UserError, match=r"looked for CITY/\*_leftImg8bit.png, found frankfurt\. "):
        build_datasets("cityscapes", data_root=tree)


def test_another_data_set_is_recognised(tree):
    with pytest.raises(UserError, match="give --dataset cityscapes"):
        build_datasets("camvid", data_root=tree)


SHAPES = Path(__file__).parents[1] / "network" / "data" / "state_dict_shapes.json.gz"


def test_a_checkpoint_with_vainfs_keys_is_tested(tree, tmp_path):
    """The keys and shapes are the reference's, with 19 classes; the values are drawn."""
    shapes = json.loads(gzip.decompress(SHAPES.read_bytes()))["deeplabv3plus_mobilenet"]
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        if key.startswith("classifier.classifier.3"):
            shape = [19, *shape[1:]]
        state[key] = torch.zeros(shape, dtype=torch.int64) if key.endswith("num_batches_tracked") else \
            0.5 + torch.rand(shape, generator=generator) if key.endswith("var") else \
            0.05 * torch.randn(shape, generator=generator)
    torch.save({"cur_itrs": 30000, "model_state": state, "optimizer_state": {}, "scheduler_state": {},
                "best_score": 0.72}, tmp_path / "best_deeplabv3plus_mobilenet_cityscapes_os16.pth")
    row, = main(["--test_only", "--dataset", "cityscapes", "--data_root", str(tree), "--model",
                 "deeplabv3plus_mobilenet", "--num_workers", "0", "--output_dir", str(tmp_path), "--ckpt",
                 str(tmp_path / "best_deeplabv3plus_mobilenet_cityscapes_os16.pth")])["results"]
    network = build_model("deeplabv3plus_mobilenet", num_classes=19, output_stride=16, pretrained_backbone=False)
    network.model.load_state_dict(state)
    _, val = build_datasets("cityscapes", data_root=tree)
    matrix = np.zeros((19, 19))
    with torch.no_grad():
        for image, label in val:
            predicted = network.eval()(image[None]).argmax(1)[0].numpy()
            valid = label.numpy() != 255
            np.add.at(matrix, (label.numpy()[valid], predicted[valid]), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    assert row["Mean IoU"] == pytest.approx(np.mean(np.diag(matrix)[union > 0] / union[union > 0]), abs=1e-4)
