"""Recorded evaluation: the attack's own numbers, killed and gone on, never attacked twice, radii warm-started."""
import json
import signal
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch.utils.data import DataLoader

from attacks import ENSEMBLE_LOSSES, FGSM, PGD, SEA, Noise
from datasets import build_datasets
from engine.evaluation.chains import plan_chains
from engine.records.store import read
from main import main
from metrics import StreamSegMetrics, counts_per_image
from network import build_model, modeling
from tests.held import stay_in_attack
from utils import checkpoint
from utils.text import replace_nan

ATTACK = ["--attack", "pgd", "--eps", "4/255", "8/255", "--steps", "3", "--num_workers", "0", "--sheet_images", "0"]


@pytest.fixture
def run(trained, tmp_path):
    """A function (name, flags) -> results of --test_only in a fresh run folder; its folder is tmp_path / name."""
    best, = (trained / "exp").glob("best_*.pth")

    def test(name, *flags):
        return main(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name", name, *flags])

    test.ckpt = best
    return test


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "records").iterdir()}


def lines_of(folder, beginning):
    path, = (folder / "records").glob(f"{beginning}_*.jsonl")
    return read(path)


def test_counts_of_images_are_those_of_the_confusion_matrix():
    generator = torch.Generator().manual_seed(0)
    labels, preds = (torch.randint(0, 4, (3, 9, 8), generator=generator) for _ in range(2))
    labels[0, :3], labels[1, 0], labels[2] = 255, -1, 7  # the last image is all void
    intersection, union, pixels = counts_per_image(labels, preds, 4)
    for k in range(3):
        metrics = StreamSegMetrics(4)
        metrics.update(labels[k], preds[k])
        matrix = metrics.confusion_matrix
        assert intersection[k].tolist() == matrix.diagonal().tolist() and pixels[k].tolist() == matrix.sum(1).tolist()
        assert union[k].tolist() == (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).tolist()
    assert not union[2].any()


def test_rows_are_the_scores_of_the_attacks_images(run, tmp_path):
    """Against the attack called by hand, one image at a time, and scikit-learn."""
    rows = run("a", *ATTACK, "--val_images", "5", "--val_batch_size", "1")["results"]
    saved = checkpoint.load(run.ckpt)
    model = build_model("deeplabv3_mobilenet", num_classes=5, output_stride=16, pretrained_backbone=False)
    model.model.load_state_dict(saved["model_state"])
    model.eval().to(memory_format=torch.channels_last)
    _, val_set = build_datasets("synthetic", data_root="", train=False)
    trues, preds = [], []
    for index in (0, 7, 15, 23, 31):
        image, label = (tensor[None] for tensor in val_set[index])
        image = image.contiguous(memory_format=torch.channels_last)
        adv = PGD(eps=8 / 255, steps=3)(model, image, label, image_ids=[index])
        pred = model(adv).argmax(1)
        trues.append(label[label != 255])
        preds.append(pred[label != 255])
    trues, preds = torch.cat(trues).numpy(), torch.cat(preds).numpy()
    row = next(row for row in rows if row["eps"] == 8 / 255 and not row["members"])
    assert row["images"] == 5 and row["Overall Acc"] == pytest.approx((trues == preds).mean(), rel=1e-12)
    seen = np.union1d(trues, preds)
    assert row["Mean IoU"] == pytest.approx(jaccard_score(trues, preds, labels=seen, average="macro"), rel=1e-12)


def test_a_record_says_what_attacked_what_and_what_it_took(run, tmp_path):
    run("a", *ATTACK, "--val_images", "3")
    header, lines = lines_of(tmp_path / "a", "pgd_linf_4-255_3steps")
    settings = PGD(eps=4 / 255, steps=3).settings()
    assert header["attack"] == {**settings, "warm_start": []} and header["class_names"][0] == "background"
    assert header["subject"]["model"] == "deeplabv3_mobilenet" and len(header["subject"]["weights"]) == 16
    assert list(lines) == ["val_0000", "val_0015", "val_0031"]
    for line in lines.values():
        assert (line["forwards"], line["backwards"]) == (3, 3) and 3.9 / 255 < line["radius"] <= 4 / 255
        assert sum(line["pixels"]) <= 64 * 64 and line["loss"] > 0


