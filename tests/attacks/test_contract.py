"""Properties of every attack in ATTACKS."""
import ast
import copy
import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import attacks
from attacks import ATTACKS, NORMS, build_attack, takes

EPS = {"linf": 4 / 255, "l2": 0.5}
WEIGHTS = [0.1, 0.2, 0.3, 0.4]
GRADIENT_FREE = ("square", "noise")
EVERY_ATTACK = pytest.mark.parametrize("name", list(ATTACKS))
# square supports linf only; ensemble is sea with three more losses, so one norm is enough
CASES = [(name, norm) for name in ATTACKS for norm in NORMS if norm == "linf" or name not in ("square", "ensemble")]


def each_of(cases):
    """Attacks of many members take seconds a test."""
    return pytest.mark.parametrize(("name", "norm"), [
        pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in ("sea", "ensemble"))) for case in cases])


EVERY_CASE = each_of(CASES)
WHITE_BOX = each_of([case for case in CASES if case[0] not in GRADIENT_FREE])


def attack_of(name, norm="linf", eps=None, **settings):
    """Of min_radius, which finds its own radius, eps is the largest one; it gets steps to reach that."""
    eps = EPS.get(norm, 0.1) if eps is None else eps
    return build_attack(name, **{"eps": eps, "max_eps": eps, "norm": norm, "steps": 40 if name == "min_radius" else 4,
                                 "class_weights": WEIGHTS, **settings})


def lengths(delta, norm):
    delta = delta.double().flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


@EVERY_CASE
def test_images_stay_images_within_eps(name, norm, toy, batch):
    images, labels = batch
    given = images.clone(), labels.clone()
    adv_images = attack_of(name, norm)(toy, images, labels)
    assert adv_images.shape == images.shape and adv_images.dtype == images.dtype
    assert adv_images is not images and torch.equal(images, given[0]) and torch.equal(labels, given[1])
    assert adv_images.min() >= 0 and adv_images.max() <= 1
    assert (lengths(adv_images.double() - images.double(), norm) <= EPS[norm] * (1 + 1e-6)).all()


@EVERY_ATTACK
@pytest.mark.parametrize("quarter", [0.25, 0.5, 1, 8])
def test_linf_never_exceeds_eps_by_rounding(name, quarter, toy, batch):
    """x + eps is rounded: without a correction a pixel can be up to 6e-5 eps outside."""
    images, labels = batch
    adv_images = attack_of(name, eps=quarter / 255)(toy, images, labels)
    assert (adv_images.double() - images.double()).abs().max() <= quarter / 255


@EVERY_CASE
def test_results_are_detached(name, norm, toy, batch):
    images, labels = batch
    images.requires_grad_(True)
    outcome = attack_of(name, norm).run(toy, images, labels, start=images * 1.0)
    assert not outcome.images.requires_grad and images.grad is None
    assert not attack_of(name, norm)(toy, images, labels).requires_grad


@EVERY_ATTACK
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_keep_their_precision(name, dtype, toy, batch):
    images = batch[0].to(dtype)
    adv_images = attack_of(name)(toy.to(dtype), images, batch[1], image_ids=range(3))
    assert adv_images.dtype == dtype and (adv_images.double() - images.double()).abs().max() <= EPS["linf"]
    assert (adv_images != images).any()


@each_of([case for case in CASES if takes(case[0], "eps")])
def test_the_full_radius_is_used(name, norm, toy, batch):
    images, labels = batch
    adv_images = attack_of(name, norm)(toy, images, labels, image_ids=range(3))
    assert (lengths(adv_images.double() - images.double(), norm) > 0.5 * EPS[norm]).all()


@WHITE_BOX
def test_loss_rises(name, norm, toy, batch):
    images, labels = batch
    adv_images = attack_of(name, norm)(toy, images, labels, image_ids=range(3))
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    assert criterion(toy(adv_images), labels) > criterion(toy(images), labels)


@EVERY_CASE
def test_model_is_left_as_it_was(name, norm, toy, batch):
    toy.train()
    toy.body[1].eval()  # mixed flags, as with a frozen BatchNorm
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
        attack_of(name)(toy, *batch)
    assert all(module.training for module in toy.modules()) and all(p.requires_grad for p in toy.parameters())


