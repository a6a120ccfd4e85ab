"""What every attack in ATTACKS promises, whatever its method."""
import copy

import pytest
import torch
from torch import nn

from attacks import ATTACKS, NORMS, build_attack

EVERY_ATTACK = pytest.mark.parametrize("name", list(ATTACKS))
EVERY_NORM = pytest.mark.parametrize("norm", list(NORMS))
EPS = {"linf": 4 / 255, "l2": 0.5}


def attack_of(name, norm, **settings):
    return build_attack(name, **{"eps": EPS.get(norm, 0.1), "norm": norm, "steps": 4, **settings})


def lengths(delta, norm):
    delta = delta.double().flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


@EVERY_ATTACK
@EVERY_NORM
def test_images_stay_images_within_eps(name, norm, toy, batch):
    images, labels = batch
    adv_images = attack_of(name, norm)(toy, images, labels)
    assert adv_images.shape == images.shape and adv_images.dtype == images.dtype
    assert not adv_images.requires_grad and adv_images is not images
    assert adv_images.min() >= 0 and adv_images.max() <= 1
    assert (lengths(adv_images.double() - images.double(), norm) <= EPS[norm] * (1 + 1e-6)).all()


@EVERY_ATTACK
@pytest.mark.parametrize("quarter", [0.25, 0.5, 1, 8])
def test_linf_never_passes_eps_by_a_float(name, quarter, toy, batch):
    """x + eps rounds; without care a pixel ends up to 6e-5 eps outside."""
    images, labels = batch
    adv_images = build_attack(name, eps=quarter / 255, steps=4)(toy, images, labels)
    assert (adv_images.double() - images.double()).abs().max() <= quarter / 255


@EVERY_ATTACK
@EVERY_NORM
def test_loss_rises_by_using_the_radius(name, norm, toy, batch):
    images, labels = batch
    adv_images = attack_of(name, norm)(toy, images, labels)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    assert criterion(toy(adv_images), labels) > criterion(toy(images), labels)
    assert (lengths(adv_images.double() - images.double(), norm) > 0.5 * EPS[norm]).all()


@EVERY_ATTACK
@EVERY_NORM
def test_model_is_left_as_it_was(name, norm, toy, batch):
    toy.train()
    toy.body[1].eval()  # mixed flags, as of a frozen BatchNorm
    toy.body[0].weight.requires_grad_(False)
    toy.body[4].bias.grad = torch.full_like(toy.body[4].bias, 3.0)
    before, flags = copy.deepcopy(toy.state_dict()), [module.training for module in toy.modules()]
    attack_of(name, norm)(toy, *batch)
    assert all(torch.equal(value, before[key]) for key, value in toy.state_dict().items())
    assert [module.training for module in toy.modules()] == flags
    assert [p.requires_grad for p in toy.parameters()] == [False, True, True, True, True, True]
    assert [p.grad is None for p in toy.parameters()] == [True] * 5 + [False]
    assert (toy.body[4].bias.grad == 3).all()


@EVERY_ATTACK
def test_model_is_left_as_it_was_after_an_error(name, toy, batch):
    toy.train()
    toy.body[4].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        attack_of(name, "linf")(toy, *batch)
    assert all(module.training for module in toy.modules()) and all(p.requires_grad for p in toy.parameters())


@EVERY_ATTACK
def test_no_parameter_gradient_is_ever_computed(name, toy, batch):
    asked = []
    toy.body[0].register_forward_hook(lambda module, *_: asked.append(module.weight.requires_grad))
    attack_of(name, "linf")(toy, *batch)
    assert asked and not any(asked)


@EVERY_ATTACK
def test_works_under_no_grad(name, toy, batch):
    with torch.no_grad():
        adv_images = attack_of(name, "linf")(toy, *batch)
    assert (adv_images != batch[0]).any()


@EVERY_ATTACK
@EVERY_NORM
def test_eps_zero_gives_the_images_back_bit_for_bit(name, norm, toy, batch):
    assert torch.equal(attack_of(name, norm, eps=0.0)(toy, *batch), batch[0])


@EVERY_ATTACK
def test_void_pixels_are_never_read(name, batch):
    """With a 1x1 network a pixel's gradient is its own: where the label is void, nothing may push."""
    torch.manual_seed(0)
    model, (images, labels) = nn.Conv2d(3, 4, 1), batch
    settings = {"random_start": False} if name != "fgsm" else {}
    adv_images = attack_of(name, "linf", **settings)(model, images, labels)
    moved = (adv_images != images).any(dim=1)
    inside = ((images > 0) & (images < 1)).all(dim=1)  # a black or white pixel may have nowhere to go
    assert not moved[labels == 255].any() and moved[(labels != 255) & inside].all()


@EVERY_ATTACK
def test_any_label_that_is_no_class_counts_as_void(name, toy, batch):
    images, labels = batch
    odd = labels.clone()
    odd[labels == 255] = torch.tensor([-1, 4, 254, 255]).repeat(12)
    attack = attack_of(name, "linf")
    ids = range(3)
    assert torch.equal(attack(toy, images, odd, image_ids=ids), attack(toy, images, labels, image_ids=ids))


@EVERY_ATTACK
@EVERY_NORM
def test_all_void_image_is_finite_and_unpushed(name, norm, toy, batch):
    images, labels = batch
    settings = {"random_start": False} if name != "fgsm" else {}
    adv_images = attack_of(name, norm, **settings)(toy, images, torch.full_like(labels, 255))
    assert torch.equal(adv_images, images)


@EVERY_ATTACK
@EVERY_NORM
def test_an_image_is_attacked_alike_alone_and_in_any_batch(name, norm, toy, batch):
    toy, images, labels = toy.double(), batch[0].double(), batch[1]
    attack = attack_of(name, norm)
    together = attack(toy, images, labels, image_ids=[7, 8, 9])
    order = [2, 0, 1]
    shuffled = attack(toy, images[order], labels[order], image_ids=[9, 7, 8])
    alone = torch.cat([attack(toy, images[k:k + 1], labels[k:k + 1], image_ids=[7 + k]) for k in range(3)])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


@EVERY_ATTACK
def test_extreme_logits_stay_finite(name, toy, batch):
    with torch.no_grad():
        toy.body[4].weight.mul_(1e4)
    assert torch.isfinite(attack_of(name, "linf")(toy, *batch)).all()


@EVERY_ATTACK
def test_a_model_that_gives_nan_is_an_error(name, toy, batch):
    with torch.no_grad():
        toy.body[4].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        attack_of(name, "linf")(toy, *batch)


@EVERY_ATTACK
def test_wrong_inputs_are_named(name, toy, batch):
    images, labels = batch
    attack = attack_of(name, "linf")
    with pytest.raises(ValueError, match="not normalised"):
        attack(toy, (images - 0.45) / 0.22, labels)
    with pytest.raises(ValueError, match=r"labels must be \[B, H, W\]"):
        attack(toy, images, labels[:, None])
    with pytest.raises(ValueError, match="float"):
        attack(toy, images.mul(255).byte(), labels)
    with pytest.raises(ValueError, match="known are linf, l2"):
        attack_of(name, "l1")
    for eps in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="eps"):
            attack_of(name, "linf", eps=eps)


def test_unknown_attack_lists_the_known():
    with pytest.raises(ValueError, match="fgsm, pgd"):
        build_attack("psd", eps=0.1)
