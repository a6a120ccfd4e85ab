"""Losses against NumPy, hand-worked pixels and finite differences."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from optim import LOSSES, build_loss, count_valid_pixels, divergence


def by_hand(name, logits, labels, ignore_index=255):
    """Return the loss of each pixel; logits [B, C, H, W]."""
    total, count = 0.0, 0
    for b, i, j in np.ndindex(*labels.shape):
        if labels[b, i, j] == ignore_index:
            continue
        scores = np.exp(logits[b, :, i, j] - logits[b, :, i, j].max())
        p = scores[labels[b, i, j]] / scores.sum()
        total -= math.log(p) * ((1 - p) ** 2 if name == "focal_loss" else 1.0)
        count += 1
    return total / max(count, 1)


def probabilities_of(logits):
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def over_images(per_image, logits, labels):
    """Return the mean of per_image(probabilities [P, C], labels [P]) over images, by their valid pixels."""
    total = 0.0
    for image, label in zip(probabilities_of(logits), labels, strict=True):
        valid = label != 255
        total += per_image(image.transpose(1, 2, 0)[valid], label[valid]) * valid.sum()
    return total / (labels != 255).sum()


def ohem_by_hand(p, label):
    """Mean over the pixels whose label has less than 0.7, at least a 16th of all."""
    own = np.sort(p[np.arange(len(label)), label])
    hard = own[:max(int(np.sum(own <= 0.7)), math.ceil(len(own) / 16), 1)]
    return -np.log(hard).mean()


def dice_by_hand(p, label):
    return np.mean([1 - (2 * p[label == c, c].sum() + 1) / (p[:, c].sum() + (label == c).sum() + 1)
                    for c in np.unique(label)])


def lovasz_by_hand(p, label):
    """The Lovasz extension from the set function itself: 1 - IoU if the pixels of a set are wrong."""
    losses = []
    for c in np.unique(label):
        truth = label == c
        errors = np.abs(truth - p[:, c])
        wrong, before, loss = np.zeros(len(label), bool), 0.0, 0.0
        for place in np.argsort(-errors, kind="stable"):
            wrong[place] = True
            now = 1 - (truth & ~wrong).sum() / (truth | wrong).sum()
            loss += errors[place] * (now - before)
            before = now
        losses.append(loss)
    return np.mean(losses)


OF_IMAGES = {"ohem": ohem_by_hand, "dice": dice_by_hand, "lovasz": lovasz_by_hand}


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    return logits, labels


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_over_valid_pixels(name, pixels):
    logits, labels = (values.numpy() for values in pixels)
    expected = over_images(OF_IMAGES[name], logits, labels) if name in OF_IMAGES else by_hand(name, logits, labels)
    assert build_loss(name)(*pixels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "expected"), [
    ("cross_entropy", (math.log(2) + math.log(4 / 3)) / 2),
    ("focal_loss", (0.5**2 * math.log(2) + 0.25**2 * math.log(4 / 3)) / 2),
])
def test_two_by_two_worked_by_hand(name, expected):
    """The true class has probability 1/2 and 3/4; the other two pixels are ignored."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0, 1] = math.log(3)
    logits[0, 0, 1] = 50.0
    labels = torch.tensor([[[0, 1], [255, 255]]])
    assert build_loss(name)(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_finite_differences(name, pixels):
    logits, labels = pixels
    assert torch.autograd.gradcheck(lambda x: build_loss(name)(x, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_gradient_and_all_ignored_costs_nothing(name, pixels):
    logits, labels = pixels
    logits.requires_grad_()
    grad, = torch.autograd.grad(build_loss(name)(logits, labels), logits)
    assert not grad[0, :, :2].any()
    loss = build_loss(name)(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_ignore_index_may_be_another_label(name, pixels):
    logits, labels = pixels
    moved = labels.masked_fill(labels == 255, -1)
    assert torch.equal(build_loss(name, ignore_index=-1)(logits, moved), build_loss(name)(logits, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_scored_in_float32(name, pixels):
    logits, labels = pixels[0].to(torch.bfloat16), pixels[1]
    loss = build_loss(name)(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, build_loss(name)(logits.float(), labels))


def test_cross_entropy_equals_torchs_if_a_pixel_is_valid(pixels):
    expected = F.cross_entropy(*pixels, ignore_index=255)
    assert build_loss("cross_entropy")(*pixels).item() == pytest.approx(expected.item(), rel=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_have_its_gradient(name, pixels):
    """By valid pixels: so --accumulate and torchrun train as the whole batch does."""
    logits, labels = pixels
    whole = build_loss(name)(logits, labels)
    shares = (labels != 255).flatten(1).sum(1).double() / (labels != 255).sum()
    parts = sum(share * build_loss(name)(logits[k:k + 1], labels[k:k + 1]) for k, share in enumerate(shares))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_a_mix_of_targets(smoothing, pixels):
    logits, labels = pixels
    p = np.log(probabilities_of(logits.numpy()))
    total = [(1 - smoothing) * -p[b, labels[b, i, j], i, j] - smoothing * p[b, :, i, j].mean()
             for b, i, j in np.ndindex(*labels.shape) if labels[b, i, j] != 255]
    found = build_loss("cross_entropy", label_smoothing=smoothing)(logits, labels)
    assert found.item() == pytest.approx(np.mean(total), rel=1e-12)


def test_ohem_leaves_out_what_is_easy():
    """Of four pixels with p = 0.9, 0.8, 0.6, 0.2 the last two count; with all easy ones the hardest alone."""
    def logits_of(*p):
        return torch.tensor([[[list(map(math.log, p))], [[math.log(1 - each) for each in p]]]])

    labels = torch.zeros(1, 1, 4, dtype=torch.long)
    loss = build_loss("ohem")
    assert loss(logits_of(0.9, 0.8, 0.6, 0.2), labels).item() == pytest.approx(-np.log([0.6, 0.2]).mean(), rel=1e-6)
    assert loss(logits_of(0.9, 0.95, 0.8, 0.99), labels).item() == pytest.approx(-math.log(0.8), rel=1e-6)


def test_focal_loss_is_finite_where_the_network_is_certain():
    logits = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).requires_grad_()
    loss = build_loss("focal_loss")(logits, torch.tensor([[[0]]]))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.isfinite().all()


def test_count_valid_pixels_counts_labelled_pixels():
    labels = torch.tensor([[[0, 255], [7, 255]], [[255, 255], [255, 3]]])
    assert count_valid_pixels(labels).item() == 3
    assert count_valid_pixels(labels, ignore_index=7).item() == 7
    assert count_valid_pixels(torch.full((1, 2, 2), 255)).item() == 0
    assert count_valid_pixels(labels).dtype == torch.int64 and count_valid_pixels(labels).ndim == 0


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_class_weights_count_pixels_by_their_label(name, pixels):
    logits, labels = pixels
    weights = np.array([0.5, 0.0, 3.0])
    p = probabilities_of(logits.numpy())
    total, count = 0.0, 0
    for b, i, j in np.ndindex(*labels.shape):
        if (label := int(labels[b, i, j])) != 255:
            own = p[b, label, i, j]
            total -= weights[label] * math.log(own) * ((1 - own) ** 2 if name == "focal_loss" else 1)
            count += 1
    loss = build_loss(name, class_weights=torch.tensor(weights))
    assert loss(logits, labels).item() == pytest.approx(total / count, rel=1e-12)
    assert loss(logits, torch.full_like(labels, 255)).item() == 0


def test_the_divergence_of_trades_by_hand_and_its_two_gradients():
    rng = np.random.default_rng(3)
    logits, attacked = (torch.tensor(rng.normal(size=(2, 4, 3, 5)) * 3) for _ in range(2))
    labels = torch.tensor(rng.integers(0, 4, (2, 3, 5)))
    labels[0, :2] = 255
    p, q = (probabilities_of(values.numpy()) for values in (logits, attacked))
    expected = (p * np.log(p / q)).sum(1)[labels.numpy() != 255].mean()
    assert divergence(logits, attacked, labels).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda one, other: divergence(one, other, labels),
                                    (logits.requires_grad_(), attacked.requires_grad_()))
    assert divergence(logits, attacked, torch.full_like(labels, 255)).item() == 0
    assert divergence(logits, logits, labels).item() == pytest.approx(0, abs=1e-12)
    assert divergence(logits.bfloat16(), attacked.bfloat16(), labels).dtype == torch.float32
