"""main() as a user calls it, on the synthetic data set and a real network."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets
from engine.evaluation.evaluate import evaluate
from engine.options.parser import build_parser
from engine.run.checkpoints import KEYS
from main import main
from metrics import StreamSegMetrics
from network import NormalizedModel, modeling


def test_a_run_folder_holds_what_it_should(trained, small, train, refused):
    names = {path.name for path in (trained / "exp").iterdir()}
    stem = "deeplabv3_mobilenet_synthetic_os16.pth"
    assert names >= {f"latest_{stem}", f"best_{stem}", "log.txt", "opts.txt", "results.json"}
    log = (trained / "exp" / "log.txt").read_text().splitlines()
    assert log[0].startswith("Device: ") and log[1] == "Dataset: synthetic, Train set: 256, Val set: 32"
    assert "validation..." in log and any(line.startswith("Mean IoU: 0.") for line in log)
    saved = torch.load(trained / "exp" / f"latest_{stem}", weights_only=True)
    only_with_the_flag = {"class_weights", "trained_state", "averaged"}
    assert saved.keys() == KEYS.keys() - only_with_the_flag
    assert all(isinstance(saved[key], KEYS[key][0]) for key in saved)
    opts = (trained / "exp" / "opts.txt").read_text().splitlines()
    assert opts[0].startswith("------------ Options") and "crop_size: 65" in opts and opts[1:-1] == sorted(opts[1:-1])


def test_results_json_is_what_main_returns_and_reports_the_best(trained, one_thread):
    results = main(["--test_only", "--output_dir", str(trained), "--num_workers", "0", "--attack", "none"])
    loaded = json.loads((trained / "exp" / "results.json").read_text())
    assert loaded["options"]["crop_size"] == 65 and len(loaded["results"]) == 1 == len(results["results"])
    assert loaded["results"][0]["Mean IoU"] == results["results"][0]["Mean IoU"]
    saved = torch.load(trained / "exp" / "best_deeplabv3_mobilenet_synthetic_os16.pth", weights_only=True)
    assert saved["best_score"] == pytest.approx(results["results"][0]["Mean IoU"], abs=1e-6)


def test_test_only_attacks_what_was_trained_without_repeating_its_flags(trained, capsys):
    results = main(["--test_only", "--attack", "pgd", "fgsm", "--eps", "0", "8/255", "--steps", "2",
                    "--num_workers", "0", "--output_dir", str(trained), "--save_val_results"])["results"]
    assert [(row["attack"], row["norm"], row["eps"], row["steps"]) for row in results] == [
        ("none", None, 0.0, 0), ("pgd", "linf", 0.0, 2), ("pgd", "linf", 8 / 255, 2), ("fgsm", "linf", 0.0, 1),
        ("fgsm", "linf", 8 / 255, 1), ("worst case", "linf", 0.0, None), ("worst case", "linf", 8 / 255, None)]
    clean, pgd_0, pgd_8, fgsm_0, fgsm_8 = results[:5]
    scores = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Class IoU")
    assert [clean[s] for s in scores] == [pgd_0[s] for s in scores] == [fgsm_0[s] for s in scores]  # eps 0 is clean
    assert clean["loss"] < fgsm_8["loss"] and clean["loss"] < pgd_8["loss"]
    assert list(clean["Class IoU"]) == ["background", "disc", "square", "triangle", "ring"]

    out = capsys.readouterr().out
    assert "Options from the checkpoint: " in out and "--model deeplabv3_mobilenet" in out
    assert sum(line.startswith(("| none", "| pgd", "| fgsm")) for line in out.splitlines()) == 5
    for row in results[:5]:
        pictures = {path.name for path in (trained / "exp" / "val_results" / row["records"][0]).iterdir()}
        assert len(pictures) == 5 * 32 and {"val_0000_image.png", "val_0031_overlay.png"} <= pictures


def test_saved_pictures_are_the_scored_ones(trained):
    """The attacked image on disk is within eps (and rounding) of the clean one, and the target is the label."""
    rows = main(["--test_only", "--attack", "fgsm", "--eps", "4/255", "--num_workers", "0",
                 "--output_dir", str(trained), "--save_val_results"])["results"]
    stem = {row["attack"]: row["records"][0] for row in rows}

    def picture(result, kind):
        with Image.open(trained / "exp" / "val_results" / stem[result] / f"val_0003_{kind}.png") as image:
            return np.asarray(image).astype(int)

    distance = np.abs(picture("fgsm", "image") - picture("none", "image"))
    assert distance.max() == 4 and (distance == 4).mean() > 0.5
    _, val_set = build_datasets("synthetic", data_root="")
    assert (picture("none", "target") == val_set.decode_target(val_set[3][1])).all()


def test_what_was_there_is_never_lost(trained, tmp_path, small, refused):
    argv = [*small, "--output_dir", str(trained), "--total_itrs", "2"]
    line = refused(argv)
    assert all(flag in line for flag in ("--exp_name", "--overwrite", "--continue_training"))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (trained / "exp").iterdir())
    refused([*argv, "--overwrite", "--ckpt", str(tmp_path / "none.pth")])  # fails later: nothing is deleted
    refused([*argv, "--overwrite", "--batch_size", "1"])
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (trained / "exp").iterdir()) == before


def test_a_history_without_checkpoints_is_kept(tmp_path, small, refused):
    """Whoever deleted the checkpoints of a run may want its curves."""
    folder = tmp_path / "exp"
    folder.mkdir()
    (folder / "history.csv").write_text("Iteration,Epoch,Split\n7,1,train\n")
    assert "holds an earlier run" in refused([*small, "--output_dir", str(tmp_path), "--total_itrs", "1"])
    assert [path.name for path in folder.iterdir()] == ["history.csv"]
    assert (folder / "history.csv").read_text().endswith("7,1,train\n")


def test_overwrite_starts_again(tmp_path, train, real_network):
    train(tmp_path, "--exp_name", "a")
    (tmp_path / "a" / "notes.md").write_text("mine")
    train(tmp_path, "--exp_name", "a", "--overwrite", "--model", "deeplabv3plus_mobilenet")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert "notes.md" in names and not any("deeplabv3_mobilenet" in name for name in names)
    assert (tmp_path / "a" / "log.txt").read_text().count("Dataset: ") == 1


@pytest.mark.parametrize(("argv", "parts"), [
    (["--test_only", "--exp_name", "nothing"], ["no best_", "train first", "--ckpt"]),
    (["--continue_training", "--exp_name", "nothing"], ["no latest_", "train first", "--ckpt"]),
    (["--ckpt", "none.pth", "--test_only"], ["none.pth", "--ckpt"]),
    (["--num_classes", "7"], ["--num_classes 7", "synthetic has 5"]),
    (["--batch_size", "257"], ["--batch_size 257", "256"]),
    (["--batch_size", "1"], ["--batch_size 1", "a multiple of 2"]),
    (["--dataset", "camvid", "--data_root", "nowhere"], ["nowhere", "--data_root"]),
    (["--dataset", "voc", "--data_root", "nowhere"], ["nowhere", "--data_root", "--download"]),
    (["--enable_vis", "--vis_port", "9"], ["port 9", "visdom.server"]),
    (["--attack", "pgd", "--eps", "8"], ["--eps 8", "8/255"]),
])
def test_a_run_that_cannot_be_is_one_line(tmp_path, monkeypatch, argv, parts, small, refused):
    monkeypatch.chdir(tmp_path)
    line = refused([*small, "--total_itrs", "2", *argv])
    assert all(part in line for part in parts), line
    assert list(tmp_path.iterdir()) == []  # nothing was created


def test_a_torch_that_cannot_write_says_where(tmp_path, small, refused):
    (tmp_path / "file").write_text("")
    line = refused([*small, "--output_dir", str(tmp_path / "file"), "--total_itrs", "2"])
    assert "--output_dir" in line


@pytest.mark.slow
def test_checkpoints_of_vainf_and_sam_at_are_read(tmp_path, capsys, small, real_network):
    """Their files: model_state (SAM_AT's may carry module.), numpy best_score, the optimizer's and schedule's state."""
    torch.manual_seed(3)
    network = modeling.deeplabv3_mobilenet(num_classes=5, output_stride=16, pretrained_backbone=False)
    optimizer = torch.optim.SGD([{"params": network.backbone.parameters(), "lr": 0.001},
                                 {"params": network.classifier.parameters(), "lr": 0.01}], lr=0.01, momentum=0.9)
    path = tmp_path / "theirs.pth"
    saved = {"cur_itrs": 3, "model_state": {f"module.{k}": v for k, v in network.state_dict().items()},
             "optimizer_state": optimizer.state_dict(), "best_score": np.float64(0.25),
             "scheduler_state": {"power": 0.9, "max_iters": 30000.0, "min_lr": 1e-6, "base_lrs": [0.001, 0.01],
                                 "last_epoch": 2, "_step_count": 3, "_last_lr": [0.001, 0.01]}}
    torch.save(saved, path)
    folder = ["--output_dir", str(tmp_path / "runs")]
    results = main([*small, *folder, "--test_only", "--ckpt", str(path)])
    _, val_set = build_datasets("synthetic", data_root="")
    model = NormalizedModel(network, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = evaluate(model, torch.utils.data.DataLoader(val_set, 16), StreamSegMetrics(5))
    assert results["results"][0]["Mean IoU"] == pytest.approx(expected["Mean IoU"], abs=1e-6)
    main([*small, *folder, "--ckpt", str(path), "--continue_training", "--total_itrs", "4", "--print_interval", "1"])
    assert "Itrs 4/4" in capsys.readouterr().out


def test_weights_of_another_model_or_class_count_are_explained(trained, tmp_path, capsys):
    best = str(trained / "exp" / "best_deeplabv3_mobilenet_synthetic_os16.pth")
    with pytest.raises(SystemExit) as stop:
        main(["--test_only", "--ckpt", best, "--model", "deeplabv3_resnet50", "--output_dir", str(tmp_path)])
    err = [line for line in capsys.readouterr().err.splitlines() if line]
    assert stop.value.code == 2 and len(err) <= 8 and any("backbone." in line for line in err)


def test_test_only_takes_the_output_stride_that_was_trained(tmp_path, train, real_network):
    train(tmp_path, "--output_stride", "8")
    results = main(["--test_only", "--output_dir", str(tmp_path), "--num_workers", "0"])
    assert results["options"]["output_stride"] == 8


def test_every_flag_of_vainf_and_the_trainers_of_sam_at_is_there():
    vainf = """data_root dataset num_classes model separable_conv output_stride test_only save_val_results total_itrs
        lr lr_policy step_size crop_val batch_size val_batch_size crop_size ckpt continue_training loss_type gpu_id
        weight_decay random_seed print_interval val_interval download year enable_vis vis_port vis_env
        vis_num_samples"""
    sam_at = "optimizer exp_name rho"
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    assert {f"--{name}" for name in f"{vainf} {sam_at}".split()} <= flags


@pytest.mark.slow
def test_camvid_end_to_end(tmp_path, camvid_root, real_network):
    few = tmp_path / "CamVid"  # the first 3 pairs of each folder
    for folder in ("train", "trainannot", "val", "valannot"):
        (few / folder).mkdir(parents=True)
        for path in sorted((camvid_root / folder).iterdir())[:3]:
            (few / folder / path.name).symlink_to(path)
    flags = ["--dataset", "camvid", "--data_root", str(few), "--model", "deeplabv3_mobilenet",
             "--no-pretrained_backbone", "--crop_size", "97", "--batch_size", "2", "--num_workers", "0"]
    results = main([*flags, "--total_itrs", "1", "--output_dir", str(tmp_path / "runs")])["results"]
    assert 0 <= results[0]["Mean IoU"] < 0.3 and "Bicyclist" in results[0]["Class IoU"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_bad_mask_met_while_training_is_one_line_naming_the_file(tmp_path, workers, small, refused):
    """Past the images that are checked at the start; --check_data finds it before."""
    for split, count in (("train", 20), ("val", 2)):
        for folder in (split, f"{split}annot"):
            (tmp_path / "data" / folder).mkdir(parents=True)
            for k in range(count):
                picture = np.full((70, 70) if "annot" in folder else (70, 70, 3), k % 2, np.uint8)
                Image.fromarray(picture).save(tmp_path / "data" / folder / f"{k:03}.png")
    bad = tmp_path / "data" / "trainannot" / "015.png"
    bad.write_bytes(bad.read_bytes()[:40])
    flags = [*small, "--dataset", "camvid", "--data_root", str(tmp_path / "data"), "--num_workers", workers,
             "--total_itrs", "10", "--val_interval", "100", "--output_dir", str(tmp_path / "runs")]
    assert str(bad) in refused(flags)
    assert list((tmp_path / "runs" / "exp").glob("latest_*.pth"))  # nothing is lost
    line = refused([*flags, "--check_data", "--exp_name", "checked"])
    assert str(bad) in line and not (tmp_path / "runs" / "checked").exists()


@pytest.mark.slow
def test_voc_end_to_end_at_native_size(tmp_path, voc_root, real_network):
    flags = ["--dataset", "voc", "--data_root", str(voc_root), "--model", "deeplabv3_mobilenet",
             "--no-pretrained_backbone", "--crop_size", "97", "--batch_size", "2", "--num_workers", "0"]
    results = main([*flags, "--total_itrs", "1", "--output_dir", str(tmp_path), "--attack", "fgsm", "--eps", "2/255"])
    assert [row["attack"] for row in results["results"]] == ["none", "fgsm"]
    assert results["options"]["num_classes"] is None and "aeroplane" in results["results"][0]["Class IoU"]
