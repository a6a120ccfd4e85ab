"""--window in whole runs: what is scored, attacked, recorded and segmented, and what is refused."""
import numpy as np
import pytest
import torch
from PIL import Image

from attacks import PGD
from datasets import build_datasets
from engine.records.store import read
from main import main
from network import Windowed, build_model
from predict import predict
from utils import checkpoint

FLAGS = ["--test_only", "--dataset", "camvid", "--num_workers", "0", "--sheet_images", "0", "--val_batch_size", "2"]
WINDOW = ["--window", "65", "70", "--window_stride", "40"]


@pytest.fixture
def camvid(tmp_path):
    """The flags of a test on two images of 90x120, with random weights that see the whole window."""
    rng = np.random.default_rng(0)
    for folder, shape in (("val", (90, 120, 3)), ("valannot", (90, 120))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for k in range(2):
            picture = rng.integers(0, 256 if len(shape) == 3 else 11, shape, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / folder / f"{k}.png")
    torch.manual_seed(0)
    model = build_model("deeplabv3_mobilenet", num_classes=11, output_stride=16)
    torch.save({"model_state": model.model.state_dict()}, tmp_path / "weights.pth")
    return [*FLAGS, "--ckpt", str(tmp_path / "weights.pth"), "--model", "deeplabv3_mobilenet", "--data_root",
            str(tmp_path / "data"), "--output_dir", str(tmp_path)]


def reload(path) -> torch.nn.Module:
    model = build_model("deeplabv3_mobilenet", num_classes=11, output_stride=16)
    model.model.load_state_dict(torch.load(path)["model_state"])
    return model.eval()


def check_by_hand(rows, net, data_root):
    """The rows, clean and PGD-2 at 8/255, are those of a network that is attacked here."""
    _, val_set = build_datasets("camvid", data_root=data_root, train=False)
    images, labels = map(torch.stack, zip(*(val_set[k] for k in range(2)), strict=True))
    adv = PGD(eps=8 / 255, steps=2)(net, images, labels, image_ids=[0, 1])
    for row, points in zip(rows, (images, adv), strict=True):
        with torch.no_grad():
            right = (net(points).argmax(1) == labels).float().mean().item()
        assert row["Overall Acc"] == pytest.approx(right, abs=2e-3)


def test_images_are_scored_and_attacked_in_windows_and_recorded_apart(camvid, tmp_path, capsys):
    """Against the attack by hand on the windowed network."""
    attack = ["--attack", "pgd", "--steps", "2", "--eps", "8/255"]
    main([*camvid, *attack])
    rows = main([*camvid, *attack, *WINDOW])["results"]
    assert "in windows of 65x70 (height x width), 40 pixels apart" in capsys.readouterr().out
    net = Windowed(reload(tmp_path / "weights.pth"), (65, 70), 40)
    check_by_hand(rows, net, tmp_path / "data")
    subjects = [read(path)[0]["subject"] for path in (tmp_path / "exp" / "records").glob("*.jsonl")]
    assert len(subjects) == 4 and sum(subject.get("window") == [[65, 70], 40] for subject in subjects) == 2
    assert sum("window" not in subject for subject in subjects) == 2


class MirroredWindows(torch.nn.Module):
    """Written out: of each window the logarithm of both views' mean probability, of each pixel its windows' mean."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        total, count = torch.zeros(len(images), 11, 90, 120), torch.zeros(90, 120)
        for top in (0, 25):
            for left in (0, 40, 50):
                window = images[:, :, top:top + 65, left:left + 70]
                both = (self.net(window).softmax(1) + self.net(window.flip(3)).flip(3).softmax(1)) / 2
                place = torch.zeros(90, 120)
                place[top:top + 65, left:left + 70] = 1
                pad = (left, 120 - 70 - left, top, 90 - 65 - top)
                total, count = total + torch.nn.functional.pad(both.log(), pad), count + place
        return total / count


def test_windows_are_mirrored_and_attacked_so(camvid, tmp_path):
    """--window with --tta, against both written out."""
    rows = main([*camvid, "--attack", "pgd", "--steps", "2", "--eps", "8/255", *WINDOW, "--tta", "flip"])["results"]
    net = MirroredWindows(reload(tmp_path / "weights.pth"))
    check_by_hand(rows, net, tmp_path / "data")
    assert rows[1]["Overall Acc"] < rows[0]["Overall Acc"]


def test_a_window_that_covers_the_image_gives_the_same_scores(camvid):
    whole, covered = (main([*camvid, *flags])["results"][0] for flags in ([], ["--window", "120"]))
    assert {**whole, "records": None} == {**covered, "records": None}


def test_predictions_are_those_of_the_windows(camvid, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    call = ["--input", str(tmp_path / "a.png"), "--ckpt", str(tmp_path / "weights.pth"), "--dataset", "camvid",
            "--model", "deeplabv3_mobilenet", "--save_val_results_to"]
    net, tensor = reload(tmp_path / "weights.pth"), torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    for name, flags, model in (("whole", [], net), ("slid", WINDOW, Windowed(net, (65, 70), 40))):
        path, = predict([*call, str(tmp_path / name), *flags])
        with Image.open(path) as label_map, torch.no_grad():
            assert (np.array(label_map) == model(tensor).argmax(1)[0].numpy()).mean() > 0.99
    assert (tmp_path / "whole" / "a.png").read_bytes() != (tmp_path / "slid" / "a.png").read_bytes()


def test_a_training_validates_in_windows_and_a_test_is_told_anew(train, tmp_path, capsys):
    train(tmp_path, "--window", "65")
    path, = (tmp_path / "exp").glob("best_*.pth")
    assert checkpoint.load(path)["options"]["window"] == [65]
    assert "in windows of 65x65 (height x width), 44 pixels apart" in capsys.readouterr().out
    main(["--test_only", "--output_dir", str(tmp_path), "--num_workers", "0"])
    assert "scored whole; the checkpoint's run scored them with --window 65\n" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "says"), [
    (["--no-test_only", "--window_stride", "40"], "--window_stride: for windows: add --window"),
    (["--window", "100", "80", "--window_stride", "81"], "--window_stride 81 leaves pixels between windows"),
    (["--window", "100", "80", "70"], "--window 100 80 70: give one side, or a height and a width"),
    (["--window", "20"], "--window: 20 is out of bounds: 65 to 16384")])
def test_windows_that_cannot_be_are_refused(flags, says, refused):
    assert says in refused(["--test_only", *flags])
