"""predict.py on files, folders and lists, with a checkpoint of a thin network."""
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attacks import PGD
from datasets import describe
from datasets.image_lists import SUFFIXES
from engine.prediction.inputs import InputImage, find_images, read_sizes
from engine.prediction.outputs import Outputs
from engine.prediction.segment import Segmenter
from engine.prediction.write import log_start
from engine.run.exits import reported_errors
from engine.setup import build_network
from predict import predict
from tests import thin
from tests.calls import options_of
from utils.files import write_together
from utils.launch import TORCHRUN

RECORD = "predictions.jsonl"


@pytest.fixture(autouse=True)
def thin_network(one_thread):
    with thin.installed():
        yield


@pytest.fixture
def weights(tmp_path):
    """A VainF-shaped checkpoint of a network for the synthetic data set's classes."""
    model = save_weights(tmp_path / "weights.pth", num_classes=5, best_score=np.float64(0.5))
    return model, ["--ckpt", str(tmp_path / "weights.pth"), "--model", "deeplabv3_mobilenet", "--dataset", "synthetic"]


def save_weights(path: Path, *, num_classes: int, **content) -> nn.Module:
    """Write a checkpoint with the same weights each time; return its network."""
    options = options_of("--model", "deeplabv3_mobilenet", "--no-pretrained_backbone")
    torch.manual_seed(0)
    model = build_network(options, torch.device("cpu"), num_classes=num_classes).eval()
    torch.save({"model_state": model.model.state_dict(), **content}, path)
    return model


@pytest.fixture
def call(tmp_path, weights, monkeypatch):
    """A function that calls predict.py in tmp_path with the images in/ and the results out/, unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, inputs=("in",), out="out"):
        written = predict(["--input", *inputs, "--save_val_results_to", out, *weights[1], *flags])
        return [path.relative_to(out).as_posix() for path in written]

    return run


@pytest.fixture
def fails(call, capsys):
    """A function that returns the exit code and the lines on stderr of a call that ends with an error."""
    def run(*flags, **how):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*flags, **how)
        lines = capsys.readouterr().err.splitlines()
        return stop.value.code, [line for line in lines if line and "batch/s" not in line]  # without the bar

    return run


def draw(path, size=(24, 30), *, seed: int = 0, **how) -> np.ndarray:
    """Write a picture of random pixels; return them."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return pixels


def read(path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def files_in(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def record_of(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / RECORD).read_text().splitlines()]


@torch.no_grad()
def segment(model, pixels: np.ndarray) -> np.ndarray:
    return model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0].argmax(0).numpy()


def test_a_folder_becomes_label_maps_and_overlays_of_the_same_sizes(tmp_path, weights, call, capsys):
    pictures = {"a.JPG": (70, 90), "more/a.png": (65, 66), "more/b c.jpeg": (80, 65)}
    for name, size in pictures.items():
        draw(tmp_path / "in" / name, size)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "more" / "d.HEIC").touch()
    (tmp_path / "in" / "more" / "README").touch()
    draw(tmp_path / "in" / ".cache" / "a.png")
    assert call() == ["a.png", "more/a.png", "more/b c.png"]
    assert "Not used of the folders: 1 .heic, 1 .txt, 1 without suffix\n" in capsys.readouterr().out
    out = tmp_path / "out"
    for name, size in zip(["a", "more/a", "more/b c"], pictures.values(), strict=True):
        with Image.open(out / f"{name}.png") as label_map, Image.open(out / f"{name}_overlay.png") as overlay:
            assert label_map.mode == "P" and label_map.size == overlay.size == size[::-1]
    assert len(files_in(out)) == 7

    with Image.open(out / "more" / "a.png") as shown:
        preds = np.array(shown)
        assert (preds == segment(weights[0], read("in/more/a.png"))).mean() > 0.999  # channels_last may turn a tie
        assert len(np.unique(preds)) > 1
        assert (np.array(shown.convert("RGB")) == describe("synthetic").decode_target(preds)).all()


