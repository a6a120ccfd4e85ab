"""The smallest radius, against the exact one of a linear network, and the images that have none."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from attacks import MinRadius, Networks

EVERY_NORM = pytest.mark.parametrize("norm", ["linf", "l2"])
SLOPE = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)  # of the difference of two logits, along each colour


def radius_of(delta, norm):
    delta = delta.double().flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def count_wrong(model, images, labels):
    """Return (wrong, labelled) pixels of each image, counted in NumPy."""
    with torch.no_grad():
        preds = model(images).argmax(1).numpy()
    labelled = labels.numpy() != 255
    return ((preds != labels.numpy()) & labelled).sum((1, 2)), labelled.sum((1, 2))


@pytest.fixture
def linear():
    """A function (height, width) -> (model, images [8, 3, H, W], labels, margins [8, H, W]).

    Two classes, pixels independent; a pixel is wrong once its colour moves by its margin along SLOPE. If there are
    several, some are wrong before, of margin 0, and some void. Grey values leave room for every step.
    """

    def make(height, width):
        model = nn.Conv2d(3, 2, 1).double()
        with torch.no_grad():
            model.weight.copy_(torch.stack([SLOPE, -SLOPE]).view(2, 3, 1, 1) / 2)
            model.bias.copy_(torch.tensor([-1.0, 1.0]) * SLOPE.sum() / 4)
        images = 0.3 + 0.4 * torch.rand(8, 3, height, width, dtype=torch.float64,
                                        generator=torch.Generator().manual_seed(3))
        lead = ((images - 0.5) * SLOPE.view(3, 1, 1)).sum(1)  # of class 0
        labels = (lead <= 0).long()
        if height > 1:
            labels[:, ::2] = 0
            labels[:, 1, :2] = 255
        return model, images, labels, torch.where((lead <= 0) == (labels == 1), lead.abs(), 0)

    return make


@EVERY_NORM
def test_one_pixel_is_wrong_just_beyond_the_boundary(norm, linear):
    """Its distance is margin / |w|, of the norm dual to the attack's; no smaller radius exists."""
    model, images, labels, margins = linear(1, 1)
    outcome = MinRadius(norm=norm).run(model, images, labels)
    exact = margins.flatten() / (SLOPE.abs().sum() if norm == "linf" else SLOPE.norm())
    found = radius_of(outcome.images - images, norm)
    assert (found >= exact * (1 - 1e-9)).all() and (found <= 1.02 * exact).all()
    assert (count_wrong(model, outcome.images, labels)[0] == 1).all() and outcome.backwards.tolist() == [100] * 8


@pytest.mark.parametrize("share", [0.55, 0.73, 0.97, 1.0])
def test_a_share_of_independent_pixels_needs_the_radius_of_the_last_of_them(share, linear):
    model, images, labels, margins = linear(5, 6)
    found = radius_of(MinRadius(min_radius_share=share)(model, images, labels) - images, "linf")
    for k in range(8):
        distances = margins[k][labels[k] != 255].sort().values / SLOPE.abs().sum()
        exact = distances[math.ceil(share * len(distances)) - 1]
        assert exact * (1 - 1e-9) <= found[k] <= 1.02 * exact and exact > 0


def test_in_l2_all_independent_pixels_need_the_length_of_their_distances(linear):
    """The steps split the length among pixels a little unevenly."""
    model, images, labels, margins = linear(5, 6)
    found = radius_of(MinRadius(norm="l2", min_radius_share=1)(model, images, labels) - images, "l2")
    exact = (margins * (labels != 255) / SLOPE.norm()).flatten(1).norm(dim=1)
    assert (found >= exact * (1 - 1e-9)).all() and (found <= 1.3 * exact).all()


@EVERY_NORM
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_at_its_radius_the_share_is_wrong(share, norm, smooth):
    for seed in range(3):
        model, images, labels = smooth(seed)
        attack = MinRadius(norm=norm, steps=60, min_radius_share=share)
        outcome = attack.run(model, images, labels)
        wrong, labelled = count_wrong(model, outcome.images, labels)
        assert (wrong >= share * labelled).all()
        assert (wrong <= (share + 0.1) * labelled).all()  # not many more: else a smaller radius would do
        assert outcome.images.min() >= 0 and outcome.images.max() <= 1
        assert outcome.backwards.tolist() == outcome.forwards.tolist() == [60] * 3 and attack.count_gradients() == 60


@pytest.mark.slow
@EVERY_NORM
def test_more_steps_find_no_larger_radius(norm, smooth):
    model, images, labels = smooth(1)
    radii = [radius_of(MinRadius(norm=norm, steps=steps)(model, images, labels) - images, norm)
             for steps in (96, 150, 300)]  # from 96 on the rules don't depend on the steps
    assert (radii[0] >= radii[1]).all() and (radii[1] >= radii[2]).all() and (radii[0] > radii[2]).any()


@EVERY_NORM
def test_an_image_wrong_before_stays_as_it_is(norm, smooth):
    """At radius 0, after one gradient; also an image without labels, and one with just the share wrong."""
    model, images, labels = smooth(1, images=4)
    with torch.no_grad():
        labels[0] = model(images[:1])[0].argmin(0)
        labels[3] = model(images[3:])[0].argmin(0)
        labels[3, :4] = model(images[3:])[0, :, :4].argmax(0)  # 32 of 72 are right, 40 wrong
    labels[2] = 255
    outcome = MinRadius(norm=norm, steps=20, min_radius_share=0.55).run(model, images, labels)
    assert torch.equal(outcome.images[[0, 2, 3]], images[[0, 2, 3]]) and (outcome.images[1] != images[1]).any()
    assert outcome.backwards.tolist() == outcome.forwards.tolist() == [1, 20, 1, 1]


