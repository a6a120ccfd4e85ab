"""Each image keeps the result with the fewest correct pixels, and stops changing once it has none."""
import numpy as np
import pytest
import torch
from torch import nn

from attacks import APGD, ATTACKS, FGSM, PGD, SegPGD, Square, build_attack, takes
from utils.seed import make_generator

EPS = {"linf": 0.03, "l2": 0.4}
WEIGHTS = (0.05, 0.6, 0.25, 0.1)
IN_EPS = [name for name in ATTACKS if takes(name, "eps")]  # min_radius finds its own radius, and goes back from success


def attack_of(name, **settings):
    return build_attack(name, **{"eps": 0.03, "steps": 4, "class_weights": WEIGHTS, **settings})


def random_starts(images, ids, *, eps, norm, seed, restart):
    """Return the starting points of attempt `restart`, drawn per image in NumPy."""
    points = []
    for image, image_id in zip(images.numpy(), ids, strict=True):
        generator = make_generator(seed, image_id, *([restart] if restart else []))
        first = torch.rand(image.shape, generator=generator).double().numpy()
        if norm == "linf":
            delta = eps * (2 * first - 1)
        else:
            normal = torch.randn(image.shape, generator=generator).double().numpy()
            delta = eps * first.flat[0] ** (1 / image.size) * normal / np.sqrt((normal**2).sum())
        points.append(np.clip(image + delta, 0, 1))
    return torch.from_numpy(np.stack(points))


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", [PGD, APGD, SegPGD])
def test_restarts_start_at_new_random_points_and_the_worst_result_is_kept(kind, norm, smooth, right):
    """Compared with each attempt run on its own; float64, so that batches don't round differently."""
    model, images, labels = smooth(3)
    settings = {"eps": EPS[norm], "norm": norm, "steps": 5, **({} if kind is APGD else {"best_iterate": True})}
    ids, best, fewest, winners = [5, 9, 2], None, None, []
    for restart in range(4):
        starts = random_starts(images, ids, eps=EPS[norm], norm=norm, seed=7, restart=restart)
        alone = kind(**settings)(model, images, labels, start=starts)  # its best iterate is not weaker than its start
        count = right(model, alone, labels)
        better = torch.ones(3, dtype=torch.bool) if best is None else count <= fewest
        best = alone if best is None else torch.where(better.view(-1, 1, 1, 1), alone, best)
        fewest = count if fewest is None else torch.minimum(fewest, count)
        winners.append(better.tolist())
        found = kind(**settings, restarts=restart + 1, seed=7)(model, images, labels, image_ids=ids)
        torch.testing.assert_close(found, best, rtol=0, atol=1e-7)  # numbers drawn with ids are float32
        assert torch.equal(right(model, found, labels), fewest)
    assert any(map(any, winners[1:])) and not all(map(all, winners[1:]))


@pytest.mark.parametrize(("name", "loss"), [*((name, None) for name in IN_EPS if name not in ("sea", "ensemble")),
                                            ("apgd", "mce_bal")])
def test_more_restarts_are_never_weaker(name, loss, smooth, right):
    fell = 0
    for seed in range(4):
        model, images, labels = smooth(seed)
        found = [attack_of(name, attack_loss=loss, restarts=k)(model, images, labels, image_ids=range(3))
                 for k in (1, 2, 4)]
        one, two, four = (right(model, points, labels, WEIGHTS if loss else (1.0,) * 4) for points in found)
        assert (two <= one + 1e-6).all() and (four <= two + 1e-6).all()
        fell += (four < one - 1e-6).sum().item()
    assert fell > 0


@pytest.mark.parametrize("name", IN_EPS)
@pytest.mark.parametrize("norm", EPS)
def test_never_weaker_than_its_start(name, norm, smooth, right):
    """Weak attacks start from the result of a strong one, which most of them don't reach on their own."""
    if (name, norm) in [("square", "l2"), ("ensemble", "l2")]:
        return
    kept = 0
    for seed in range(2):
        model, images, labels = smooth(seed)
        strong = APGD(eps=EPS[norm], norm=norm, steps=30, attack_loss="mce")(model, images, labels, image_ids=range(3))
        weak = attack_of(name, norm=norm, eps=EPS[norm], steps={"square": 2, "race": 4}.get(name, 1))
        found = weak(model, images, labels, image_ids=range(3), start=strong)
        assert (right(model, found, labels) <= right(model, strong, labels)).all()
        alone = weak(model, images, labels, image_ids=range(3))
        kept += (right(model, alone, labels) > right(model, strong, labels)).sum().item()
    assert kept >= 2


