"""Class weights of mce_bal come from the checkpoint, else the training labels, else the validation labels."""
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets
from engine.evaluation import plan
from engine.training import class_pixels
from main import main
from utils import checkpoint
from utils.errors import UserError

ATTACK = ["--attack", "apgd", "--attack_loss", "mce_bal", "--eps", "4/255", "--steps", "1", "--num_workers", "0",
          "--val_images", "1", "--sheet_images", "0"]


def weights_of(counts) -> list[float]:
    return (1 / np.array(counts) / (1 / np.array(counts)).sum()).tolist()


@pytest.fixture
def best(trained):
    path, = (trained / "exp").glob("best_*.pth")
    return path


def test_a_run_counts_the_training_labels_and_a_test_uses_its_counts(best, tmp_path, monkeypatch):
    train_set, _ = build_datasets("synthetic", data_root="")
    labels = [train_set.read_pair(k)[1].numpy().flatten() for k in range(len(train_set))]
    counts = sum(np.bincount(label, minlength=256)[:5] for label in labels).tolist()
    assert checkpoint.load(best)["class_pixels"] == counts
    monkeypatch.setattr(plan, "build_datasets", lambda *_, **__: pytest.fail("the training set was read"))
    rows = main(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), *ATTACK])["results"]
    assert rows[1]["settings"]["class_weights"] == pytest.approx(weights_of(counts), rel=1e-12)
    assert "class_weights_from" not in rows[1]["settings"]


def test_invalid_counts_are_refused_and_those_of_other_classes_not_used(best, tmp_path, refused):
    content = checkpoint.load(best)
    for name, change in (("words", {"class_pixels": ["many"] * 5}), ("short", {"class_pixels": [1, 2]})):
        torch.save(content | change, tmp_path / f"{name}.pth")
        line = refused(["--test_only", "--ckpt", str(tmp_path / f"{name}.pth"), "--output_dir", str(tmp_path), *ATTACK])
        assert f"{name}.pth: class_pixels is not a list of 5 counts" in line
    torch.save(content | {"class_pixels": [1] * 9, "class_names": list("abcdefghi"),
                "class_colours": [[0, 0, 0]] * 9}, tmp_path / "other.pth")
    main(["--test_only", "--ckpt", str(tmp_path / "other.pth"), "--output_dir", str(tmp_path), *ATTACK])


def test_without_training_labels_the_validation_labels_count_and_the_records_say_so(tmp_path, small, capsys):
    """A CamVid folder with a validation split alone, and a checkpoint of another program."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "val").mkdir(parents=True)
    (tmp_path / "data" / "valannot").mkdir()
    labels = rng.choice(12, (2, 72, 80), p=[0.3, 0.1, *[0.05] * 8, 0.1, 0.1]).astype(np.uint8)
    for k, label in enumerate(labels):
        Image.fromarray(rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(tmp_path / "data" / "val" / f"{k}.png")
        Image.fromarray(label).save(tmp_path / "data" / "valannot" / f"{k}.png")
    from network import build_model

    model = build_model("deeplabv3_mobilenet", num_classes=11, output_stride=16)
    torch.save({"model_state": model.model.state_dict()}, tmp_path / "theirs.pth")
    call = ["--test_only", "--ckpt", str(tmp_path / "theirs.pth"), "--dataset", "camvid", "--data_root",
            str(tmp_path / "data"), "--output_dir", str(tmp_path), "--model", "deeplabv3_mobilenet", "--attack", "sea",
            "--eps", "4/255", "--steps", "1", "--num_workers", "0", "--val_images", "1"]
    rows = {row["attack"]: row for row in main(call)["results"] if row["attack"] in ("none", "sea")}
    assert rows.keys() == {"none", "sea"}, "the members still form a union"
    assert "there are no training labels (CamVid not found" in capsys.readouterr().out
    counts = np.bincount(labels.flatten(), minlength=13)[:11]
    row = next(row for row in main(call)["results"] if row["attack_loss"] == "mce_bal")
    assert row["settings"]["class_weights"] == pytest.approx(weights_of(counts), rel=1e-12)
    assert row["settings"]["class_weights_from"] == "validation labels"


def test_a_training_label_that_cannot_be_read_does_not_end_a_training(monkeypatch, tmp_path, train, capsys):
    def count_pixels(*_, **__):
        raise UserError("a.png is damaged")

    monkeypatch.setattr(class_pixels, "count_pixels", count_pixels)
    train(tmp_path, itrs=4)
    assert capsys.readouterr().out.count("a.png is damaged") == 1
    path, = (tmp_path / "exp").glob("best_*.pth")
    assert "class_pixels" not in checkpoint.load(path)


# --class_weights


def median_frequency(dataset):
    """Eigen and Fergus: the median of the frequencies over the class's, each over the images that have the class."""
    labels = [dataset.read_label(i).numpy() for i in range(len(dataset))]
    frequencies = []
    for label in range(dataset.num_classes):
        own = sum(int((each == label).sum()) for each in labels)
        of_images = sum(int((each != 255).sum()) for each in labels if (each == label).any())
        frequencies.append(own / of_images)
    return np.median(frequencies) / np.array(frequencies)


def test_balanced_weights_are_counted_once_and_kept(tmp_path, train, monkeypatch):
    train(tmp_path, "--exp_name", "run", "--class_weights", "balanced")
    content = checkpoint.load(next((tmp_path / "run").glob("latest_*")))
    dataset, _ = build_datasets("synthetic", data_root="", seed=1)
    assert content["class_weights"] == pytest.approx(median_frequency(dataset), rel=1e-9)
    monkeypatch.setattr("engine.training.class_pixels.count_frequencies", lambda *_: pytest.fail("counted again"))
    main(["--continue_training", "--output_dir", str(tmp_path), "--exp_name", "run", "--total_itrs", "3",
          "--num_workers", "0"])
    again = checkpoint.load(next((tmp_path / "run").glob("latest_*")))
    assert again["cur_itrs"] == 3 and again["class_weights"] == content["class_weights"]


def test_weights_of_a_file(tmp_path, train, capsys):
    path = tmp_path / "weights.txt"
    path.write_text("1 0.5\n2 2 0\n")
    train(tmp_path, "--exp_name", "run", "--class_weights", str(path))
    assert checkpoint.load(next((tmp_path / "run").glob("latest_*")))["class_weights"] == [1, 0.5, 2, 2, 0]
    for number, (text, says) in enumerate((("1 2 3", "has 3 numbers"), ("1 1 1 1 -1", "has 5 numbers"),
                                           ("1 1 x 1 1", "could not convert"))):
        path.write_text(text)
        with pytest.raises(SystemExit) as stop:
            train(tmp_path, "--exp_name", f"bad{number}", "--class_weights", str(path))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and says in error and "--class_weights" in error
    with pytest.raises(SystemExit):
        train(tmp_path, "--exp_name", "bad", "--class_weights", str(tmp_path / "no.txt"))
    assert "No such file" in capsys.readouterr().err
