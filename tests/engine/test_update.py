"""One training step: however the batch is cut it is the same step; attacks leave no trace; what is measured is true."""
import math

import pytest
import torch
from torch import nn

from attacks import FGSM, PGD
from engine.training.step import TrainingStep, is_chosen
from network import NormalizedModel, precise
from optim import build_loss, build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
CROSS_ENTROPY = build_loss("cross_entropy")


class Net(nn.Module):
    """Notes what it is given and what dropout leaves of it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.head = nn.Conv2d(6, 4, 1)
        self.seen, self.masks, self.dtypes = [], [], []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        features = self.norm(self.conv(images))
        kept = self.drop(torch.ones_like(features))
        self.masks.append(kept)
        logits = self.head(features * kept)
        self.dtypes.append(logits.dtype)
        return logits


def model_of(*, dtype=torch.float64, frozen=True):
    """In training, with BatchNorm in eval mode where `frozen`: its batches are then nobody's business."""
    torch.manual_seed(3)
    model = NormalizedModel(Net(), [0.0] * 3, [1.0] * 3).to(dtype).train()
    model.model.norm.train(not frozen)
    return model


def update_of(model, optimizer="sgd", *, sam=None, net=None, criterion=CROSS_ENTROPY, **settings):
    if optimizer not in ("sgd", "adam"):
        sam = {"model": model, "rho": 0.1, **(sam or {})}
    optimizer = build_optimizer(optimizer, [{"params": model.parameters()}], lr=0.1, weight_decay=1e-3, **(sam or {}))
    return TrainingStep(model, model if net is None else net, optimizer=optimizer, criterion=criterion, **settings)


