"""--check_data and --skip_bad_images: everything is read, every problem listed, every pixel counted."""
import json

import numpy as np
import pytest

from datasets import bad_images, build_datasets, check_and_filter
from datasets.survey import format_table, inspect_pair, survey
from main import main
from tests import ranks
from tests.datasets.pictures import encoded, paletted
from tests.ranked.data import filter_on_all_ranks
from utils.errors import UserError

SIZES = {"train": 12, "val": 4}
RNG = np.random.default_rng(1)
LABELS = {(split, k): RNG.integers(0, 5 + k, (70, 66)).astype(np.uint8)  # from 11 on it is ignored
          for split, size in SIZES.items() for k in range(size)}
# File: what is there instead of the right one, and what is said of it
BAD = {
    "train/009.png": (encoded(RNG.integers(0, 256, (70, 66, 3)).astype(np.uint8))[:3000], "truncated"),
    "trainannot/010.png": (encoded(np.full((70, 66, 3), (1, 2, 3), np.uint8)), "no class's, such as 1 2 3"),
    "train/011.png": (b"", "not an image"),
    "trainannot/011.png": (encoded(np.full((70, 66), 3.5, np.float32), "TIFF"), "mode F"),
    "valannot/002.png": (encoded(LABELS["val", 2][1:]), "is 66x69"),
}
SKIPPED = {"train": ["009", "010", "011"], "val": ["002"]}


@pytest.fixture
def good_root(tmp_path):
    """A CamVid of random labels."""
    root = tmp_path / "data"
    for (split, k), labels in LABELS.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"{split}annot").mkdir(exist_ok=True)
        (root / split / f"{k:03}.png").write_bytes(encoded(RNG.integers(0, 256, (70, 66, 3)).astype(np.uint8)))
        (root / f"{split}annot" / f"{k:03}.png").write_bytes(encoded(paletted(labels)))
    return root


@pytest.fixture
def bad_root(good_root):
    """The same with bad files past the first eight."""
    for name, (content, _) in BAD.items():
        (good_root / name).write_bytes(content)
    return good_root


def sets_in(root):
    train, val = build_datasets("camvid", data_root=root)
    return {"train": train, "val": val}


def expected_rows(split, *, left_out=()):
    """Class: pixels and images with such, by NumPy; the last is what is ignored."""
    counts = np.array([np.bincount(np.where(labels > 10, 11, labels).ravel(), minlength=12)
                       for (of, k), labels in LABELS.items() if of == split and f"{k:03}" not in left_out])
    return list(zip(counts.sum(0).tolist(), (counts > 0).sum(0).tolist(), strict=True))


def rows_in(text, title):
    """The numbers of the logged table of that title: pixels and images of every class."""
    lines = text[text.index(f"\n{title} "):].splitlines()[2:14]
    return [(int(pixels.replace(",", "")), int(images)) for *_, pixels, _, images in map(str.split, lines)]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 3])
def test_pixels_of_every_class_are_counted(good_root, num_workers):
    for split, dataset in sets_in(good_root).items():
        found = survey(dataset, title="", num_workers=num_workers)
        assert list(zip(found.pixels, found.images, strict=True)) == expected_rows(split)
        assert found.problems == {}


@pytest.mark.slow
def test_shares_are_of_all_pixels_and_absent_classes_are_named(good_root):
    _, val = build_datasets("camvid", data_root=good_root)
    header, *rows, absent = format_table(survey(val, title=""), val.class_names, title="Validation images")
    shares = [float(row.split()[-2].rstrip("%")) for row in rows]
    assert shares == pytest.approx([100 * pixels / (4 * 70 * 66) for pixels, _ in expected_rows("val")], abs=6e-4)
    assert header.split() == ["Validation", "images", "pixels", "share", "images"] and len(rows) == 12
    assert absent == "Validation images have no pixels of Car, Pedestrian, Bicyclist"  # labels are 0 to 7


def test_every_problem_of_both_splits_is_listed_before_the_end(bad_root, log):
    with pytest.raises(UserError) as error:
        check_and_filter(sets_in(bad_root), check_all=True, num_workers=2)
    message = str(error.value)
    assert "5 problems" in message and str(bad_root / "train" / "009.png") in message and "\n" not in message
    assert "--skip_bad_images" in message
    lines = list(dict.fromkeys(log.messages))  # pytest may see each twice
    listed = [line for line in lines if line.startswith("bad: ")]
    for name, (_, words) in BAD.items():
        (line,) = [line for line in listed if words in line]
        assert str(bad_root / name) in line
    assert len(listed) == 5
    assert rows_in("\n".join(lines), "Training images") == expected_rows("train", left_out=SKIPPED["train"])