@EVERY_NORM
def test_without_success_the_iterate_with_the_fewest_correct_pixels_counts(norm, smooth, queries):
    model, images, labels = smooth(2)
    max_eps = {"linf": 0.015, "l2": 0.2}[norm]
    asked = queries(model)
    found = MinRadius(norm=norm, steps=50, max_eps=max_eps)(model, images, labels)
    points = torch.stack(asked)
    assert points.shape == (50, *images.shape)
    wrong = np.stack([count_wrong(model, each, labels)[0] for each in points])
    assert (wrong < 0.9 * count_wrong(model, images, labels)[1]).all()
    for k, best in enumerate(wrong.argmax(0)):  # the first of equal ones
        assert torch.equal(found[k], points[best, k]) and best > 0
    radii = torch.stack([radius_of(each - images, norm) for each in points])
    assert 0.9 * max_eps < radii.max() <= max_eps * (1 + 1e-12) and (radii[0] == 0).all()


@EVERY_NORM
def test_float32_images_stay_within_the_largest_radius(norm, toy, batch):
    images, labels = batch
    for quarter in (0.25, 0.5, 1, 8):
        max_eps = quarter / 255
        found = MinRadius(norm=norm, steps=40, max_eps=max_eps)(toy, images, labels)
        radii = radius_of(found.double() - images.double(), norm)
        assert found.dtype == torch.float32 and (radii <= max_eps * (1 if norm == "linf" else 1 + 1e-5)).all()


@EVERY_NORM
def test_an_image_does_not_depend_on_its_batch(norm, smooth):
    model, images, labels = smooth(3)
    attack, order = MinRadius(norm=norm, steps=60, min_radius_share=0.8), [2, 0, 1]
    together = attack.run(model, images, labels)
    shuffled = attack(model, images[order], labels[order], image_ids=[5, 6, 7])
    alone = torch.cat([attack(model, images[k:k + 1], labels[k:k + 1]) for k in range(3)])
    torch.testing.assert_close(shuffled, together.images[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone, together.images, rtol=0, atol=1e-12)


@EVERY_NORM
def test_from_a_start_that_succeeds_the_radius_only_falls(norm, smooth):
    fell = 0
    for seed in range(3):
        model, images, labels = smooth(seed)
        start = MinRadius(norm=norm, steps=40, min_radius_share=0.9)(model, images, labels)
        before = radius_of(start - images, norm)
        for steps in (2, 10, 40):  # few of them find nothing without the start
            found = MinRadius(norm=norm, steps=steps, min_radius_share=0.9)(model, images, labels, start=start)
            after, (wrong, labelled) = radius_of(found - images, norm), count_wrong(model, found, labels)
            assert (after <= before * (1 + 1e-12)).all() and (wrong >= 0.9 * labelled).all()
            fell += (after < 0.99 * before).sum().item()
            assert steps > 2 or torch.allclose(found, start, rtol=0, atol=1e-12)
    assert fell


@EVERY_NORM
def test_a_start_at_or_outside_the_ball_is_no_hindrance(norm, smooth):
    """From the images themselves, where the radius would be 0, and from far away, which is projected."""
    model, images, labels = smooth(4)
    far = images + 3 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for start in (images, images + 1e-9, far):
        found = MinRadius(norm=norm, steps=80, min_radius_share=0.8)(model, images, labels, start=start)
        wrong, labelled = count_wrong(model, found, labels)
        assert (wrong >= 0.8 * labelled).all() and found.min() >= 0 and found.max() <= 1
    found = MinRadius(norm=norm, steps=10, max_eps=0.01)(model, images, labels, start=far)
    assert (radius_of(found - images, norm) <= 0.01 * (1 + 1e-12)).all()


@EVERY_NORM
def test_the_share_is_of_all_networks_together(norm, smooth):
    (one, images, labels), (other, _, _) = smooth(1), smooth(2)
    attack = MinRadius(norm=norm, steps=80, min_radius_share=0.9)
    found = attack(Networks([one, other]), images, labels)
    (first, labelled), (second, _) = (count_wrong(model, found, labels) for model in (one, other))
    assert (first + second >= 0.9 * 2 * labelled).all()
    twice = attack(Networks([one, one]), images, labels)
    torch.testing.assert_close(twice, attack(one, images, labels), rtol=0, atol=1e-12)


def test_invalid_settings_are_errors():
    for max_eps in (-0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eps"):
            MinRadius(max_eps=max_eps)
    for share in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"^min_radius_share {share}: must be above 0 and at most 1$"):
            MinRadius(min_radius_share=share)
    for steps in (0, 1):
        with pytest.raises(ValueError, match=f"^steps {steps}: min_radius needs at least 2[^_]*$"):
            MinRadius(steps=steps)
    with pytest.raises(ValueError, match="choose from linf, l2"):
        MinRadius(norm="l1")
    assert MinRadius().eps == 64 / 255 and MinRadius(norm="l2").eps == 64 and MinRadius(max_eps=0.0).eps == 0
