"""Targeted attacks: towards a class or a label map."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import APGD, FGSM, LOSSES, PGD, CosPGD, SegPGD, build_attack

EPS = {"linf": 8 / 255, "l2": 1.0}
WHITE_BOX = [FGSM, PGD, SegPGD, CosPGD, APGD]
LOSS_BY_LOSS = [name for name, loss in LOSSES.items() if loss.targeted_log_weight]
EVERY_NORM = pytest.mark.parametrize("norm", EPS)


def attack_of(kind, norm="linf", **settings):
    return kind(**{"eps": EPS[norm], "norm": norm, **({} if kind is FGSM else {"steps": 10}), **settings})


def at(model, images, target, labels):
    """Count each image's valid pixels that are predicted as the target."""
    with torch.no_grad():
        return ((model(images).argmax(1) == target) & (labels != 255)).flatten(1).sum(1)


def loss(model, images, labels):
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, ignore_index=255, reduction="none").flatten(1).sum(1)


@EVERY_NORM
@pytest.mark.parametrize("kind", WHITE_BOX)
@pytest.mark.parametrize("target", [1, 3])
def test_predictions_move_to_a_class(target, kind, norm, trained):
    model, images, labels = trained
    found = attack_of(kind, norm, target=target)(model, images, labels, image_ids=range(6))
    before, after = at(model, images, target, labels), at(model, found, target, labels)
    assert (after >= before).all() and after.sum() > 1.1 * before.sum()
    away = attack_of(kind, norm)(model, images, labels, image_ids=range(6))
    assert at(model, away, target, labels).sum() < after.sum()


@EVERY_NORM
@pytest.mark.parametrize("name", LOSS_BY_LOSS)
def test_every_targeted_loss_moves_them(name, norm, trained):
    model, images, labels = trained
    for kind in (PGD, APGD):
        found = attack_of(kind, norm, target=2, attack_loss=name)(model, images, labels, image_ids=range(6))
        assert at(model, found, 2, labels).sum() > 1.1 * at(model, images, 2, labels).sum()