def batch(size=8, *, dtype=torch.float64, seed=0):
    """The first images have far more void pixels than the others."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 6, 6, generator=generator, dtype=dtype)
    labels = torch.randint(0, 4, (size, 6, 6), generator=generator)
    void = torch.rand(size, 6, 6, generator=generator) < torch.linspace(0.9, 0, size).view(-1, 1, 1)
    return images, labels.masked_fill(void, 255)


def trained(model, update, steps=4):
    for step in range(steps):
        torch.manual_seed(step)
        update(*batch(seed=step, dtype=next(model.parameters()).dtype))
    return model.state_dict()


WEIGHTS = {"class_weights": torch.tensor([0.2, 1.0, 3.0, 0.7])}
SMOOTHING = {"label_smoothing": 0.2}


@pytest.mark.parametrize(("optimizer", "loss", "settings"), [
    *((name, "cross_entropy", {}) for name in ("sgd", "adam", "SAM", "GSAM", "FriendlySAM")),
    *(("SAM", loss, settings) for loss, settings in (
        ("cross_entropy", WEIGHTS), ("cross_entropy", SMOOTHING), ("cross_entropy", WEIGHTS | SMOOTHING),
        ("focal_loss", WEIGHTS), ("ohem", SMOOTHING), ("dice", {}), ("lovasz", {})))])
def test_24_a_batch_in_parts_is_the_whole_batch(optimizer, loss, settings):
    """Although the parts differ in labelled pixels, and in those of each class."""
    states, criterion = [], build_loss(loss, **settings)
    for accumulate in (1, 2, 4):
        model = model_of()
        model.model.drop.p = 0.0
        states.append(trained(model, update_of(model, optimizer, criterion=criterion, accumulate=accumulate)))
    for state in states[1:]:
        for key, value in state.items():
            torch.testing.assert_close(value, states[0][key], rtol=1e-11, atol=1e-13)


def test_24_the_second_pass_over_the_parts_draws_the_first_ones_dropout():
    model = model_of()
    update_of(model, "SAM", accumulate=2)(*batch())
    first, second, again, and_again = model.model.masks
    assert torch.equal(first, again) and torch.equal(second, and_again) and not torch.equal(first, second)


def test_24_micro_is_the_mean_of_each_parts_sam_gradient():
    model, (images, labels) = model_of(), batch()
    model.model.drop.p = 0.0
    update = update_of(model, "SAM", accumulate=2, micro=True)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = {name: torch.zeros_like(p) for name, p in start.items()}
    for part in (slice(0, 4), slice(4, 8)):
        def gradient(at, part=part):
            logits = torch.func.functional_call(model, at, (images[part],))
            grads = torch.autograd.grad(CROSS_ENTROPY(logits, labels[part]), list(at.values()))
            return dict(zip(at, grads, strict=True))

        first = gradient({name: p.clone().requires_grad_() for name, p in start.items()})
        length = math.sqrt(sum(g.square().sum().item() for g in first.values()))
        second = gradient({name: (p + 0.1 * first[name] / length).requires_grad_() for name, p in start.items()})
        share = (labels[part] != 255).sum().item() / (labels != 255).sum().item()
        for name, g in second.items():
            expected[name] += share * g
    measured = update(images, labels)
    for name, p in model.named_parameters():
        step = 0.1 * (expected[name] + 1e-3 * start[name])
        torch.testing.assert_close(p.detach(), start[name] - step, rtol=1e-11, atol=1e-13)
    assert measured["Loss"].item() == pytest.approx(
        CROSS_ENTROPY(torch.func.functional_call(model, start, (images,)), labels).item(), rel=1e-12)


def test_what_is_measured_is_what_a_second_look_finds():
    model, (images, labels) = model_of(frozen=False), batch()
    model.model.drop.p = 0.0
    at_w = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def loss_at(parameters):
        return CROSS_ENTROPY(torch.func.functional_call(model, {**parameters, **buffers}, (images,)), labels)

    loss = loss_at(at_w)
    grads = torch.autograd.grad(loss, list(at_w.values()))
    norm = math.sqrt(sum(g.square().sum().item() for g in grads))
    above = loss_at({name: p + 0.1 * g / norm for (name, p), g in zip(at_w.items(), grads, strict=True)})
    measured = update_of(model, "SAM")(images, labels)
    expected = {"Loss": loss.item(), "Gradient norm": norm, "Perturbation": 0.1, "Sharpness": (above - loss).item()}
    assert {name: value.item() for name, value in measured.items()} == pytest.approx(expected, rel=1e-9)
    assert expected["Sharpness"] > 0
    assert set(update_of(model)(images, labels)) == {"Loss", "Gradient norm"}


@pytest.mark.parametrize("optimizer", ["sgd", "SAM"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_31_training_on_attacked_images_crafted_at_w_and_used_in_both_passes(optimizer, ratio):
    images, labels = batch(dtype=torch.float32)
    model, reference = model_of(dtype=torch.float32, frozen=False), model_of(dtype=torch.float32, frozen=False)
    attack, chosen = PGD(eps=0.1, step_size=0.05, steps=3), slice(None) if ratio == 1 else slice(1, None, 2)
    torch.manual_seed(9)
    adversarial = images.clone()
    adversarial[chosen] = attack(reference, images[chosen], labels[chosen])
    assert (adversarial != images).flatten(1).any(1).sum() == 8 * ratio
    plain = update_of(reference, optimizer)
    plain(adversarial, labels)
    for module in (model, reference):
        module.model.seen.clear()
    torch.manual_seed(9)
    update = update_of(model, optimizer, attack=attack, adv_ratio=ratio)
    update(images, labels)
    passes = 2 if optimizer == "SAM" else 1
    assert all(torch.equal(seen, adversarial) for seen in model.model.seen[-passes:])
    for key, value in reference.state_dict().items():  # BatchNorm's statistics among them: the attack moved none
        assert torch.equal(model.state_dict()[key], value), key


def test_31_an_attack_runs_at_frozen_statistics_and_computes_no_parameter_gradient():
    model, (images, labels) = model_of(frozen=False), batch()
    seen = []

    def attack(attacked, images, labels):
        adversarial = FGSM(eps=0.1)(attacked, images, labels)
        seen.append(([p.grad for p in attacked.parameters()], {k: v.clone() for k, v in attacked.named_buffers()}))
        return adversarial

    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    update_of(model, attack=attack)(images, labels)
    ((grads, buffers),) = seen
    assert grads == [None] * 6 and all(torch.equal(buffers[name], before[name]) for name in before)
    assert model.model.norm.num_batches_tracked == 1 and model.model.norm.training


@pytest.mark.parametrize(("size", "ratio", "places"), [
    (8, 0.5, [1, 3, 5, 7]), (8, 1.0, list(range(8))), (8, 0.25, [3, 7]), (3, 0.5, [1]), (2, 0.25, []),
    (10, 0.3, [3, 6, 9]), (10, 0.7, [1, 2, 4, 5, 7, 8, 9])])
def test_the_attacked_images_are_the_ratio_rounded_down_and_evenly_spread(size, ratio, places):
    assert [place for place in range(size) if is_chosen(place, ratio)] == places


def test_parts_are_attacked_one_by_one():
    model, (images, labels) = model_of(), batch()
    sizes = []

    def attack(model, images, labels):
        sizes.append(len(images))
        return images

    update_of(model, attack=attack, accumulate=4)(images, labels)
    update_of(model, attack=attack, accumulate=2, adv_ratio=0.5)(images, labels)
    assert sizes == [2, 2, 2, 2, 2, 2]


def test_a_part_without_labels_takes_no_part(capsys):
    model, (images, labels) = model_of(), batch()
    labels[4:] = 255
    measured = update_of(model, "SAM", accumulate=2, micro=True)(images, labels)
    alone = update_of(model_of(), "SAM")(images[:4], labels[:4])
    assert measured["Perturbation"].item() == pytest.approx(0.1) and measured["Loss"].item() > 0
    assert {"Loss", "Gradient norm", "Perturbation", "Sharpness"} == set(measured) == set(alone)


def test_the_gradient_norm_of_micro_batches_is_the_mean_of_theirs():
    model, (images, labels) = model_of(), batch()
    model.model.drop.p = 0.0
    norms = []
    for part in (slice(0, 4), slice(4, 8)):
        loss = CROSS_ENTROPY(model(images[part]), labels[part])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(math.sqrt(sum(g.square().sum().item() for g in grads)))
    measured = update_of(model, "SAM", accumulate=2, micro=True)(images, labels)
    assert measured["Gradient norm"].item() == pytest.approx(sum(norms) / 2, rel=1e-9)


def test_images_may_come_as_bytes():
    found = []
    images = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    labels = torch.randint(0, 3, (8, 6, 6), dtype=torch.uint8)
    for batch_ in ((images, labels), (images / 255, labels.long())):
        model = model_of(dtype=torch.float32)
        update_of(model)(*batch_)
        found.append(model.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-5, atol=1e-6)


def test_an_attack_that_is_not_finite_ends_the_step_before_it_begins():
    model, (images, labels) = model_of(frozen=False), batch()
    update = update_of(model, attack=FGSM(eps=0.1))
    with torch.no_grad():
        model.model.norm.running_var[0] = float("nan")  # eval mode alone sees it
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="FGSM.*not finite"):
        update(images, labels)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num()), key


def test_amp_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    images, labels = batch(dtype=torch.float32)
    losses = {}
    for amp in (False, True):
        model = model_of(dtype=torch.float32)
        update = update_of(model, "SAM", net=precise(model, amp=amp))
        torch.manual_seed(0)
        losses[amp] = update(images, labels)["Loss"]
        assert set(model.model.dtypes) == {torch.bfloat16 if amp else torch.float32}
        assert losses[amp].dtype == torch.float32
        assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert losses[True] != losses[False] and losses[True].item() == pytest.approx(losses[False].item(), rel=0.02)


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1e6])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_long_gradient_is_scaled_to_clip_grad(clip, accumulate):
    """Without dropout's chance, momentum or decay a step of SGD is lr times the gradient."""
    model = model_of()
    model.model.drop.p = 0.0
    plain = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    loss = CROSS_ENTROPY(model(batch()[0]), batch()[1])
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    optimizer = build_optimizer("sgd", [{"params": model.parameters()}], lr=0.1, weight_decay=0.0, momentum=0.0)
    step = TrainingStep(model, model, optimizer=optimizer, criterion=CROSS_ENTROPY, clip_grad=clip,
                        accumulate=accumulate)
    measured = step(*batch())
    expected = gradient * min(1, clip / gradient.norm().item())
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - plain
    assert torch.allclose(moved, -0.1 * expected, rtol=1e-9, atol=1e-15)
    assert measured["Gradient norm"].item() == pytest.approx(gradient.norm().item()), "the one before"


def test_sam_perturbs_alike_whatever_is_clipped():
    """e has length rho, so clipping the first gradient changes nothing; the second one is clipped."""
    found = []
    for clip in (None, 1e-3):
        model = model_of()
        model.model.drop.p = 0.0
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer = build_optimizer("SAM", [{"params": model.parameters()}], lr=0.1, weight_decay=0.0, momentum=0.0,
                                    model=model, rho=0.1)
        TrainingStep(model, model, optimizer=optimizer, criterion=CROSS_ENTROPY, clip_grad=clip)(*batch())
        found.append((nn.utils.parameters_to_vector(model.parameters()).detach() - before) / -0.1)
    assert found[0].norm() > 1e-3
    assert torch.allclose(found[1], found[0] * 1e-3 / found[0].norm(), rtol=1e-9, atol=1e-15)
