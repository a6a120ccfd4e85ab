"""FGSM and PGD against their formulas in NumPy, and the gradient against finite differences."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import FGSM, NORMS, PGD, CosPGD, SegPGD
from attacks.search import Problem


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=255, reduction="none").flatten(1).sum(1)


@pytest.fixture
def linear():
    """A 1x1 network in float64, whose gradient has a closed form: W^T (softmax(W x + b) - onehot)."""
    torch.manual_seed(3)
    return nn.Conv2d(3, 4, 1).double()


@pytest.fixture
def doubles(batch):
    return batch[0].double(), batch[1]


def gradient_in_numpy(linear, x, labels, weigh):
    """Return the gradient [3, H, W] of the weighted sum of the cross-entropy over valid pixels."""
    weight, bias = linear.weight.detach().numpy()[:, :, 0, 0], linear.bias.detach().numpy()
    logits = np.einsum("kc,chw->khw", weight, x) + bias[:, None, None]
    p = np.exp(logits - logits.max(0))
    p /= p.sum(0)
    valid = labels != 255
    onehot = np.where(valid, labels, 0)[None] == np.arange(4)[:, None, None]
    return np.einsum("kc,khw->chw", weight, (p - onehot) * valid * weigh(p, onehot))


def segpgd_in_numpy(t, steps):
    share = (t - 1) / (2 * steps)
    return lambda p, onehot: np.where((p * onehot).sum(0) == p.max(0), 1 - share, share)


WEIGHTS = {  # (t, steps) -> the weights of the pixels
    PGD: lambda t, steps: lambda p, onehot: 1.0,
    SegPGD: segpgd_in_numpy,
    CosPGD: lambda t, steps: lambda p, onehot: (p * onehot).sum(0) / np.sqrt((p**2).sum(0)),
}


def pgd_in_numpy(linear, x, labels, *, start, eps, step, steps, norm, kind=PGD):
    current = start
    for t in range(1, steps + 1):
        g = gradient_in_numpy(linear, current, labels, WEIGHTS[kind](t, steps))
        current = current + step * (np.sign(g) if norm == "linf" else g / np.sqrt((g**2).sum()))
        delta = current - x
        if norm == "linf":
            delta = np.clip(delta, -eps, eps)
        else:
            delta = delta * min(1, eps / np.sqrt((delta**2).sum()))
        current = np.clip(x + delta, 0, 1)
    return current


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.7)])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_pgd_follows_its_formula(kind, linear, doubles, norm, eps, steps):
    images, labels = doubles
    attack = kind(eps=eps, step_size=eps / 3, steps=steps, norm=norm, random_start=False)
    adv_images = attack(linear, images, labels)
    for k in range(3):
        x, y = images[k].numpy(), labels[k].numpy()
        expected = pgd_in_numpy(linear, x, y, start=x, eps=eps, step=eps / 3, steps=steps, norm=norm,
                                kind=kind)
        np.testing.assert_allclose(adv_images[k].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.7)])
def test_fgsm_is_one_step_of_eps_from_the_image(linear, doubles, norm, eps):
    images, labels = doubles
    adv_images = FGSM(eps=eps, norm=norm)(linear, images, labels)
    for k in range(3):
        x, y = images[k].numpy(), labels[k].numpy()
        expected = pgd_in_numpy(linear, x, y, start=x, eps=eps, step=eps, steps=1, norm=norm)
        np.testing.assert_allclose(adv_images[k].numpy(), expected, atol=1e-12)


def test_fgsm_uses_all_of_eps(linear, doubles):
    """A published FGSM moved by eps / 4 only."""
    images, labels = doubles
    delta = (FGSM(eps=8 / 255)(linear, images, labels) - images).abs()
    assert delta.max() == pytest.approx(8 / 255, abs=1e-12)


def test_gradient_agrees_with_finite_differences(toy, doubles):
    """Through the normalisation, up to the factor by which each image's gradient is scaled."""
    toy, (images, labels), h = toy.double(), doubles, 1e-6
    _, gradient = Problem(toy, images, labels).differentiate(images, torch.arange(3), 1, 1)
    for image, places in [(0, [(0, 5, 5), (1, 4, 4), (2, 9, 9)]), (2, [(1, 11, 9), (0, 3, 7), (2, 5, 0)])]:
        slopes = []
        for place in places:
            up, down = images.clone(), images.clone()
            up[image][place] += h
            down[image][place] -= h
            with torch.no_grad():
                rise = (cross_entropy(toy(up), labels) - cross_entropy(toy(down), labels))[image]
            slopes.append(rise.item() / (2 * h))
        found = [gradient[image][place].item() for place in places]
        factor = found[0] / slopes[0]
        assert factor > 0 and found == pytest.approx([factor * slope for slope in slopes], rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_fills_the_ball(norm):
    """With a constant network the result is the random start: uniform in the ball around grey."""
    model = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(model.weight)
    images, eps = torch.full((200, 3, 4, 4), 0.5), 0.2
    labels = torch.zeros(200, 4, 4, dtype=torch.int64)
    delta = PGD(eps=eps, norm=norm, steps=1)(model, images, labels, image_ids=range(200)) - images
    if norm == "linf":
        assert delta.mean().abs() < 4 * eps / np.sqrt(3 * delta.numel()) and delta.abs().max() <= eps
        assert delta.std() == pytest.approx(eps / np.sqrt(3), rel=0.03)
    else:
        radius = delta.flatten(1).norm(dim=1) / eps
        assert radius.max() <= 1 + 1e-6
        # U^(1/n) with n = 48: median 0.5^(1/48) = 0.9857, and a quarter below 0.25^(1/48) = 0.9715
        assert radius.median() == pytest.approx(0.5 ** (1 / 48), abs=0.006)
        assert (radius < 0.25 ** (1 / 48)).float().mean() == pytest.approx(0.25, abs=0.1)


def test_random_start_depends_on_seed_and_id_alone(toy, batch):
    def start(seed, ids, order=(0, 1, 2)):
        attack = PGD(eps=0.1, steps=1, step_size=0.0, seed=seed)
        return attack(toy, batch[0][list(order)], batch[1][list(order)], image_ids=ids)

    reference = start(1, [4, 5, 6])
    torch.manual_seed(99)
    assert torch.equal(start(1, [4, 5, 6]), reference)
    assert torch.equal(start(1, [6, 4, 5], order=(2, 0, 1)), reference[[2, 0, 1]])
    assert not torch.equal(start(2, [4, 5, 6]), reference) and not torch.equal(start(1, [7, 8, 9]), reference)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1.0, 1e30])