@EVERY_NORM
@pytest.mark.parametrize("kind", WHITE_BOX)
def test_predictions_move_to_a_map(kind, norm, trained):
    model, images, labels = trained
    target = (torch.arange(16).view(16, 1) // 4).expand(16, 16)
    found = attack_of(kind, norm, target=target)(model, images, labels, image_ids=range(6))
    before, after = at(model, images, target, labels), at(model, found, target, labels)
    assert (after >= before).all() and after.sum() > 1.1 * before.sum()


@EVERY_NORM
@pytest.mark.parametrize("kind", WHITE_BOX)
def test_a_target_equal_to_the_labels_lowers_the_loss(kind, norm, trained):
    """Checks the sign: the same steps lower the loss if the target equals the labels."""
    model, images, labels = trained
    for k in range(4):
        x, y = images[k:k + 1], labels[k:k + 1]
        settings = {"eps": EPS[norm] / 8, **({} if kind is FGSM else {"random_start": False})}
        found = attack_of(kind, norm, target=torch.where(y[0] == 255, 0, y[0]), **settings)(model, x, y)
        assert loss(model, found, y) < loss(model, x, y)
        found = attack_of(kind, norm, **settings)(model, x, y)
        assert loss(model, found, y) > loss(model, x, y)


@pytest.mark.parametrize("name", LOSS_BY_LOSS)
def test_a_map_of_one_class_is_that_class(name, trained):
    model, images, labels = trained
    one, other = (attack_of(PGD, target=target, attack_loss=name)(model, images, labels, image_ids=range(6))
                  for target in (3, torch.full((16, 16), 3)))
    assert torch.equal(one, other)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", WHITE_BOX)
def test_void_pixels_are_not_attacked(kind, norm, batch):
    """In a 1x1 network pixels are independent. A published attack moves void pixels to class 1."""
    torch.manual_seed(0)
    model, (images, labels) = nn.Conv2d(3, 4, 1), batch
    for target in (1, torch.arange(120).view(12, 10) % 4):
        settings = {} if kind is FGSM else {"random_start": False, "steps": 4}
        found = attack_of(kind, norm, target=target, **settings)(model, images, labels)
        moved = (found != images).any(1)
        assert not moved[labels == 255].any() and moved[labels != 255].float().mean() > 0.5


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_the_best_iterate_is_the_one_with_most_pixels_at_the_target(kind, smooth, queries):
    """Of equal iterates the last; an image with all pixels at the target no longer changes."""
    done = 0
    for seed in range(8):
        model, images, labels = smooth(seed, images=1)
        asked = queries(model)
        settings = {} if kind is APGD else {"best_iterate": True, "step_size": 0.06}
        attack = kind(eps=0.06, steps=9, target=seed % 4, **settings)
        found = attack(model, images, labels, image_ids=[0])
        points = [*asked]
        counts = [at(model, point, seed % 4, labels).item() for point in points]
        last = max(k for k in range(len(points)) if counts[k] == max(counts))
        assert torch.equal(found, points[last])
        whole = max(counts) == (labels != 255).sum()
        assert len(points) == 10 or whole
        done += last < len(points) - 1
    assert done >= 1


def test_an_image_at_the_target_is_not_changed(smooth):
    model, images, labels = smooth(0)
    with torch.no_grad():
        target = model(images[:1]).argmax(1)[0]
    outcome = PGD(eps=0.03, steps=5, random_start=False, target=target).run(model, images, labels)
    assert torch.equal(outcome.images[0], images[0]) and outcome.forwards.tolist() == [1, 5, 5]
    assert (outcome.images[1:] != images[1:]).flatten(1).any(1).all()


@pytest.mark.parametrize("norm", EPS)
def test_restarts_and_starts_are_compared_by_pixels_at_the_target(norm, smooth):
    better = 0
    for seed in range(4):
        model, images, labels = smooth(seed)
        one, four = (PGD(eps=EPS[norm] / 2, norm=norm, steps=2, target=1, restarts=k)(
            model, images, labels, image_ids=range(3)) for k in (1, 4))
        assert (at(model, four, 1, labels) >= at(model, one, 1, labels)).all()
        better += (at(model, four, 1, labels) > at(model, one, 1, labels)).sum().item()
        strong = APGD(eps=EPS[norm] / 2, norm=norm, steps=30, target=1)(model, images, labels)
        kept = FGSM(eps=EPS[norm] / 2, norm=norm, target=1)(model, images, labels, start=strong)
        assert (at(model, kept, 1, labels) >= at(model, strong, 1, labels)).all()
    assert better > 0


def test_a_map_of_another_shape_is_an_error(batch, toy):
    for shape in ((10, 12), (3, 12, 10), (1, 12, 10), (12, 10, 1), (10,)):
        with pytest.raises(ValueError, match="the target map is"):
            PGD(eps=0.1, target=torch.zeros(shape, dtype=torch.int64))(toy, *batch)


def test_a_class_that_the_network_does_not_have_is_an_error(batch, toy):
    """Otherwise every pixel would count as void, and the attack would do nothing."""
    for target in (4, -1, 255):
        with pytest.raises(ValueError, match="target"):
            PGD(eps=0.1, target=target)(toy, *batch)


def test_pixels_with_255_in_the_map_are_ignored(batch):
    torch.manual_seed(0)
    model, (images, labels) = nn.Conv2d(3, 4, 1), batch
    target = torch.full((12, 10), 2)
    target[6:] = 255
    found = PGD(eps=0.1, target=target, random_start=False)(model, images, labels)
    moved = (found != images).any(1)
    assert not moved[:, 6:].any() and moved[:, 2:6, 4:].float().mean() > 0.9


@pytest.mark.parametrize("kind", WHITE_BOX)
@pytest.mark.parametrize("name", ["mce", "mce_bal", "mce_even", "blend", "blend_late"])
def test_losses_of_correct_pixels_have_no_targeted_form(name, kind):
    for target in (0, 1, torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=f"{name} .* no targeted form"):
            kind(eps=0.1, target=target, attack_loss=name, class_weights=[0.5, 0.5])


@pytest.mark.parametrize("name", ["sea", "ensemble", "race", "min_radius", "square", "noise"])
def test_untargeted_attacks_reject_a_target(name):
    """They must not ignore it."""
    with pytest.raises(ValueError, match="target"):
        build_attack(name, eps=0.1, target=1, class_weights=[0.5, 0.5])


def test_different_targets_have_different_settings():
    maps = [torch.zeros(4, 4, dtype=torch.int64), torch.eye(4, dtype=torch.int64)]
    names = [PGD(eps=0.1, target=target).settings()["target"] for target in (None, 0, 3, *maps)]
    assert names[:3] == [None, 0, 3] and len(set(map(str, names))) == 5
    assert PGD(eps=0.1, target=maps[1].int()).settings()["target"] == names[4]