@pytest.mark.parametrize("flags", [[], ["--warm_start"]])
@pytest.mark.usefixtures("one_thread")
def test_killed_and_gone_on_gives_the_same_bytes(run, start, tmp_path, flags):
    """A real SIGKILL, half-way through an attack; batches of 2 images."""
    flags = [*ATTACK, "--val_batch_size", "2", "--val_images", "12", *flags]
    run("whole", *flags)
    process = start("--test_only", "--ckpt", str(run.ckpt), "--output_dir", str(tmp_path), "--exp_name", "killed",
                    *flags, first=partial(stay_in_attack, 4))
    assert "In the attack\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    expected, before = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "killed")
    assert before != expected and any(content.count(b"\n") > 4 for content in before.values())
    run("killed", *flags)
    assert bytes_of(tmp_path / "killed") == expected


def test_what_is_recorded_is_not_attacked_again(run, tmp_path, monkeypatch, capsys):
    first = run("a", *ATTACK, "--val_images", "4")
    monkeypatch.setattr(PGD, "attempt", lambda *_: pytest.fail("attacked again"))
    again = run("a", *ATTACK, "--val_images", "4")
    assert replace_nan(again["results"]) == replace_nan(first["results"]) and "records" in capsys.readouterr().out
    monkeypatch.undo()
    whole = run("a", *ATTACK, "--val_batch_size", "1")["results"]  # all images: those four come from the record
    assert [row["images"] for row in whole] == [32] * 3
    header, lines = lines_of(tmp_path / "a", "pgd_linf_4-255_3steps")
    assert list(lines)[:4] == ["val_0000", "val_0010", "val_0020", "val_0031"] and len(lines) == 32


def test_records_of_other_weights_images_or_settings_are_others(run, trained, tmp_path):
    run("a", *ATTACK, "--val_images", "2")
    run("a", *ATTACK, "--val_images", "2", "--alpha", "eps/2")
    run("a", *ATTACK, "--val_images", "2", "--crop_val")
    saved = checkpoint.load(run.ckpt)
    saved["model_state"]["classifier.classifier.4.bias"] += 1
    checkpoint.save(tmp_path / "other.pth", saved)
    run("a", *ATTACK, "--val_images", "2", "--ckpt", str(tmp_path / "other.pth"))
    names = [path.name for path in (tmp_path / "a" / "records").iterdir()]
    assert len(names) == len(set(names)) == 3 + 2 + 3 + 3  # clean is the same with another --alpha


def test_an_interrupted_evaluation_reports_what_is_whole(run, tmp_path, monkeypatch, capsys):
    calls = []

    def attempt(self, *args, original=PGD.attempt):
        calls.append(self.eps)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(PGD, "attempt", attempt)
    with pytest.raises(SystemExit) as stop:
        run("a", *ATTACK, "--val_images", "4", "--val_batch_size", "1")
    assert stop.value.code == 130 and calls == [4 / 255] * 4 + [8 / 255] * 2
    results = json.loads((tmp_path / "a" / "results.json").read_text())["results"]
    assert [(row["attack"], row["eps"]) for row in results] == [("none", 0.0), ("pgd", 4 / 255)]
    assert "has 1 of 4 images: the same command continues it" in capsys.readouterr().out
    monkeypatch.undo()
    rows = run("a", *ATTACK, "--val_images", "4", "--val_batch_size", "1")["results"]
    assert [(row["attack"], row["eps"]) for row in rows[:3]] == [
        ("none", 0.0), ("pgd", 4 / 255), ("pgd", 8 / 255)]


def test_radii_that_are_warm_started_never_give_a_pixel_back(run, tmp_path):
    flags = ["--attack", "pgd", "--eps", "8/255", "1/255", "4/255", "2/255", "--steps", "2", "--num_workers", "0"]
    run("a", *flags, "--warm_start", "--val_images", "8")
    right = []
    for level in (1, 2, 4, 8):
        header, lines = lines_of(tmp_path / "a", f"pgd_linf_{level}-255_2steps")
        smaller = [lower / 255 for lower in (1, 2, 4) if lower < level]
        assert header["attack"]["warm_start"] == [{"eps": eps, "step_size": eps / 4} for eps in smaller]
        right.append([sum(line["intersection"]) for line in lines.values()])
        radii = [line["radius"] for line in lines.values()]
        assert max(radii) <= level / 255 and (level == 1 or max(radii) > level / 2 / 255)  # beyond the smaller one
    assert (np.diff(right, axis=0) <= 0).all()