def test_without_flags_the_first_eight_are_read(bad_root):
    sets = sets_in(bad_root)
    assert check_and_filter({"train": sets["train"]})["train"] is sets["train"]
    with pytest.raises(UserError, match="valannot/002.png"):
        check_and_filter(sets)


def test_skipped_images_are_left_out_and_counted(bad_root, log):
    sets = sets_in(bad_root)
    rest = check_and_filter(sets, skip_bad=True)
    assert {split: dataset.skipped for split, dataset in rest.items()} == SKIPPED
    assert [rest["train"].name(i) for i in range(len(rest["train"]))] == [f"{k:03}" for k in range(9)]
    assert len(sets["train"]) == 12 and sets["train"].skipped == []  # the data sets given stay what they are
    assert len({sets["val"].origin, rest["val"].origin}) == 1
    assert log.messages[-1] == "Skipped 3 of 12 training and 1 of 4 validation images (--skip_bad_images)"
    assert len({line for line in log.messages if line.startswith("skipped: ")}) == 5
    check_and_filter(rest, check_all=True)  # nothing bad is left
    assert rest["val"].same_size and len(rest["val"].digest()) == 16


def test_what_a_run_skipped_before_is_not_read_again(bad_root, log, monkeypatch):
    monkeypatch.setattr(bad_images, "survey", lambda *_, **__: pytest.fail("all images were read"))
    rest = check_and_filter(sets_in(bad_root), skip_bad=True, skipped={**SKIPPED, "val": ["002", "gone"]})
    assert {split: dataset.skipped for split, dataset in rest.items()} == SKIPPED
    assert "Skipped 3 of 12 training and 1 of 4 validation images (as before; to read all" in log.text


def test_bad_images_that_came_later_are_found_with_check_data(bad_root):
    early = {"train": ["009"], "val": []}
    rest = check_and_filter(sets_in(bad_root), skip_bad=True, skipped=early, check_all=True)
    assert {split: dataset.skipped for split, dataset in rest.items()} == SKIPPED
    with pytest.raises(UserError, match="002"):  # is among the first
        check_and_filter(sets_in(bad_root), skip_bad=True, skipped=early)


def test_names_skipped_before_count_only_with_the_flag(good_root):
    assert len(check_and_filter(sets_in(good_root), skipped=SKIPPED)["val"]) == 4


def test_a_split_without_a_good_image_is_an_error(good_root):
    for path in (good_root / "valannot").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="All 4 validation images in .*val are bad"):
        check_and_filter(sets_in(good_root), skip_bad=True)


def test_nothing_is_skipped_of_a_data_set_without_files():
    _, val = build_datasets("synthetic", data_root=None)
    assert check_and_filter({"val": val}, skip_bad=True)["val"] is val.without(["val_0000"]) is val
    assert inspect_pair(val, 0)[0] == [] and val.skipped == []


@pytest.mark.slow
def test_one_process_reads_for_all(bad_root):
    first, second = ranks.run(filter_on_all_ranks, str(bad_root))
    assert (first["read"], second["read"]) == (16, 0)
    assert first["skipped"] == second["skipped"] == SKIPPED and first["left"] == second["left"] == [9, 3]
    assert (first["end"], second["end"]) == ("ZeroDivisionError", "OtherRankFailed")


def test_a_run_without_its_bad_images(bad_root, tmp_path, capsys):
    flags = ["--dataset", "camvid", "--data_root", str(bad_root), "--model", "deeplabv3_mobilenet",
             "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "2", "--num_workers", "0",
             "--total_itrs", "1", "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--check_data"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out.count("\nbad: ") + out.startswith("bad: ") == 5
    assert [line for line in err.splitlines() if line.startswith("error: ")][0].count("--skip_bad_images") == 1
    assert not (tmp_path / "exp").exists()

    results = main([*flags, "--skip_bad_images"])
    assert results["images"] == ["000", "001", "003"]
    out = capsys.readouterr().out
    assert "Dataset: camvid, Train set: 9, Val set: 3" in out
    assert rows_in(out, "Validation images") == expected_rows("val", left_out=["002"])
    line = "Skipped 3 of 12 training and 1 of 4 validation images (--skip_bad_images)"
    assert line in out and line in (tmp_path / "exp" / "log.txt").read_text()
    assert json.loads((tmp_path / "exp" / "results.json").read_text())["images"] == ["000", "001", "003"]
