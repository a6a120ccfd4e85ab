"""predict.py on a folder of images and a checkpoint."""
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import describe
from engine.setup import build_network
from predict import predict
from tests.calls import options_of


@pytest.fixture
def weights(tmp_path):
    """A VainF-shaped checkpoint of a network for the synthetic data set's classes."""
    options = options_of("--model", "deeplabv3_mobilenet", "--no-pretrained_backbone")
    torch.manual_seed(0)
    model = build_network(options, torch.device("cpu"), num_classes=5).eval()
    torch.save({"model_state": model.model.state_dict(), "best_score": np.float64(0.5)}, tmp_path / "weights.pth")
    return model, ["--ckpt", str(tmp_path / "weights.pth"), "--model", "deeplabv3_mobilenet", "--dataset", "synthetic"]


def test_a_folder_becomes_label_maps_and_overlays_of_the_same_sizes(tmp_path, weights):
    model, flags = weights
    rng = np.random.RandomState(0)
    pictures = {"a.JPG": (70, 90), "more/a.png": (65, 66), "more/b c.jpeg": (80, 65)}
    for name, size in pictures.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    written = predict(["--input", str(tmp_path / "in"), "--save_val_results_to", str(tmp_path / "out"), *flags])
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == ["a.png", "more/a.png", "more/b c.png"]
    for path, size in zip(written, pictures.values(), strict=True):
        with Image.open(path) as label_map, Image.open(path.with_name(f"{path.stem}_overlay.png")) as overlay:
            assert label_map.mode == "P" and label_map.size == overlay.size == size[::-1]

    with Image.open(tmp_path / "in" / "more" / "a.png") as image, Image.open(written[1]) as shown:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        expected = model(tensor).argmax(1)[0].numpy()
        assert (np.array(shown) == expected).mean() > 0.999  # channels_last may turn a tie
        assert (np.array(shown.convert("RGB")) == describe("synthetic").decode_target(np.array(shown))).all()


def test_an_image_is_segmented_as_one_sees_it(tmp_path, weights):
    """Upright by its EXIF orientation, and with the brightness of its 16 bits."""
    model, flags = weights
    rng = np.random.RandomState(0)
    (tmp_path / "in").mkdir()
    turned, deep = rng.randint(0, 256, (70, 90, 3)).astype(np.uint8), rng.randint(0, 2**16, (66, 80)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned).save(tmp_path / "in" / "a.png", exif=exif)
    Image.fromarray(deep).save(tmp_path / "in" / "b.png")
    written = predict(["--input", str(tmp_path / "in"), "--save_val_results_to", str(tmp_path / "out"), *flags])
    expected = np.rot90(turned, -1), (deep // 256)[..., None].repeat(3, axis=2)
    for path, picture in zip(written, expected, strict=True):
        preds = model(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255).argmax(1)[0].numpy()
        with Image.open(path) as label_map:
            assert label_map.size == picture.shape[1::-1] and (np.array(label_map) == preds).mean() > 0.99


@pytest.mark.parametrize(("names", "out"), [(["a.jpg", "a.png"], "out"), (["a.png"], "in")])
def test_nothing_is_written_over_an_image_or_another_label_map(tmp_path, weights, capsys, names, out):
    (tmp_path / "in").mkdir()
    for name in names:
        Image.new("RGB", (65, 65)).save(tmp_path / "in" / name)
    with pytest.raises(SystemExit) as stop:
        predict(["--input", str(tmp_path / "in"), "--save_val_results_to", str(tmp_path / out), *weights[1]])
    assert stop.value.code == 2 and "--save_val_results_to" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == names and not (tmp_path / "out").exists()


def test_what_cannot_be_segmented_is_one_line(tmp_path, weights, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    for source in ("empty", "missing", "torn.png"):
        with pytest.raises(SystemExit) as stop:
            predict(["--input", str(tmp_path / source), "--save_val_results_to", str(tmp_path / "out"), *weights[1]])
        assert stop.value.code == 2 and source in capsys.readouterr().err


def test_a_damaged_image_costs_only_itself(tmp_path, weights, capsys):
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.new("RGB", (65, 65)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "b.png").read_bytes()[:60])
    with pytest.raises(SystemExit) as stop:
        predict(["--input", str(tmp_path / "in"), "--save_val_results_to", str(tmp_path / "out"), *weights[1]])
    assert stop.value.code == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_overlay.png", "c.png",
                                                                        "c_overlay.png"]
    assert "error: 1 of 3 images can't be read: " in (err := capsys.readouterr().err) and "b.png" in err
