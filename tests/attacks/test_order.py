"""On a network that has learnt something: what must be stronger than what."""
import pytest
import torch

from attacks import APGD, ATTACKS, NORMS, PGD, AllLosses, CosPGD, SegPGD, Square, build_attack, takes

pytestmark = pytest.mark.slow
EPS = {"linf": 12 / 255, "l2": 1.2}
WEIGHTS = [0.1, 0.2, 0.3, 0.4]
EVERY_NORM = pytest.mark.parametrize("norm", list(NORMS))


@pytest.fixture
def accuracy(trained, right):
    """A function attack -> share of pixels right under it; None for no attack."""
    model, images, labels = trained

    def measure(attack, start=None):
        if attack is not None:
            attacked = attack(model, images, labels, image_ids=range(6), start=start)
        return (right(model, attacked if attack else images, labels).sum() / (labels != 255).sum()).item()

    return measure


def attack_of(name, norm, **settings):
    return build_attack(name, **{"eps": EPS[norm], "norm": norm, "steps": 20, "class_weights": WEIGHTS, **settings})


@EVERY_NORM
def test_noise_then_one_step_then_many(norm, accuracy):
    clean, noise, fgsm, pgd, more = (accuracy(attack) for attack in (
        None, attack_of("noise", norm), attack_of("fgsm", norm), attack_of("pgd", norm),
        attack_of("pgd", norm, steps=40)))
    assert clean > 0.9
    assert clean >= noise > fgsm + 0.1
    assert fgsm > pgd + 0.03 and pgd >= more - 0.01


@EVERY_NORM
def test_losses_made_for_segmentation_beat_cross_entropy(norm, accuracy):
    """At equal steps, under one optimiser; in linf all but mce on every network that was tried, mce on most."""
    plain = accuracy(attack_of("apgd", norm))
    for loss in ("segpgd", "mce", "cospgd", "js", "tsallis"):
        assert accuracy(attack_of("apgd", norm, attack_loss=loss)) < plain - (0.05 if norm == "l2" else 0.01)
    plain = accuracy(PGD(eps=EPS[norm], norm=norm, steps=20))
    for kind in (SegPGD, CosPGD):
        assert accuracy(kind(eps=EPS[norm], norm=norm, steps=20)) < plain


@pytest.mark.parametrize(("name", "norm"), [("sea", "l2"), ("ensemble", "linf"), ("noise", "linf")])
def test_an_ensemble_is_the_lowest_of_its_members_image_by_image(name, norm, trained, right):
    model, images, labels = trained
    attack = attack_of(name, norm)
    members = [right(model, member(model, images, labels, image_ids=range(6)), labels) for member in attack.members]
    assert torch.equal(right(model, attack(model, images, labels, image_ids=range(6)), labels),
                       torch.stack(members).amin(0))


def test_the_black_box_control_is_between_noise_and_gradients(accuracy):
    square = accuracy(Square(eps=EPS["linf"], steps=300))
    assert accuracy(attack_of("noise", "linf")) > square > accuracy(attack_of("apgd", "linf")) + 0.1


@EVERY_NORM
def test_balanced_accuracy_falls_most_to_the_balanced_loss(norm, trained, right):
    """With weights far from equal, that is; by pixels it is the weaker one."""
    model, images, labels = trained
    weights = [0.85, 0.05, 0.05, 0.05]
    plain, balanced = (APGD(eps=EPS[norm], norm=norm, steps=20, attack_loss=loss, class_weights=weights)(
        model, images, labels, image_ids=range(6)) for loss in ("mce", "mce_bal"))
    assert right(model, balanced, labels, weights).sum() < right(model, plain, labels, weights).sum()
    assert right(model, balanced, labels).sum() > right(model, plain, labels).sum()


@pytest.mark.parametrize("name", [name for name in ATTACKS if takes(name, "eps") and name not in ("noise", "sea")])
def test_larger_radii_break_more_and_a_large_one_everything(name, accuracy):
    found = [accuracy(attack_of(name, "linf", eps=eps / 255, steps=100 if name == "square" else 10))
             for eps in (0, 3, 12)]
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 0.05
    if name not in ("fgsm", "square"):
        assert accuracy(attack_of(name, "linf", eps=1.0)) <= (0 if name == "ensemble" else 0.05)


@EVERY_NORM
def test_red_eps_helps_in_l2_and_does_not_hurt_in_linf(norm, accuracy):
    plain, red_eps = (accuracy(attack_of("apgd", norm, attack_loss="js", steps=40, red_eps=flag))
                      for flag in (False, True))
    assert red_eps <= plain + (0.01 if norm == "linf" else -0.01)


def test_all_losses_are_no_weaker_than_seas_three(accuracy):
    every = accuracy(AllLosses(eps=EPS["linf"], steps=20, class_weights=WEIGHTS))
    assert every <= accuracy(attack_of("sea", "linf"))