@pytest.mark.parametrize("norm", EPS)
def test_never_worse_than_its_start_for_a_balanced_loss(norm, smooth, right):
    """For mce_bal, starts and iterates are compared by weighted, not by plain, counts of correct pixels."""
    differs = 0
    for seed in range(6):
        model, images, labels = smooth(seed)
        start = APGD(eps=EPS[norm], norm=norm, steps=8, attack_loss="js")(model, images, labels, image_ids=range(3))
        for attack in (PGD(eps=EPS[norm], norm=norm, steps=2, attack_loss="mce_bal", class_weights=WEIGHTS),
                       APGD(eps=EPS[norm], norm=norm, steps=3, attack_loss="mce_bal", class_weights=WEIGHTS)):
            found = attack(model, images, labels, start=start)
            assert (right(model, found, labels, WEIGHTS) <= right(model, start, labels, WEIGHTS) + 1e-6).all()
            differs += (right(model, found, labels) > right(model, start, labels)).sum().item()
    assert differs > 0


def test_with_a_warm_start_a_larger_eps_is_never_weaker(smooth, right):
    model, images, labels = smooth(4)
    for name in IN_EPS:
        points, before = None, right(model, images, labels)
        for eps in (0.005, 0.01, 0.02, 0.04):
            attack = attack_of(name, eps=eps, steps=4 if name == "race" else 2)
            points = attack(model, images, labels, image_ids=range(3), start=points)
            after = right(model, points, labels)
            assert (after <= before).all() or eps == 0.005
            assert (points - images).abs().max() <= eps
            before = after


@pytest.mark.parametrize("norm", EPS)
def test_a_start_outside_the_ball_is_projected(norm, smooth):
    model, images, labels = smooth(5)
    eps = EPS[norm]
    wild = images + 3 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta = (wild - images).numpy()
    if norm == "linf":
        delta = np.clip(delta, -eps, eps)
    else:
        delta = delta * eps / np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
    expected = torch.from_numpy(np.clip(images.numpy() + delta, 0, 1))
    stay = PGD(eps=eps, norm=norm, steps=1, step_size=0.0)
    torch.testing.assert_close(stay(model, images, labels, start=wild), expected, rtol=0, atol=1e-12)
    for name in IN_EPS:
        if (name, norm) != ("square", "l2"):
            found = attack_of(name, eps=eps, norm=norm)(model, images, labels, image_ids=range(3), start=wild)
            far = (found - images).flatten(1)
            assert ((far.abs().amax(1) if norm == "linf" else far.norm(dim=1)) <= eps * (1 + 1e-12)).all()
            assert found.min() >= 0 and found.max() <= 1


def test_a_start_replaces_only_the_first_attempts_random_point(smooth, queries):
    model, images, labels = smooth(6)
    start = images.clone()
    asked = queries(model)
    PGD(eps=0.03, steps=2, restarts=2)(model, images, labels, start=start)
    # the start's score; attempt 1: two gradients and the score of its result; attempt 2
    assert torch.equal(asked[0], start) and torch.equal(asked[1], start) and len(asked) == 7
    assert (asked[4] != start).float().mean() > 0.9
    asked.clear()
    FGSM(eps=0.03, restarts=2)(model, images, labels)
    assert torch.equal(asked[0], images) and (asked[2] != images).float().mean() > 0.9


@pytest.mark.parametrize("loss", ["ce", "mce_bal"])
@pytest.mark.parametrize("norm", EPS)
def test_best_iterate_has_the_minimum_score_of_all_iterates(loss, norm, smooth, queries):
    """Counted in NumPy over the model's inputs; for mce_bal pixels are weighted by class."""
    other_than_last = other_than_unweighted = ties = 0
    for seed in range(16):
        model, images, labels = smooth(seed, images=1)
        asked, eps = queries(model), EPS[norm] * (1 + seed % 2)
        attack = PGD(eps=eps, norm=norm, steps=9, step_size=2 * eps, best_iterate=True, attack_loss=loss,
                     class_weights=WEIGHTS if loss == "mce_bal" else None)
        found = attack(model, images, labels, image_ids=[seed])
        points = [*asked]
        assert len(points) == 10
        with torch.no_grad():
            hits = torch.cat([model(point) for point in points]).argmax(1).numpy() == labels.numpy()
        classes = np.clip(labels.numpy(), 0, 3)
        counts = hits.sum((1, 2))
        scores = (hits * np.array(WEIGHTS)[classes]).sum((1, 2)).round(9) if loss == "mce_bal" else counts
        last = max(k for k in range(10) if scores[k] == scores.min())
        assert torch.equal(found, points[last])
        other_than_last += last != 9
        ties += (scores == scores.min()).sum() > 1
        other_than_unweighted += counts[last] > counts.min()
    assert other_than_last >= 2
    assert other_than_unweighted >= 1 if loss == "mce_bal" else ties >= 1


def test_without_best_iterate_the_last_is_returned(smooth, queries):
    model, images, labels = smooth(1, images=1)
    best = PGD(eps=0.03, steps=9, step_size=0.03, best_iterate=True)
    asked = queries(model)
    best(model, images, labels, image_ids=[0])
    last = PGD(eps=0.03, steps=9, step_size=0.03)(model, images, labels, image_ids=[0])
    assert torch.equal(last, asked[9]) and len(asked) == 10 + 9


