"""--val_attack: the logged mIoU is that of a test with the same attack, and --best_by robust keeps the best by it."""
import re

import pytest

from main import main
from tests.calls import options_of
from utils import checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.slow
TRAIN = ["--dataset", "synthetic", "--no-pretrained_backbone", "--separable_conv", "--crop_size", "65", "--lr", "0.1",
         "--batch_size", "8", "--backbone_lr_mult", "1", "--bn_momentum", "0.1", "--total_itrs", "24",
         "--val_interval", "6", "--num_workers", "0", "--sheet_images", "0", "--val_batch_size", "8"]
ROBUST = ["--val_attack", "pgd", "--val_eps", "4/255", "--val_attack_images", "32"]


def run(folder, name, *flags):
    return main(["--output_dir", str(folder), "--exp_name", name, *flags])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for by in ("clean", "robust"):
        run(folder, by, *TRAIN, *ROBUST, "--best_by", by)
    return folder


def scores_in(folder, name):
    """Clean and robust mIoU of each validation, by the log."""
    text = (folder / name / "log.txt").read_text()
    text = text[:text.index("Scores of the best")]
    return [[float(value) for value in re.findall(rf"^{what}: ([\d.]+)", text, re.M)]
            for what in ("Mean IoU", "Robust Mean IoU")]


def test_both_runs_are_the_same_training(runs):
    assert scores_in(runs, "clean") == scores_in(runs, "robust")
    assert [len(values) for values in scores_in(runs, "clean")] == [4, 4]


@pytest.mark.parametrize("by", ["clean", "robust"])
def test_the_best_checkpoint_is_the_best_by_it(runs, by):
    clean, robust = scores_in(runs, by)
    path, = (runs / by).glob("best_*.pth")
    content = checkpoint.load(path)
    chosen = clean if by == "clean" else robust
    assert content["best_score"] == pytest.approx(max(chosen), abs=1e-6)
    assert content["cur_itrs"] == 6 * (chosen.index(max(chosen)) + 1)


def test_the_robust_score_is_that_of_a_test(runs):
    content = run(runs, "robust", "--test_only", "--attack", "pgd", "--eps", "4/255", "--best_iterate", "--num_workers",
                  "0", "--sheet_images", "0")
    path, = (runs / "robust").glob("best_*.pth")
    assert content["results"][1]["Mean IoU"] == pytest.approx(checkpoint.load(path)["best_score"], abs=1e-9)


@pytest.mark.parametrize("flags", [["--best_by", "robust"], ["--val_eps", "1/255"], ["--val_attack_images", "4"]])
def test_without_an_attack_they_are_refused(flags):
    with pytest.raises(UserError, match="add --val_attack pgd"):
        options_of("--dataset", "synthetic", *flags)