def test_chains_are_members_once_each_or_growing_radii():
    weights = [0.5, 0.5]
    attacks = [PGD(eps=0.2), FGSM(eps=0.1), PGD(eps=0.1), SEA(eps=0.1, class_weights=weights), PGD(eps=0.2),
               Noise(eps=0.1)]

    def names(chain):
        attacks = [link.attack for link in chain]
        return [None if attack is None else (attack.name, attack.attack_loss, attack.eps) for attack in attacks]

    singles = [names(chain) for chain in plan_chains(attacks, warm_start=False)]
    assert singles == [[None], [("pgd", "ce", 0.2)], [("fgsm", "ce", 0.1)], [("pgd", "ce", 0.1)],
                       [("apgd", "mce_bal", 0.1)], [("apgd", "mce", 0.1)], [("apgd", "js", 0.1)],
                       [("uniform_noise", "ce", 0.1)], [("sign_noise", "ce", 0.1)]]
    warm = [names(chain) for chain in plan_chains(attacks, warm_start=True)]
    assert warm[:3] == [[None], [("pgd", "ce", 0.1), ("pgd", "ce", 0.2)], [("fgsm", "ce", 0.1)]]
    assert len(warm) == len(singles) - 1


def test_sea_is_recorded_by_members_that_the_ensemble_shares(run, tmp_path, capsys):
    flags = ["--eps", "4/255", "--steps", "4", "--num_workers", "0", "--val_images", "2"]
    rows = run("a", "--attack", "sea", *flags)["results"]
    assert [row["attack"] for row in rows] == ["none", "apgd", "apgd", "apgd", "sea", "worst case"]
    sea = rows[4]
    assert sea["Mean IoU lower"] <= sea["Mean IoU"] <= min(row["Mean IoU"] for row in rows[:4])
    assert sea["Overall Acc"] <= min(row["Overall Acc"] for row in rows[:4]) and sea["backwards"] == 12
    before = bytes_of(tmp_path / "a")
    rows = run("a", "--attack", "ensemble", *flags)["results"]
    after = bytes_of(tmp_path / "a")
    assert len(after) == 1 + len(ENSEMBLE_LOSSES) and all(after[name] == content for name, content in before.items())
    assert [row["attack"] for row in rows[-3:]] == ["sea", "ensemble", "worst case"]
    assert rows[-2]["Overall Acc"] <= rows[-3]["Overall Acc"]
    weights = lines_of(tmp_path / "a", "red-apgd-mce_bal_linf_4-255_4steps")[0]["attack"]["class_weights"]
    train_set, _ = build_datasets("synthetic", data_root="")
    labels = (train_set.read_pair(k)[1].flatten().numpy() for k in range(len(train_set)))
    pixels = sum(np.bincount(label, minlength=256)[:5] for label in labels)
    assert weights == pytest.approx((1 / pixels / (1 / pixels).sum()).tolist(), rel=1e-12)


def test_the_loader_gives_every_image_its_own_index(run):
    from datasets import build_loaders, list_batches, select_batches

    _, val_set = build_datasets("synthetic", data_root="", train=False)
    _, loader = build_loaders(None, val_set, batch_size=1, val_batch_size=3, num_workers=0, seed=1, val_images=7)
    assert list_batches(loader) == [[0, 5, 10], [15, 20, 25], [31]]
    assert [indices.tolist() for *_, indices in select_batches(loader, [[0, 5, 10], [31]])] == [[0, 5, 10], [31]]
    assert [indices.tolist() for *_, indices in select_batches(loader, [[1], [2], [3]])] == [[1], [2], [3]]
    assert isinstance(loader, DataLoader) and select_batches(loader, list_batches(loader)) is loader