def test_an_image_is_segmented_as_one_sees_it(tmp_path, weights, call):
    """Upright by its EXIF orientation, and with the brightness of its 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = draw(tmp_path / "in" / "a.png", (70, 90), exif=exif)
    deep = np.random.RandomState(0).randint(0, 2**16, (66, 80)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "in" / "b.png")
    draw(tmp_path / "in" / "c.png", (70, 90))  # of the same size as the turned one by its header
    written = call()
    expected = np.rot90(turned, -1), (deep // 256)[..., None].repeat(3, axis=2)
    for path, picture in zip(written, expected, strict=False):
        preds = segment(weights[0], picture)
        assert read(Path("out", path)).shape == preds.shape and (read(Path("out", path)) == preds).mean() > 0.99


def test_every_suffix_of_a_readable_format_in_any_case(tmp_path, call):
    Image.init()
    from datasets.files import FORMATS

    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered - SUFFIXES == {".pfm"}  # floats, which are refused
    for k, name in enumerate(("a.png", "b.JPG", "c.Tif", "d.bmp", "e.WEBP", "f.ppm", "g.gif", "h.jp2")):
        draw(tmp_path / "in" / name, seed=k)
    assert call() == [f"{letter}.png" for letter in "abcdefgh"]


def test_several_inputs_each_file_once(tmp_path, call):
    """Folders below their own names, files and lists beside them; a link back to a folder ends the search there."""
    for name in ("one/in/a.png", "two/in/a.png", "two/in/b.png", "c.png", "lists/x/d.png", "lists/y/d.png"):
        draw(tmp_path / name)
    (tmp_path / "two" / "in" / "loop").symlink_to(tmp_path / "two")
    (tmp_path / "lists" / "all.txt").write_bytes(b"\xef\xbb\xbfx\\d.png\r\n\r\n" + b"lists/y/d.png\r\n" +
                                                 str(tmp_path / "c.png").encode())
    written = call(inputs=["c.png", "one/in", "two/in", "two/in/b.png", "lists/all.txt"])
    assert written == ["c.png", "one/in/a.png", "two/in/a.png", "two/in/b.png", "lists/x/d.png", "lists/y/d.png"]


def test_a_list_may_have_comments_and_lines_of_any_length(tmp_path, call, fails):
    for name in ("a.png", "#b.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "list.txt").write_bytes(b"# of May\r\na.png\r\n  # more\r\n#b.png\r\n")
    assert call(inputs=["in/list.txt"]) == ["a.png", "#b.png"]
    (tmp_path / "in" / "list.txt").write_text("a.png\n" + "x" * 5000 + "\n" + "y\0.png\n")
    code, lines = fails(inputs=["in/list.txt"], out="new")
    assert code == 1 and len(lines) == 3 and max(map(len, lines)) < 600
    assert files_in("new") == ["a.png", "a_overlay.png", RECORD]


def test_folders_at_the_root_of_the_disk_stay_below_the_results(tmp_path, monkeypatch):
    """/photos and /x/photos are told apart by their parents; "//photos" would lead out of the folder."""
    for name in ("photos", "x/photos"):
        draw(tmp_path / name / "a.png")
    monkeypatch.setattr("engine.prediction.inputs.name_folders", lambda folders: {
        "//photos": (tmp_path / "photos").resolve(), "x/photos": (tmp_path / "x" / "photos").resolve()})
    images = find_images([tmp_path / "photos", tmp_path / "x" / "photos"], is_own=lambda path: False)
    assert [str(image.name) for image in images] == ["photos/a.png", "x/photos/a.png"]


def test_an_overlay_is_not_the_overlay_of_another_image(tmp_path, weights, call, capsys):
    for k, name in enumerate(("x.png", "x_overlay.png", "y.jpg", "y.png", "z.png")):
        draw(tmp_path / "in" / name, seed=k)
    (tmp_path / "in" / "z.tif").write_bytes((tmp_path / "in" / "z.png").read_bytes())
    draw(tmp_path / "in" / "y.png.d" / "a.png")
    assert call() == ["x.png", "x_overlay_2.png", "y.png", "y_2.png", "z.png", "z_2.png", "y.png.d/a.png"]
    said = capsys.readouterr().out
    assert "in/x_overlay.png is written as x_overlay_2.png: x_overlay.png is another image's\n" in said
    assert "7 label maps and overlays written to out\n" in said
    assert len(files_in("out")) == 2 * 7 + 1
    for name, source in (("x", "x.png"), ("x_overlay_2", "x_overlay.png"), ("y_2", "y.png")):
        assert (read(f"out/{name}.png") == segment(weights[0], read(f"in/{source}"))).mean() > 0.99


def test_nothing_that_was_there_is_overwritten(tmp_path, call):
    """Results beside the images: these are PNGs themselves, have masks beside them, and an overlay of another program;
    a folder has the name of a result."""
    for k, name in enumerate(("a.png", "b.jpg", "c.jpg", "c_overlay.png", "d.jpg", "e.png/f.jpg", "e.jpg")):
        draw(tmp_path / "in" / name, seed=k)
    Image.new("L", (30, 24)).save(tmp_path / "in" / "b.png")
    before = {path: (tmp_path / "in" / path).read_bytes() for path in files_in("in")}
    written = call(out="in")
    assert written == ["a_2.png", "b_2.png", "b_3.png", "c_2.png", "c_overlay_2.png", "d.png", "e_2.png", "e.png/f.png"]
    assert all((tmp_path / "in" / path).read_bytes() == content for path, content in before.items())
    assert call("--overwrite", out="in") == written  # its own files are no images, and are replaced
    assert all((tmp_path / "in" / path).read_bytes() == content for path, content in before.items())


def test_why_an_image_is_not_written_under_its_name_is_said_once_it_is_written(tmp_path, call, fails, capsys):
    for k, name in enumerate(("in/a.jpg", "out/a.png", "in/b.jpg", "in/b.png", "in/d.gif/e.jpg", "in/d.jpg",
                              "in/" + "y" * 240 + ".png")):
        draw(tmp_path / name, seed=k)
    (tmp_path / "in" / "b.png").write_text("no image")
    (tmp_path / "in" / "c.jpg").write_text("no image")
    draw(tmp_path / "in" / "c.png")
    with pytest.raises(SystemExit):
        call()
    lines = [line for line in capsys.readouterr().out.splitlines() if "written" in line]
    assert lines == ["in/a.jpg is written as a_2.png: a.png is there and not written by predict.py",
                     f"in/{'y' * 240}.png is written as {'y' * 200}.png: its name is too long",
                     "6 label maps and overlays written to out"]
    call(inputs=["in/c.png", "in/a.jpg"], out="in")
    assert "in/c.png is written as c_2.png: c.png is an input\n" in capsys.readouterr().out
    call(inputs=["in/c.png"], out="one")
    assert "1 label map and overlay written to one\n" in capsys.readouterr().out


def test_names_that_are_long_or_not_utf_8(tmp_path, call):
    names = ["ä" * 60 + "x" * 130 + ".png", "y" * 250 + ".png", os.fsdecode(b"z\xff.png")]
    for name in names:
        draw(tmp_path / "in" / name)
    expected = {"ä" * 60 + "x" * 80 + ".png", "y" * 200 + ".png", names[2]}  # of 200 bytes
    assert {*call()} == {*call("--overwrite")} == expected and len(files_in("out")) == 7


def test_own_earlier_files_are_replaced_only_with_overwrite(tmp_path, call, fails):
    for k, name in enumerate("ab"):
        draw(tmp_path / "in" / f"{name}.jpg", seed=k)
    call()
    first = {path: Path("out", path).read_bytes() for path in files_in("out")}
    code, (line,) = fails("--overlay_alpha", "0")
    assert code == 2 and "4 files of an earlier call" in line and "--overwrite" in line
    assert {path: Path("out", path).read_bytes() for path in files_in("out")} == first

    corrected = read("out/b.png") * 0
    Image.fromarray(corrected).save("out/b.png")  # by hand: no longer a file of predict.py
    assert call("--overwrite", "--overlay_alpha", "0") == ["a.png", "b_2.png"]
    assert (read("out/b.png") == corrected).all() and (read("out/a_overlay.png") == read("in/a.jpg")).all()
    assert Path("out/b_overlay.png").read_bytes() == first["b_overlay.png"]


def test_the_record_has_a_line_for_each_image(tmp_path, call):
    for k, name in enumerate("abc"):
        draw(tmp_path / "in" / f"{name}.jpg", seed=k)
    call()
    call("--overwrite", "--overlay_alpha", "0")
    assert sorted(line["image"] for line in record_of("out")) == ["in/a.jpg", "in/b.jpg", "in/c.jpg"]
    call("--overwrite", inputs=["in/b.jpg"])
    assert len(record_of("out")) == 3 and record_of("out")[-1]["image"] == "in/b.jpg"
    check_record("out")
    Path("in/b.jpg").rename("in/b.jpeg")  # its results are replaced by those of another file
    call("--overwrite")
    assert sorted(line["image"] for line in record_of("out")) == ["in/a.jpg", "in/b.jpeg", "in/c.jpg"]
    check_record("out")


def check_record(folder):
    """Every file but the record is in one line, with its SHA-256."""
    files = {name: digest for line in record_of(folder) for name, digest in line["files"].items()}
    assert sum(len(line["files"]) for line in record_of(folder)) == len(files)
    assert {name: hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() for name in files_in(folder)
            if name != RECORD} == files


def test_earlier_files_that_are_not_made_again_stay_own_files(tmp_path, call):
    draw(tmp_path / "in" / "a.jpg")
    call("--attack", "fgsm", "--save_logits")
    call("--overwrite")
    line, = record_of("out")
    assert line["attack"] is None and [*line["files"]] == ["a.png", "a_overlay.png"]
    assert sorted(line["earlier_files"]) == sorted({*files_in("out")} - {*line["files"], RECORD})
    Path("out/a_adv.png").write_bytes(b"by hand")
    call("--overwrite", "--save_logits")
    line, = record_of("out")
    assert "a_logits.npz" in line["files"] and "a_adv.png" not in line["earlier_files"]
    Path("out/a_adv.png").unlink()
    assert call("--overwrite", "--attack", "fgsm", "--save_logits") == ["a.png"]
    line, = record_of("out")
    assert "earlier_files" not in line and len(line["files"]) == 7
    check_record("out")


def test_a_call_that_was_stopped_keeps_the_lines_of_what_it_did_not_replace(tmp_path, call, monkeypatch):
    """Also of an image whose new line is there already but whose files are the old ones."""
    for k, name in enumerate("abc"):
        draw(tmp_path / "in" / f"{name}.jpg", seed=k)
    call()
    before = record_of("out")
    with monkeypatch.context() as patch:
        def stop(folder, *, calls=[]):  # noqa: B006, it counts
            calls.append(folder)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return write_together(folder)
        patch.setattr("engine.prediction.outputs.write_together", stop)
        with pytest.raises(SystemExit, match="130"):
            call("--overwrite", "--overlay_alpha", "0")
    assert [line["image"] for line in record_of("out")] == ["in/b.jpg", "in/c.jpg", "in/a.jpg", "in/b.jpg"]
    assert record_of("out")[:2] == before[1:]
    assert call("--overwrite", "--overlay_alpha", "0") == ["a.png", "b.png", "c.png"]
    assert len(record_of("out")) == 3
    check_record("out")


def test_many_images_of_one_name_are_planned_at_once(tmp_path):
    """10,000 names of one stem: with a search from the first number on this takes minutes."""
    images = [InputImage(tmp_path / str(k) / "a.png", Path("a.png")) for k in range(10_000)]
    outputs, start = Outputs(tmp_path / "out"), time.process_time()
    targets = outputs.plan(images, [".png", "_overlay.png"])
    assert time.process_time() - start < 20
    names = [target.name for target in targets.values()]
    assert names == ["a", *(f"a_{k}" for k in range(2, 10_001))]


def test_earlier_results_below_the_input_are_not_segmented(tmp_path, call, capsys):
    draw(tmp_path / "in" / "a.png")
    call(out="in/results")
    assert call(out="in/others") == ["a.png"]
    assert "Not used of the folders: 3 files that predict.py wrote\n" in capsys.readouterr().out
    assert call(inputs=["in/results/a.png"], out="in/results") == ["a_2.png"]  # named itself, it is an image


def test_a_record_of_somebody_else_is_left_alone(tmp_path, call, fails):
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text('{"mine": 1}\n')
    code, (line,) = fails()
    assert code == 2 and f"out/{RECORD} is not a record of predict.py" in line and "--save_val_results_to" in line
    assert files_in("out") == [RECORD]


def test_what_cannot_be_read_costs_only_itself(tmp_path, call, fails):
    """Torn in the pixels and in the header, not an image, missing from the disk; and one of a single pixel is fine."""
    for name in "abc":
        draw(tmp_path / "in" / f"{name}.png", (65, 65))
    draw(tmp_path / "in" / "d.png", (1, 1))
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "b.png").read_bytes()[:600])
    (tmp_path / "in" / "e.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "in" / "f.jpg").write_text("<html>")
    (tmp_path / "list.txt").write_text("in/a.png\nin/gone.png\n")
    code, lines = fails(inputs=["in", "list.txt"])
    assert code == 1 and files_in("out") == [
        f"{name}{kind}" for name in "acd" for kind in (".png", "_overlay.png")] + [RECORD]
    assert read("out/d.png").shape == (1, 1)
    assert lines[-1].startswith("error: 4 of 7 images can't be segmented") and len(lines) == 5
    assert [sum(name in line for line in lines[:-1]) for name in ("/b.png", "/e.png", "/f.jpg", "/gone.png")] == [1] * 4


@pytest.mark.parametrize(("flags", "inputs", "words"), [
    ([], ["empty"], ["--input empty", "1 .pdf"]), ([], ["missing"], ["--input missing", "no such file"]),
    ([], ["in", "missing"], ["--input missing"]), ([], ["wrong.txt"], ["wrong.txt", "none of its lines"]),
    ([], ["binary.txt"], ["binary.txt", "UTF-8"]),
    (["--masks", "in"], ["in"], ["--masks", "--attack"]), (["--eps", "4/255"], ["in"], ["--eps", "--attack"]),
    (["--attack_seed", "2"], ["in"], ["--attack_seed", "--attack"]), (["--steps", "2"], ["in"], ["--steps"]),
    (["--attack", "pgd", "fgsm"], ["in"], ["--attack", "one"]),
    (["--attack", "pgd", "--eps", "1/255", "2/255"], ["in"], ["--eps", "one"]),
    (["--attack", "pgd", "--attack_loss", "ce", "mce"], ["in"], ["--attack_loss", "one"]),
    (["--attack", "sea"], ["in"], ["weights.pth", "mce_bal"]),
    (["--attack", "pgd", "--warm_start"], ["in"], ["--warm_start"]),
    (["--attack", "pgd", "--masks", "gone"], ["in"], ["--masks gone"]),
    (["--attack", "pgd", "--masks", "empty"], ["in"], ["--masks empty", "1 of 1 images", "a.png"]),
    (["--attack", "pgd", "--masks", "twice"], ["in"], ["images in twice", "a.gif, a.png"]),
    (["--label_map", "1:2"], ["in"], ["--label_map", "voc or cityscapes or camvid or iccv09 or folder"]),
    (["--dataset", "camvid", "--label_map", "1:2"], ["in"], ["--label_map", "--masks FOLDER"]),
    (["--dataset", "camvid", "--ignore_label", "2"], ["in"], ["--ignore_label", "--masks FOLDER"]),
    (["--exp_name", "sam"], ["in"], ["--exp_name", "--ckpt"]), (["--output_dir", "x"], ["in"], ["--output_dir"]),
    (["--pretrained_backbone"], ["in"], ["--pretrained_backbone"]),
    (["--no-pretrained_backbone"], ["in"], ["--pretrained_backbone"]),
    (["--overlay_alpha", "2"], ["in"], ["--overlay_alpha"]), (["--crop_val"], ["in"], ["--crop_val"])])
def test_what_is_refused_is_one_line_with_code_2(tmp_path, fails, flags, inputs, words):
    for name in ("in/a.png", "twice/a.png", "twice/a.gif"):
        draw(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.pdf").touch()
    (tmp_path / "wrong.txt").write_text("nowhere.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    code, (line,) = fails(*flags, inputs=inputs)
    assert code == 2 and all(word in line for word in words)
    assert not (tmp_path / "out").exists()


def test_what_a_checkpoint_says_of_its_backbone_is_not_refused(tmp_path, call):
    save_weights(tmp_path / "weights.pth", num_classes=5, options={"pretrained_backbone": False})
    draw(tmp_path / "in" / "a.png")
    assert call() == ["a.png"]


@pytest.mark.parametrize(("gpu_id", "device", "said"), [("0,1", "cuda", True), ("0", "cuda", False),
                                                        ("0,1", "cpu", False), (None, "cuda", False)])
def test_that_only_the_first_gpu_is_used_is_said(monkeypatch, capsys, gpu_id, device, said):
    monkeypatch.setattr("engine.prediction.write.device_of", lambda model: torch.device(device))
    with reported_errors():
        log_start("a.pth", Segmenter(nn.Identity(), None), gpu_id=gpu_id)
    assert ("--gpu_id 0,1: predict.py uses the first of these GPUs\n" in capsys.readouterr().out) == said


def test_several_processes_are_refused(tmp_path, fails, monkeypatch):
    draw(tmp_path / "in" / "a.png")
    for name, value in zip(TORCHRUN, ("0", "2", "0", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    code, (line,) = fails()
    assert code == 2 and "predict.py runs in one process: start it with python predict.py" in line


def test_logits_are_those_of_the_label_map(tmp_path, weights, call):
    pixels = draw(tmp_path / "in" / "a.png")
    call("--save_logits")
    with np.load("out/a_logits.npz") as saved:  # without pickle
        logits, names = saved["logits"], saved["classes"]
    assert logits.dtype == np.float32 and logits.shape == (5, 24, 30)
    assert tuple(names) == describe("synthetic").names
    assert (logits.argmax(0) == read("out/a.png")).all()
    with torch.no_grad():
        expected = weights[0](torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_attacks_that_weigh_classes_take_the_counts_of_the_checkpoint(tmp_path, weights, call):
    draw(tmp_path / "in" / "a.png")
    content = torch.load(tmp_path / "weights.pth", weights_only=False)
    saved = {"year": "2012", "label_map": None, "ignore_label": 255}
    torch.save({"model_state": content["model_state"], "class_pixels": [5, 4, 3, 2, 1], "options": saved,
                "class_names": list(describe("synthetic").names)}, tmp_path / "weights.pth")
    assert call("--attack", "apgd", "--attack_loss", "mce_bal", "--steps", "2") == ["a.png"]
    settings = record_of("out")[-1]["attack"]
    assert settings["class_weights"] == pytest.approx([12 / 137, 15 / 137, 20 / 137, 30 / 137, 60 / 137])


def test_overlay_alpha(tmp_path, call):
    pixels = draw(tmp_path / "in" / "a.png")
    for alpha in ("0", "1", "0.25"):
        call("--overlay_alpha", alpha, out=alpha)
    colours = describe("synthetic").decode_target(read("1/a.png"))
    assert (read("0/a_overlay.png") == pixels).all() and (read("1/a_overlay.png") == colours).all()
    assert (read("0.25/a_overlay.png") == np.rint(0.75 * pixels + 0.25 * colours)).all()


@pytest.mark.parametrize("flags", [["--eps", "3/255"], ["--eps", "0.01"], ["--attack_norm", "l2", "--eps", "0.5"]])
def test_the_adversarial_image_of_8_bits_is_within_eps_and_is_what_was_predicted(tmp_path, weights, call, flags):
    pixels = draw(tmp_path / "in" / "a.png").astype(int)
    call("--attack", "pgd", "--steps", "3", "--save_logits", *flags)
    assert files_in("out") == ["a.png", "a_adv.png", "a_adv_logits.npz", "a_adv_overlay.png", "a_adv_pred.png",
                               "a_logits.npz", "a_overlay.png", RECORD]
    moved = read("out/a_adv.png").astype(int) - pixels
    size = np.sqrt((moved ** 2).sum()) / 255 if "l2" in flags else np.abs(moved).max()
    assert 0 < size <= {"3/255": 3, "0.01": 2, "0.5": 0.5}[flags[-1]]
    call(inputs=["out/a_adv.png"], out="again")
    assert (read("again/a_adv.png") == read("out/a_adv_pred.png")).all()
    changed = (read("out/a_adv_pred.png") != read("out/a.png")).mean()
    line, = record_of("out")
    assert line["changed_pixels"] == pytest.approx(changed) and changed > 0
    assert line["labels"] == "clean prediction" and line["attack"]["attack"] == "pgd" and len(line["files"]) == 7


def test_the_labels_are_the_masks_if_there_are_some(tmp_path, weights, call, capsys):
    """Against PGD called directly; masks of another class than the prediction lead elsewhere."""
    pixels = {name: draw(tmp_path / "in" / name, seed=k) for k, name in enumerate(("a.jpg", "more/a.png"))}
    masks = {}
    for name in pixels:
        masks[name] = np.full((24, 30), 3, np.uint8)
        masks[name][:9] = 255
        path = (tmp_path / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[name]).save(path)
    flags = ["--attack", "fgsm", "--eps", "4/255"]
    call(*flags, "--masks", "masks")
    assert "on the masks as labels" in capsys.readouterr().out
    assert [line["labels"] for line in record_of("out")] == ["masks/a.png", "masks/more/a.png"]
    call(*flags, out="clean")
    assert "on the clean predictions as labels" in capsys.readouterr().out
    image = torch.from_numpy(read("in/more/a.png")).permute(2, 0, 1)[None].float() / 255
    fgsm = PGD(eps=4 / 255, step_size=4 / 255, steps=1, random_start=False)
    for folder, labels in (("out", masks["more/a.png"]), ("clean", read("clean/more/a.png"))):
        adv = fgsm(weights[0], image, torch.from_numpy(labels)[None].long())
        expected = adv[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        assert (read(f"{folder}/more/a_adv.png") == expected).mean() > 0.99
    assert (read("out/more/a_adv.png") != read("clean/more/a_adv.png")).mean() > 0.1


@pytest.fixture
def adv_of(tmp_path, call):
    """A function that attacks in/a.png and returns the adversarial image; one mask per call."""
    def run(mask: Image.Image, *flags, out: str):
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / "a.png")
        call("--attack", "fgsm", "--eps", "8/255", "--masks", "masks", *flags, out=out)
        return read(f"{out}/a_adv.png")

    return run


def test_masks_are_read_as_the_data_set_reads_its_own(tmp_path, adv_of):
    """CamVid: 11 and above are ignored, masks may be in its colours, or have labels that --label_map translates."""
    save_weights(tmp_path / "weights.pth", num_classes=11)
    draw(tmp_path / "in" / "a.png")
    labels = np.random.RandomState(1).randint(0, 11, (24, 30)).astype(np.uint8)
    labels[:9] = 255
    classes = describe("camvid")
    expected = adv_of(Image.fromarray(labels), "--dataset", "camvid", out="plain")
    for name, mask, flags in (
            ("unlabelled", np.where(labels == 255, 11, labels).astype(np.uint8), []),
            ("colours", np.where((labels == 255)[..., None], 0, classes.decode_target(labels)).astype(np.uint8), []),
            ("mapped", np.where(labels < 11, labels + 100, 255).astype(np.uint8),
             ["--label_map", ",".join(f"{k + 100}:{k}" for k in range(11))]),
            ("shifted", np.where(labels < 255, labels + 1, 0).astype(np.uint8),
             ["--ignore_label", "0", "--label_map", ",".join(f"{k + 1}:{k}" for k in range(11))])):
        adv = adv_of(Image.fromarray(mask), "--dataset", "camvid", *flags, out=name)
        assert (adv == expected).all(), name
    other = adv_of(Image.fromarray(np.where(labels < 255, 0, labels).astype(np.uint8)), "--dataset", "camvid", out="o")
    assert (other != expected).mean() > 0.1


def test_masks_are_read_with_the_label_map_and_the_colours_of_the_checkpoint(tmp_path, adv_of):
    """Of a folder that isn't there; --ignore_label given here wins over the checkpoint's."""
    colours = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    described = {"class_names": ["a", "b", "c"], "class_colours": colours}
    saved = {"dataset": "folder", "data_root": str(tmp_path / "gone"), "label_map": "7:0", "ignore_label": 9}
    save_weights(tmp_path / "weights.pth", num_classes=3, options=saved, **described)
    draw(tmp_path / "in" / "a.png")
    labels = np.random.RandomState(1).randint(0, 3, (24, 30)).astype(np.uint8)
    expected = adv_of(Image.fromarray(labels), "--dataset", "folder", out="plain")
    assert (adv_of(Image.fromarray(np.array(colours, np.uint8)[labels]), "--dataset", "folder", out="rgb")
            == expected).all()
    mapped = np.where(labels == 0, 7, labels).astype(np.uint8)
    assert (adv_of(Image.fromarray(mapped), "--dataset", "folder", out="mapped") == expected).all()
    mapped[0] = 9
    ignored = adv_of(Image.fromarray(mapped), "--dataset", "folder", out="ignored")
    mapped[0] = 8
    flags = ["--dataset", "folder", "--ignore_label", "8"]
    assert (adv_of(Image.fromarray(mapped), *flags, out="given") == ignored).all()


def test_weights_without_class_names_need_the_folder_that_has_them(tmp_path, fails):
    save_weights(tmp_path / "weights.pth", num_classes=1)
    draw(tmp_path / "in" / "a.png")
    code, lines = fails("--dataset", "folder")
    assert code == 2 and "--data_root datasets/data does not exist: name the folder" in lines[-1]


def test_the_counts_of_the_checkpoint_are_used_whatever_the_labels_in_the_masks_mean(tmp_path, adv_of):
    save_weights(tmp_path / "weights.pth", num_classes=11, class_names=list(describe("camvid").names),
                 class_pixels=[1] * 11, options={"year": "2012", "label_map": None, "ignore_label": 255})
    draw(tmp_path / "in" / "a.png")
    flags = ["--dataset", "camvid", "--attack", "apgd", "--attack_loss", "mce_bal", "--steps", "2"]
    assert adv_of(Image.new("L", (30, 24), 20), *flags, "--label_map", "20:0", out="out").shape == (24, 30, 3)


def test_a_mask_with_a_label_beyond_the_classes_is_named(tmp_path, call, fails):
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "masks").mkdir()
    for mask, words in ((Image.new("L", (30, 24), 5), ["masks/a.png has the label 5", "--label_map"]),
                        (Image.new("RGB", (30, 24), (1, 2, 3)), ["masks/a.png (mode RGB"])):
        mask.save(tmp_path / "masks" / "a.png")
        code, lines = fails("--attack", "fgsm", "--masks", "masks")
        assert code == 1 and all(word in lines[0] for word in words) and files_in("out") == [RECORD]


def test_a_mask_is_found_whatever_the_unicode_form_of_its_name(tmp_path, call):
    draw(tmp_path / "in" / "u\N{COMBINING DIAERESIS}.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (30, 24)).save(tmp_path / "masks" / "\N{LATIN SMALL LETTER U WITH DIAERESIS}.png")
    assert len(call("--attack", "fgsm", "--masks", "masks")) == 1


def test_a_path_in_a_folder_that_cannot_be_read_is_named(tmp_path, call, fails, monkeypatch):
    """The tests may run as root, who can read everything: Path.exists() raises there."""
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    for name in ("exists", "is_dir", "is_file"):
        monkeypatch.setattr(Path, name, refuse)
    code, (line,) = fails(inputs=["secret/a.png"])
    assert code == 2 and "--input secret/a.png: no such file or folder, or it can't be read" in line


def test_masks_may_end_as_those_of_a_data_set(tmp_path, call):
    (tmp_path / "masks").mkdir()
    for name in "ab":
        draw(tmp_path / "in" / f"{name}.png")
        Image.new("L", (30, 24)).save(tmp_path / "masks" / f"{name}_mask.png")
    call("--attack", "fgsm", "--masks", "masks")
    assert {"a_adv.png", "b_adv.png"} <= set(files_in("out"))


def test_only_images_that_can_be_read_need_a_mask(tmp_path, call, fails):
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no image")
    (tmp_path / "masks").mkdir()
    Image.new("L", (30, 24)).save(tmp_path / "masks" / "a.png")
    code, lines = fails("--attack", "fgsm", "--masks", "masks")
    assert code == 1 and "in/b.png" in lines[0] and "1 of 2 images" in lines[1] and len(lines) == 2
    assert "a_adv.png" in files_in("out")
    draw(tmp_path / "in" / "c.png")
    code, (line,) = fails("--attack", "fgsm", "--masks", "masks", out="new")
    assert code == 2 and "no mask for 1 of 2 images (c.png" in line and not Path("new").exists()


def test_a_mask_that_does_not_fit_is_named(tmp_path, call, fails):
    for name in "ab":
        draw(tmp_path / "in" / f"{name}.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (30, 24)).save(tmp_path / "masks" / "a.png")
    Image.new("L", (24, 30)).save(tmp_path / "masks" / "b.png")
    code, lines = fails("--attack", "fgsm", "--masks", "masks")
    assert code == 1 and "masks/b.png is 24x30" in lines[0] and "a_adv.png" in files_in("out")


def test_a_target_map_is_for_the_images_of_its_size(tmp_path, call, fails):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.png", (24, 31))
    Image.new("L", (30, 24), 2).save(tmp_path / "target.png")
    code, lines = fails("--attack", "fgsm", "--target_class", "target.png")
    assert code == 1 and "in/b.png: --target_class" in lines[0] and "24x31" in lines[0]
    assert "a_adv.png" in files_in("out") and "b.png" not in files_in("out")


def test_masks_that_are_earlier_results_are_kept(tmp_path, call):
    """--overwrite would replace them while they are read."""
    draw(tmp_path / "in" / "a.png")
    call()
    before = Path("out/a.png").read_bytes()
    assert call("--overwrite", "--attack", "fgsm", "--masks", "out") == ["a_2.png"]
    assert Path("out/a.png").read_bytes() == before and record_of("out")[-1]["labels"] == "out/a.png"


def test_an_images_random_numbers_depend_on_nothing_but_the_image(tmp_path, call):
    for k in range(3):
        draw(tmp_path / "in" / f"{k}.png", seed=k)
    call("--attack", "noise", "--eps", "8/255", "--val_batch_size", "2")
    call("--attack", "noise", "--eps", "8/255", inputs=["in/2.png"], out="alone")
    assert (read("out/2_adv.png") == read("alone/2_adv.png")).all()
    call("--attack", "noise", "--eps", "8/255", "--attack_seed", "2", inputs=["in/2.png"], out="other")
    assert (read("other/2_adv.png") != read("alone/2_adv.png")).mean() > 0.5


def test_images_of_one_size_share_batches(tmp_path, monkeypatch):
    """At most batch_size, and at most so many pixels; in which order they come changes nothing."""
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.shapes = []

        def forward(self, images):
            self.shapes.append(tuple(images.shape))
            return images

    for k, size in enumerate([(4, 5), (8, 8), (4, 5), (4, 5), (4, 5), (8, 8), (5, 4)]):
        draw(tmp_path / f"{k}.png", size, seed=k)
    images = find_images([tmp_path], is_own=lambda path: False)
    monkeypatch.setattr("engine.prediction.segment.MOST_PIXELS", 120)
    model = Watched()
    results = list(Segmenter(model, describe("synthetic")).run(read_sizes(images)[0], batch_size=3))
    assert model.shapes == [(3, 3, 4, 5), (1, 3, 4, 5), (1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 5, 4)]
    for image, files, _ in results:
        (tmp_path / "map.png").write_bytes(files[".png"])
        assert (read(tmp_path / "map.png") == read(image.path).argmax(2)).all()
