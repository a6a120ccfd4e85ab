"""Test-time augmentation against its definition view by view, and attacks that go through it."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine.verify as verifying
from attacks import PGD
from main import main
from network import VIEWS, Augmented, as_scored


class Lopsided(nn.Module):
    """A network whose logits differ between an image and its mirror image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, images):
        ramp = torch.linspace(0, 1, images.shape[-1]).to(images)
        return self.conv(images) + 3 * ramp * self.conv(images).tanh()


@pytest.fixture
def network():
    return Lopsided().eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VIEWS)
def test_probabilities_are_the_mean_over_the_views(name, network, images):
    found = Augmented(network, VIEWS[name])(images).softmax(1)
    views = []
    for scale in (1.0,) if name == "flip" else (0.75, 1.0, 1.25):
        size = (round(24 * scale), round(31 * scale))
        scaled = F.interpolate(images, size, mode="bilinear", align_corners=False)
        for one in (network(scaled), network(scaled.flip(3)).flip(3)):
            views.append(F.interpolate(one, (24, 31), mode="bilinear", align_corners=False).softmax(1))
    assert len(views) == len(VIEWS[name])
    assert torch.allclose(found, torch.stack(views).mean(0), atol=1e-6)


def test_logits_are_finite_where_views_disagree_for_sure():
    class Sure(nn.Module):
        def forward(self, images):
            side = (torch.arange(images.shape[-1]) * 2 < images.shape[-1]) * 2e4 - 1e4
            return torch.stack([side.expand(images.shape[0], *images.shape[2:]), images.sum(1)], 1)

    logits = Augmented(Sure(), VIEWS["flip"])(torch.zeros(1, 3, 4, 6))
    assert logits.isfinite().all() and torch.allclose(logits.softmax(1)[:, 0], torch.tensor(0.5))


def test_the_gradient_is_that_of_all_views(network):
    images = torch.rand(1, 3, 6, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(Augmented(network.double(), VIEWS["flip"]), images)


def test_an_attack_through_the_views_leaves_less_than_one_that_ignores_them(network, images):
    """An attack on the network alone would overstate the robustness of what is scored."""
    scored = as_scored(network, tta="flip", window=None, stride=None)
    labels = scored(images).argmax(1)
    attack = PGD(eps=0.05, steps=10, step_size=0.0125, random_start=False, best_iterate=True)
    left = {}
    for name, attacked in (("through", scored), ("past", network)):
        points = attack(attacked, images, labels)
        left[name] = (scored(points).argmax(1) == labels).float().mean().item()
    assert left["through"] < left["past"] - 0.02


def test_without_it_the_model_is_itself(network):
    assert as_scored(network, tta=None, window=None, stride=None) is network


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    common = ["--output_dir", str(tmp_path), "--exp_name", "run", "--num_workers", "0", "--sheet_images", "0"]
    main([*common, "--dataset", "synthetic", "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "4",
          "--total_itrs", "4", "--lr", "0.05"])
    attack = ["--test_only", "--attack", "pgd", "--eps", "2/255", "--steps", "3", "--val_images", "4"]
    plain, mirrored, again = (main([*common, *attack, *flags])["results"] for flags in (
        [], ["--tta", "flip"], ["--tta", "flip", "--val_batch_size", "1"]))
    assert mirrored[0]["records"] != plain[0]["records"], "other records"
    assert [row["Mean IoU"] for row in mirrored] == pytest.approx([row["Mean IoU"] for row in again])
    assert mirrored[0]["loss"] != plain[0]["loss"]
    with pytest.raises(SystemExit):
        main([*common, "--tta", "rotate", "--test_only"])


@pytest.mark.slow
def test_verify_checks_what_is_scored(tmp_path, monkeypatch):
    """Attacks through the views; one of the checks, as all of them take long."""
    common = ["--output_dir", str(tmp_path), "--exp_name", "run", "--num_workers", "0"]
    main([*common, "--dataset", "synthetic", "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "4",
          "--total_itrs", "1", "--sheet_images", "0"])
    seen, plain = [], verifying.run_checks

    def run_checks(model, *args, **settings):
        seen.append(model)
        return plain(model, *args, **settings, only=["model untouched"])

    monkeypatch.setattr(verifying, "run_checks", run_checks)
    results = main([*common, "--verify", "--tta", "flip", "--val_images", "1"])
    assert [type(model) for model in seen] == [Augmented] and seen[0].views == VIEWS["flip"]
    assert [(check["name"], check["passed"]) for check in results["checks"]] == [("model untouched", True)]
    assert results["options"]["tta"] == "flip"