@EVERY_CASE
def test_the_model_runs_in_eval_mode_without_parameter_gradients(name, norm, toy, batch):
    toy.train()
    asked = []
    toy.body[0].register_forward_hook(lambda module, *_: asked.append(
        (module.training, module.weight.requires_grad and torch.is_grad_enabled())))
    attack_of(name, norm)(toy, *batch)
    assert asked and set(asked) == {(False, False)}


@EVERY_CASE
def test_reported_passes_equal_the_model_calls(name, norm, toy, batch, queries):
    asked, graphs = queries(toy), []
    toy.register_forward_hook(lambda module, args, logits: graphs.append(logits.requires_grad))
    for settings in ({}, {"restarts": 2}):
        outcome = attack_of(name, norm, **settings).run(toy, *batch, start=batch[0] if settings else None)
        sizes = torch.tensor([len(points) for points in asked])
        assert outcome.forwards.dtype == outcome.backwards.dtype == torch.int64
        assert outcome.forwards.sum() == sizes.sum() and outcome.backwards.sum() == sizes[torch.tensor(graphs)].sum()
        assert (outcome.backwards.sum() == 0) == (name in GRADIENT_FREE)
        asked.clear(), graphs.clear()


@EVERY_ATTACK
def test_works_under_no_grad(name, toy, batch):
    with torch.no_grad():
        adv_images = attack_of(name)(toy, *batch, image_ids=range(3))
    assert torch.equal(adv_images, attack_of(name)(toy, *batch, image_ids=range(3)))


@EVERY_CASE
def test_eps_zero_returns_the_images_bit_for_bit(name, norm, toy, batch):
    assert torch.equal(attack_of(name, norm, eps=0.0)(toy, *batch), batch[0])
    assert torch.equal(attack_of(name, norm, eps=0.0, restarts=2)(toy, *batch, start=batch[0] / 2), batch[0])


@WHITE_BOX
def test_labels_of_void_pixels_have_no_effect(name, norm, batch):
    """In a 1x1 network pixels are independent: void pixels must not move."""
    torch.manual_seed(0)
    model, (images, labels) = nn.Conv2d(3, 4, 1), batch
    with torch.no_grad():
        labels = torch.where(labels == 255, 255, model(images).argmax(1))  # all correct: every pixel is attacked
    adv_images = attack_of(name, norm)(model, images, labels, start=images)
    moved = (adv_images != images).any(dim=1)
    inside = ((images > 0) & (images < 1)).all(dim=1)  # a black or white pixel may be unable to move
    assert not moved[labels == 255].any() and moved[(labels != 255) & inside].all()


@EVERY_CASE
def test_any_label_outside_the_classes_counts_as_void(name, norm, toy, batch):
    images, labels = batch
    odd = labels.clone()
    odd[labels == 255] = torch.tensor([-1, 4, 254, 255]).repeat(12)
    attack = attack_of(name, norm)
    ids = range(3)
    assert torch.equal(attack(toy, images, odd, image_ids=ids), attack(toy, images, labels, image_ids=ids))


@EVERY_CASE
def test_an_all_void_image_is_finite_and_not_attacked(name, norm, toy, batch, queries):
    """After one pass the image is inactive and stays at its starting point."""
    images, labels = batch
    nothing, asked = torch.full_like(labels, 255), queries(toy)
    attack = attack_of(name, norm)
    assert torch.equal(attack(toy, images, nothing, start=images), images)
    assert len(asked) == (2 * len(attack.members) or 1)  # an ensemble also evaluates each member's result
    assert torch.isfinite(attack(toy, images, nothing)).all()
    labels = torch.stack([nothing[0], labels[1], labels[2]])
    mixed = attack(toy, images, labels, image_ids=range(3), start=images)
    assert torch.equal(mixed[0], images[0])
    assert name == "noise" or (mixed[1:] != images[1:]).flatten(1).any(1).all()