@pytest.fixture
def soon_done(smooth):
    """A batch in which image 0 has no correct pixel, image 1 a single, barely correct one, image 3 no label."""
    model, images, labels = smooth(8, images=4)
    with torch.no_grad():
        logits = model(images)
    labels[0] = logits[0].argmin(0)
    top = logits[1].topk(2, dim=0)
    lead = (top.values[0] - top.values[1]).flatten()
    single = torch.full_like(labels[1], 255).flatten()
    single[lead.argmin()] = top.indices[0].flatten()[lead.argmin()]
    labels[1], labels[3] = single.view_as(labels[1]), 255
    return model, images, labels


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("name", [name for name in IN_EPS if name not in ("fgsm", "noise")])
def test_images_without_a_correct_pixel_are_no_longer_attacked(name, norm, soon_done, queries, right):
    """From then on the model gets fewer images; the results of the others are the same as without these."""
    if (name, norm) in [("square", "l2"), ("ensemble", "l2")]:
        return
    model, images, labels = soon_done
    ids = [3, 4, 5, 6]
    for settings in ({},) if name in ("sea", "ensemble") else ({}, {"restarts": 2}):
        asked = queries(model)
        attack = attack_of(name, eps=EPS[norm] / 3, norm=norm, steps=8, **settings)
        outcome = attack.run(model, images, labels, image_ids=ids)
        sizes = [len(points) for points in asked]
        assert sizes[0] == 4 and min(sizes) == 1
        assert right(model, outcome.images, labels)[[0, 1, 3]].tolist() == [0, 0, 0]
        assert right(model, outcome.images, labels)[2] > 0  # still attacked
        assert outcome.forwards.sum() == sum(sizes) and outcome.forwards[2] == max(outcome.forwards)
        assert (outcome.forwards[[0, 1, 3]] < outcome.forwards[2]).all()
        for k in range(4):
            alone = attack.run(model, images[k:k + 1], labels[k:k + 1], image_ids=ids[k:k + 1])
            torch.testing.assert_close(alone.images[0], outcome.images[k], rtol=0, atol=1e-12)
            assert alone.forwards[0] == outcome.forwards[k] and alone.backwards[0] == outcome.backwards[k]


def test_images_without_a_correct_pixel_are_not_changed(soon_done):
    """An attack without a random start returns such an image unchanged."""
    model, images, labels = soon_done
    for attack in (FGSM(eps=0.03), PGD(eps=0.03, random_start=False, best_iterate=True),
                   PGD(eps=0.03, random_start=False), APGD(eps=0.03, steps=5, random_start=False),
                   APGD(eps=0.03, steps=10, random_start=False, red_eps=True)):
        found = attack(model, images, labels)
        assert torch.equal(found[[0, 3]], images[[0, 3]]) and (found[2] != images[2]).any()


def test_red_eps_continues_in_the_smaller_ball_after_success_in_the_larger():
    """A network with class 0 from 1/2 up: 2 eps changes both pixels, eps only one; the last ball uses all its steps."""
    model = nn.Conv2d(1, 2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, -2.0]).view(2, 1, 1, 1))
        model.bias.copy_(torch.tensor([-1.0, 1.0]))
    images = torch.tensor([[[[0.509, 0.512]]]], dtype=torch.float64)
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    outcome = APGD(eps=0.01, steps=20, red_eps=True, random_start=False).run(model, images, labels)
    assert (model(outcome.images).argmax(1) == 0).flatten().tolist() == [False, True]
    assert (outcome.images - images).abs().max() <= 0.01
    assert outcome.backwards.tolist() == [2 + 1 + 8]  # the second ball starts from the first one's result


def test_a_single_attempt_without_scores_needs_no_extra_pass(smooth, queries):
    """Without a start to compare with, no pass is spent on the score."""
    model, images, labels = smooth(0)
    asked = queries(model)
    outcome = PGD(eps=0.03, steps=6).run(model, images, labels)
    assert len(asked) == 6 and outcome.forwards.tolist() == outcome.backwards.tolist() == [6] * 3
    asked.clear()
    outcome = PGD(eps=0.03, steps=6, restarts=3).run(model, images, labels, start=images)
    assert outcome.forwards.tolist() == [1 + 3 * 7] * 3 and outcome.backwards.tolist() == [18] * 3
    assert len(asked) == 22
    outcome = APGD(eps=0.03, steps=6, restarts=3).run(model, images, labels)  # computes its scores itself
    assert outcome.forwards.tolist() == [21] * 3 and outcome.backwards.tolist() == [18] * 3
    outcome = Square(eps=0.03, steps=5, restarts=2).run(model, images, labels)
    assert outcome.forwards.tolist() == [10] * 3 and outcome.backwards.tolist() == [0] * 3
