"""Adversarial images as 8-bit files: whole grey levels, within eps."""
import numpy as np
import pytest
import torch

from attacks import NORMS


@pytest.mark.parametrize(("eps", "points", "levels"), [
    (4 / 255, [14.0, 6.0, 10.4, 12.5001], [14, 6, 10, 13]),  # the whole radius, and the nearest level
    (0.01, [12.55, 7.45, 12.4, 10.0], [12, 8, 12, 10]),  # 2.55 levels: 13 would be too far
    (0.4 / 255, [10.4, 9.6, 10.0, 10.0], [10, 10, 10, 10]),
])
def test_linf_by_hand(eps, points, levels):
    images = torch.full((1, 1, 1, 4), 10 / 255)
    found = NORMS["linf"](images, eps).to_8_bits(torch.tensor(points).view(1, 1, 1, 4) / 255)
    assert torch.equal(found, torch.tensor(levels, dtype=torch.uint8).view(1, 1, 1, 4).float() / 255)


def test_l2_by_hand():
    """0.81 + 0.64 + 2.56 = 4.01, of which (0, 0, 1, 0) takes 1: of the rest two steps of 1 fit, not the 3 of 1 -> 2."""
    images = torch.full((1, 1, 1, 4), 10 / 255)
    points = torch.tensor([10.9, 9.2, 11.6, 10.0]).view(1, 1, 1, 4) / 255
    found = NORMS["l2"](images, 2.1 / 255).to_8_bits(points)
    assert (found * 255).round().flatten().tolist() == [11, 9, 11, 10]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.5 / 255), ("linf", 8 / 255), ("l2", 0.1), ("l2", 3.0)])
def test_8_bit_images_stay_in_the_ball_and_keep_the_direction(norm, eps):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, 20, 30)).astype(np.uint8)).float() / 255
    ball = NORMS[norm](images, eps)
    points = ball.project(images + torch.from_numpy(rng.normal(size=images.shape).astype(np.float32)))
    found = ball.to_8_bits(points)
    stored = (found * 255).round().byte()
    assert torch.equal(stored.float() / 255, found)  # what a file holds is what is predicted
    moved = (stored.numpy().astype(np.int64) - np.rint(images.numpy() * 255).astype(np.int64)).astype(float)
    length = np.abs(moved).max() if norm == "linf" else np.sqrt((moved ** 2).sum((1, 2, 3))).max()
    assert 0 < length <= eps * 255 + 1e-5
    assert (moved * (points - images).numpy() >= 0).all()


def test_an_l2_change_of_less_than_half_a_level_everywhere_is_not_lost():
    images = torch.full((1, 3, 40, 40), 100 / 255)
    signs = torch.where(torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    points = NORMS["l2"](images, 0.1).project(images + signs)
    assert (points - images).abs().max() * 255 < 0.5
    moved = (NORMS["l2"](images, 0.1).to_8_bits(points) - images).flatten()
    assert 0.95 * 0.1 < moved.norm() <= 0.1 + 1e-6