@EVERY_CASE
def test_the_result_for_an_image_does_not_depend_on_its_batch(name, norm, toy, batch):
    restarts = 1 if name in ("sea", "ensemble") else 2
    toy, images, labels = toy.double(), batch[0].double(), batch[1]
    attack = attack_of(name, norm, restarts=restarts)
    together = attack(toy, images, labels, image_ids=[7, 8, 9])
    order = [2, 0, 1]
    torch.manual_seed(9)  # has no effect on numbers drawn with ids
    shuffled = attack(toy, images[order], labels[order], image_ids=[9, 7, 8])
    alone = torch.cat([attack(toy, images[k:k + 1], labels[k:k + 1], image_ids=[7 + k]) for k in range(3)])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


@EVERY_CASE
def test_another_seed_or_id_changes_the_random_numbers(name, norm, toy, batch):
    def found(seed, ids):
        return attack_of(name, norm, seed=seed)(toy, *batch, image_ids=ids)

    one = found(1, range(3))
    assert torch.equal(found(1, range(3)), one)
    if name not in ("fgsm", "min_radius"):  # start at the image
        assert not torch.equal(found(2, range(3)), one) and not torch.equal(found(1, range(3, 6)), one)


@EVERY_CASE
def test_memory_format_does_not_matter(name, norm, toy, batch):
    toy, images = toy.double(), batch[0].double()
    attack = attack_of(name, norm)
    other = attack(toy, images.contiguous(memory_format=torch.channels_last), batch[1], image_ids=range(3))
    torch.testing.assert_close(other, attack(toy, images, batch[1], image_ids=range(3)), rtol=0, atol=1e-12)


@EVERY_CASE
@pytest.mark.parametrize("factor", [1e4, 1e30])
def test_extreme_logits_stay_finite(factor, name, norm, toy, batch):
    with torch.no_grad():
        toy.body[4].weight.mul_(factor)
    adv_images = attack_of(name, norm)(toy, *batch)
    assert torch.isfinite(adv_images).all() and (adv_images != batch[0]).any()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in GRADIENT_FREE])
def test_a_confident_network_is_no_more_robust(name, batch):
    """Logits times 1000 predict the same, but their fp32 softmax has a zero gradient at most pixels."""
    torch.manual_seed(0)
    model, images = nn.Conv2d(3, 4, 1), batch[0]
    with torch.no_grad():
        labels = model(images).argmax(1)
    wrong = []
    for factor in (1, 100, 10):
        with torch.no_grad():
            model.weight.mul_(factor), model.bias.mul_(factor)
        adv_images = attack_of(name)(model, images, labels, start=images)
        wrong.append((model(adv_images).argmax(1) != labels).sum().item())
    assert wrong[0] > 0 and min(wrong) >= 0.9 * wrong[0]
    leads = model(images).topk(2, dim=1).values
    assert ((leads[:, 0] - leads[:, 1]) > 104).float().mean() > 0.6


@EVERY_ATTACK
def test_a_model_that_gives_nan_is_an_error(name, toy, batch):
    """Noise too runs the model, to choose the worse of its two kinds."""
    with torch.no_grad():
        toy.body[4].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        attack_of(name)(toy, *batch)
    assert not any(module.training for module in toy.modules()) and all(p.requires_grad for p in toy.parameters())


@WHITE_BOX
def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_attack(name, norm, toy, batch):
    """The logits are finite, but the derivative of the square root at 0 is not."""
    class Kinked(nn.Module):
        def forward(self, images):
            return toy(images) + (images * 0).sum(1, keepdim=True).sqrt()

    kind = "APGD" if attack_of(name).members else type(attack_of(name)).__name__
    with pytest.raises(FloatingPointError, match=rf"{kind}\(attack=.*norm={norm}.*: the gradient is not finite"):
        attack_of(name, norm)(Kinked(), *batch)