@pytest.mark.parametrize(("flags", "parts"), [
    (["--attack", "fgsm", "--red_eps"], ["--red_eps", "apgd"]),
    (["--attack", "segpgd", "--attack_loss", "js"], ["--attack_loss", "fgsm, pgd, apgd"]),
    (["--attack", "apgd", "--best_iterate"], ["--best_iterate", "pgd, segpgd, cospgd"]),
    (["--attack_loss", "js"], ["--attack_loss"]),
    (["--attack", "pgd", "square", "--target_class", "3"], ["--target_class", "square"]),
    (["--attack", "pgd", "--attack_loss", "mce", "--target_class", "3"], ["mce", "targeted"]),
    (["--attack", "pgd", "--target_class", "5"], ["--target_class 5", "0 to 4"]),
    (["--attack", "pgd", "--target_class", "nowhere.png"], ["nowhere.png"]),
    (["--attack", "square", "--attack_norm", "l2"], ["square", "l2"]),
    (["--attack", "psd"], ["psd", "segpgd"]),
    (["--attack", "pgd", "--restarts", "0"], ["--restarts", "1 or more"]),
    (["--attack", "pgd", "--target_class", "mask.png"], ["mask.png", "255 means no target"]),
    (["--attack", "fgsm", "--steps", "7"], ["--steps", "pgd"]),
    (["--attack", "apgd", "--alpha", "1/255"], ["--alpha", "pgd"]),
    (["--attack", "pgd", "--eps", "1/255", "--warm_start"], ["--warm_start", "--eps"]),
    (["--attack", "pgd", "--val_images", "3"], ["--val_images", "--test_only"]),
])
def test_attacks_that_cannot_be_are_one_line(flags, parts, small, refused, tmp_path, monkeypatch):
    """And nothing has started."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save("mask.png")
    line = refused([*small, "--total_itrs", "2", *flags])
    assert all(part in line for part in parts), line
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


@pytest.mark.parametrize(("flags", "parts"), [
    (["--report", "nowhere"], ["nowhere", "--report"]),
    (["--report", "a", "--steps", "10", "--attack", "pgd"], ["--steps", "only reads"]),
    (["--verify", "--attack", "sea"], ["--verify", "--attack"]),
])
def test_reports_and_checks_refuse_what_they_would_not_heed(flags, parts, refused, trained):
    line = refused([*flags, "--output_dir", str(trained)])
    assert all(part in line for part in parts), line


def test_labels_that_changed_are_never_scored_from_old_records(tmp_path, trained):
    """The same paths, names and sizes, other masks."""
    for folder in ("val", "valannot"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 70, 3), np.uint8)).save(tmp_path / "data" / "val" / "0.png")
    network = modeling.deeplabv3_mobilenet(num_classes=11, output_stride=16, pretrained_backbone=False)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    flags = ["--test_only", "--dataset", "camvid", "--data_root", str(tmp_path / "data"), "--num_workers", "0",
             "--model", "deeplabv3_mobilenet", "--ckpt", str(tmp_path / "weights.pth"), "--output_dir", str(tmp_path)]
    scores = []
    for label in (3, 4):
        mask = np.full((70, 70), label, np.uint8)
        mask[:8] = 0
        Image.fromarray(mask).save(tmp_path / "data" / "valannot" / "0.png")
        row = main(flags)["results"][0]
        scores.append([name for name, iou in row["Class IoU"].items() if iou == iou])
    assert "Pole" not in scores[1] or scores[0] != scores[1]
    assert len(list((tmp_path / "exp" / "records").iterdir())) == 2


def test_pictures_alone_are_no_reason_to_attack_again(run, tmp_path, monkeypatch):
    run("a", *ATTACK, "--val_images", "2")
    monkeypatch.setattr(PGD, "attempt", lambda *_: pytest.fail("attacked again"))
    run("a", *ATTACK[:-2], "--val_images", "2", "--sheet_images", "2")
    monkeypatch.undo()
    run("a", *ATTACK[:-2], "--val_images", "2", "--save_val_results")
    assert len(list((tmp_path / "a" / "val_results").rglob("*_perturbation.png"))) == 2 * 3


def test_a_target_is_a_class_or_a_map(run, tmp_path, refused):
    flags = ["--num_workers", "0", "--val_images", "2", "--attack", "pgd", "--steps", "5", "--eps", "16/255"]
    row = run("a", *flags, "--target_class", "2")["results"][1]
    header, lines = lines_of(tmp_path / "a", "pgd-to-2_linf_16-255_5steps")
    assert header["attack"]["target"] == 2
    reached = sum(line["at_target"] for line in lines.values())
    pixels, right = (sum(np.array(line[key]) for line in lines.values()) for key in ("pixels", "intersection"))
    assert row["Target share"] == reached / pixels.sum() and right[2] <= reached <= pixels.sum()
    Image.fromarray(np.full((64, 64), 2, np.uint8)).save(tmp_path / "map.png")
    run("a", *flags, "--target_class", str(tmp_path / "map.png"))
    path, = (tmp_path / "a" / "records").glob("pgd-to-map-*.jsonl")
    assert read(path)[1] == lines  # a map of 2 everywhere is class 2
    Image.fromarray(np.full((5, 5), 2, np.uint8)).save(tmp_path / "small.png")
    best = str(run.ckpt)
    line = refused(["--test_only", "--ckpt", best, "--output_dir", str(tmp_path), *flags, "--target_class",
                    str(tmp_path / "small.png")])
    assert "small.png" in line and "5x5" in line and "64x64" in line  # not a traceback
