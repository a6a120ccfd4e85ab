"""Stanford Background in its authors' layout and in that of SAM_AT, against an independent reading."""
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets, check_dataset
from main import main
from utils.errors import UserError

# As SAM_AT reads labels_colored.
COLOURS = {0: (68, 1, 84), 1: (72, 40, 140), 2: (62, 74, 137), 3: (38, 130, 142), 4: (31, 158, 137), 5: (53, 183, 121),
           6: (109, 205, 89), 7: (180, 222, 44), -1: (49, 104, 142)}


def make_tree(root, *, coloured=False, images=10, size=(70, 80)):
    draw = np.random.default_rng(1)
    (root / "images").mkdir(parents=True)
    (root / ("labels_colored" if coloured else "labels")).mkdir()
    for number in range(images):
        name = f"{number:07d}"
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            root / "images" / f"{name}.jpg", quality=100)
        labels = draw.integers(-1, 8, size)
        if coloured:
            table = np.array([COLOURS[label] for label in (*range(8), -1)], dtype=np.uint8)
            Image.fromarray(table[labels]).save(root / "labels_colored" / f"{name}.png")
        else:
            np.savetxt(root / "labels" / f"{name}.regions.txt", labels, fmt="%d")
            (root / "labels" / f"{name}.surfaces.txt").write_text("0 0\n")
        np.save(root / f"{name}.npy", labels)
    return root


@pytest.mark.parametrize("coloured", [False, True])
def test_pixel_by_pixel(tmp_path, coloured):
    root = make_tree(tmp_path, coloured=coloured)
    train, val = build_datasets("iccv09", data_root=root)
    assert (len(train), len(val)) == (7, 3)
    check_dataset(val)
    for i in range(3):
        image, label = val[i]
        stored = np.load(root / f"{val.name(i)}.npy")
        assert np.array_equal(label.numpy(), np.where(stored < 0, 255, stored))
        pixels = np.array(Image.open(root / "images" / f"{val.name(i)}.jpg"))
        assert np.array_equal((image.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8), pixels)


def test_the_split_is_fixed_and_of_sorted_names(tmp_path):
    one, other = (build_datasets("iccv09", data_root=make_tree(tmp_path / kind, coloured=kind == "b")) for kind in "ab")
    names = [[{dataset.name(i) for i in range(len(dataset))} for dataset in pair] for pair in (one, other)]
    assert names[0] == names[1], "whatever the labels"
    assert names[0][0] == {f"{number:07d}" for number in (0, 1, 3, 4, 5, 7, 9)}, "runs of before would mix both halves"
    assert names[0][0] | names[0][1] == {f"{number:07d}" for number in range(10)} and not names[0][0] & names[0][1]


@pytest.mark.parametrize(("line", "says"), [("1 2 3", "line 3 has 3 numbers, line 1 has 80"),
                                            ("1 x", "line 3 holds other things than whole numbers")])
def test_a_damaged_line_is_named(tmp_path, line, says):
    root = make_tree(tmp_path)
    _, val = build_datasets("iccv09", data_root=root)
    path = root / "labels" / f"{val.name(0)}.regions.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(UserError, match=says) as error:
        val[0]
    assert path.name in str(error.value)


def test_a_label_beyond_the_classes_names_its_file(tmp_path):
    root = make_tree(tmp_path)
    _, val = build_datasets("iccv09", data_root=root)
    path = root / "labels" / f"{val.name(0)}.regions.txt"
    path.write_text(path.read_text().replace("7", "8", 1))
    with pytest.raises(UserError, match=f"{path.name}.*8.*0 to 7"):
        val[0]


def test_without_labels_the_folder_is_named(tmp_path):
    root = make_tree(tmp_path)
    (root / "labels").rename(root / "other")
    with pytest.raises(UserError, match=r"labels does not exist; .* holds 0000000.npy, .* and 7 more\. "
                       r"Set --data_root.*docs/data.md#iccv09"):
        build_datasets("iccv09", data_root=root)


@pytest.mark.parametrize("coloured", [False, True])
def test_a_folder_one_level_too_high_and_another_data_set_are_recognised(tmp_path, coloured):
    root = make_tree(tmp_path / "iccv09Data", coloured=coloured)
    with pytest.raises(UserError, match=f"give --data_root {root}$"):
        build_datasets("iccv09", data_root=tmp_path)
    with pytest.raises(UserError, match=f"looks like that of iccv09: give --dataset iccv09 --data_root {root}$"):
        build_datasets("camvid", data_root=root)


@pytest.mark.slow
def test_a_short_run_has_the_data_sets_own_normalisation(tmp_path):
    root = make_tree(tmp_path / "data")
    content = main(["--dataset", "iccv09", "--data_root", str(root), "--output_dir", str(tmp_path), "--exp_name", "run",
                    "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "4", "--total_itrs", "2",
                    "--num_workers", "0", "--attack", "fgsm", "--eps", "1/255"])
    assert [row["attack"] for row in content["results"]] == ["none", "fgsm"]

    checkpoint = torch.load(next((tmp_path / "run").glob("best_*.pth")), weights_only=True)
    assert checkpoint["normalization"] == {"mean": [0.4813, 0.4901, 0.4747], "std": [0.2495, 0.2492, 0.2748]}
    again = main(["--test_only", "--output_dir", str(tmp_path), "--exp_name", "run", "--num_workers", "0"])
    assert again["results"][0] == content["results"][0]