def test_an_l2_direction_has_length_one_whatever_the_gradients_scale(scale):
    """The squares of small or large float32 numbers underflow or overflow."""
    gradient = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    gradient[1] = 0
    direction = NORMS["l2"].direction(gradient)
    assert direction[0].norm().item() == pytest.approx(1, rel=1e-5) and (direction[1] == 0).all()


def test_without_ids_the_start_comes_from_torchs_generator(toy, batch):
    attack = PGD(eps=0.1, steps=1)
    torch.manual_seed(0)
    first, second = attack(toy, *batch), attack(toy, *batch)
    torch.manual_seed(0)
    assert torch.equal(attack(toy, *batch), first) and not torch.equal(first, second)


def test_pgd_is_at_least_as_strong_as_fgsm(toy, batch):
    images, labels = batch
    fgsm = cross_entropy(toy(FGSM(eps=0.1)(toy, images, labels)), labels)
    pgd = cross_entropy(toy(PGD(eps=0.1, steps=20, random_start=False)(toy, images, labels)), labels)
    assert (pgd > fgsm).all()


@pytest.mark.parametrize(("kind", "loss"), [(PGD, "ce"), (SegPGD, "segpgd"), (CosPGD, "cospgd")])
def test_settings_describe_the_attack(kind, loss):
    assert kind(eps=0.04, steps=7).settings() == {
        "attack": kind.name, "attack_loss": loss, "norm": "linf", "eps": 0.04, "restarts": 1, "target": None,
        "class_weights": None, "seed": 1, "steps": 7, "step_size": 0.01, "random_start": True, "best_iterate": False}


def test_settings_have_a_seed_only_if_the_attack_is_random():
    assert FGSM(eps=0.04).settings() == {
        "attack": "fgsm", "attack_loss": "ce", "norm": "linf", "eps": 0.04, "restarts": 1, "target": None,
        "class_weights": None, "seed": None, "steps": 1, "step_size": 0.04, "random_start": False,
        "best_iterate": False}
    assert FGSM(eps=0.04, restarts=2, seed=5).settings()["seed"] == 5
    assert PGD(eps=0.04, random_start=False, seed=5).settings()["seed"] is None
    assert repr(FGSM(eps=0.04)).startswith("FGSM(attack=fgsm, attack_loss=ce, norm=linf, eps=0.04")
    weighted = PGD(eps=0.04, attack_loss="mce_bal", class_weights=torch.tensor([0.25, 0.75]))
    assert weighted.settings()["class_weights"] == [0.25, 0.75]


@pytest.mark.parametrize("settings", [{"steps": 0}, {"step_size": -0.1}, {"step_size": float("nan")},
                                      {"restarts": 0}, {"attack_loss": "dice"}, {"attack_loss": "mce_bal"}])
def test_invalid_settings_are_errors(settings):
    with pytest.raises(ValueError, match=next(iter(settings)) + "|class_weights"):
        PGD(eps=0.1, **settings)