@EVERY_ATTACK
def test_errors_name_the_invalid_input(name, toy, batch):
    images, labels = batch
    attack = attack_of(name)
    with pytest.raises(ValueError, match="not normalised"):
        attack(toy, (images - 0.45) / 0.22, labels)
    with pytest.raises(ValueError, match="not normalised"):
        attack(toy, images * float("nan"), labels)
    with pytest.raises(ValueError, match=r"labels must be \[B, H, W\]"):
        attack(toy, images, labels[:, None])
    with pytest.raises(ValueError, match="float"):
        attack(toy, images.mul(255).byte(), labels)
    with pytest.raises(ValueError, match="choose from linf, l2|linf norm only"):
        attack_of(name, "l1")
    for eps in (-0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eps"):
            attack_of(name, eps=eps)
    if takes(name, "restarts"):
        with pytest.raises(ValueError, match="restarts 0"):
            attack_of(name, restarts=0)


@EVERY_ATTACK
def test_errors_name_ids_and_starts_that_do_not_fit_the_batch(name, toy, batch):
    """A single id would be broadcast and give all images the same random numbers."""
    for ids in ([1], [1, 2], [1, 2, 3, 4]):
        if name != "fgsm":  # draws nothing
            with pytest.raises(ValueError, match="image_ids"):
                attack_of(name)(toy, *batch, image_ids=ids)
    for start in (batch[0][:1], batch[0][:2], batch[0][:, :, 1:]):
        with pytest.raises(ValueError, match="start"):
            attack_of(name)(toy, *batch, start=start)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_errors_name_class_weights_of_the_wrong_length(count, toy, batch):
    for name in ("sea", "apgd"):
        with pytest.raises(ValueError, match="class_weights"):
            attack_of(name, attack_loss="mce_bal", class_weights=[1 / count] * count)(toy, *batch)


SETTINGS = [{"restarts": 2, "seed": 9}, {"steps": 5}, {"attack_loss": "mce_bal"}, {"target": 2},
            {"random_start": False}, {"best_iterate": True, "step_size": 0.007}, {"red_eps": True, "steps": 7},
            {"race_aim": "miou"}, {"min_radius_share": 0.5}]


@pytest.mark.parametrize(("name", "settings"), [
    (name, settings) for name in ATTACKS for settings in [{}, *SETTINGS]
    if set(settings) <= set(inspect.signature(ATTACKS[name]).parameters)])
def test_settings_determine_the_result(name, settings, toy, batch):
    """Read back from JSON, they build the same attack again."""
    for norm in ("linf",) if name == "square" else NORMS:
        attack = attack_of(name, norm, **settings)
        read = json.loads(json.dumps(attack.settings()))
        assert read["attack"] == name and read["norm"] == norm and read["eps"] == EPS[norm]
        arguments = {"attack": "name", "eps": "eps" if takes(name, "eps") else "max_eps"}
        again = build_attack(**{arguments.get(key, key): value for key, value in read.items()})
        assert json.loads(json.dumps(again.settings())) == read
        assert torch.equal(again(toy, *batch, image_ids=range(3)), attack(toy, *batch, image_ids=range(3)))


@EVERY_ATTACK
def test_different_attacks_have_different_settings(name):
    default = attack_of(name).settings()
    for change in ({"eps": 0.02}, {"restarts": 3}, {"seed": 2, "restarts": 2}, {"norm": "l2"}, {"steps": 9}):
        if (name, change) in [("square", {"norm": "l2"}), ("fgsm", {"steps": 9}), ("noise", {"steps": 9})]:
            continue
        if "restarts" in change and not takes(name, "restarts"):
            continue
        assert attack_of(name, **change).settings() != default
    others = [attack_of(other).settings() for other in ATTACKS if other != name]
    assert default not in others


def test_members_have_different_settings():
    """Records are stored per member, by its settings."""
    for name in ATTACKS:
        settings = [json.dumps(member.settings()) for member in attack_of(name).members]
        assert len(set(settings)) == len(settings)
        assert len(set(attack_of(name).settings().get("members", []))) == len(settings)


def test_the_error_for_an_unknown_attack_lists_the_known_ones():
    with pytest.raises(ValueError, match="fgsm, pgd"):
        build_attack("psd", eps=0.1)


def test_a_setting_of_none_keeps_the_default():
    settings = build_attack("pgd", eps=0.1, steps=None, step_size=None, norm=None, attack_loss=None).settings()
    assert settings == ATTACKS["pgd"](eps=0.1).settings()


@pytest.mark.parametrize(("module", "name"), [(attacks, "ATTACKS"), (attacks.losses, "LOSSES"),
                                              (attacks.norms, "NORMS")])
def test_the_names_can_be_read_without_importing_torch(module, name):
    """Each registry is a dict literal, so that a parser of flags needs only the source."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    registry, = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == name)
    assert [ast.literal_eval(key) for key in registry.keys] == list(getattr(module, name))
