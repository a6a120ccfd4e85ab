"""Race against a way written out step by step, and what its candidates are."""
import math
from functools import partial

import pytest
import torch

from attacks import Networks, Race, norms, race
from tests.attacks.papers import PAPERS

EPS = {"linf": 0.03, "l2": 0.4}
EVERY_NORM = pytest.mark.parametrize("norm", EPS)
MEMBERS = ("blend", "blend_late")
LONGER = {"FIRST_SHARE": 0.2, "RACE_SHARE": 0.6, "MEMBERS": ("mce", "ce")}


def attack_of(norm="linf", **settings):
    return Race(**{"eps": EPS[norm], "norm": norm, "steps": 12, **settings})


def lengths(delta, norm):
    delta = delta.double().flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def even(model, images, labels):
    """Return the mean over each image's classes of the share of their pixels that is correct.  [B]."""
    with torch.no_grad():
        preds = model(images).argmax(1)
    shares = [[(pred[label == k] == k).double().mean() for k in label.unique() if k != 255]
              for pred, label in zip(preds, labels, strict=True)]
    return torch.stack([sum(each) / len(each) for each in shares])


def project(points, image, radius, norm):
    delta = points - image
    inside = delta.clamp(-radius, radius) if norm == "linf" else delta / max(1, delta.norm() / radius)
    return (image + inside).clamp(0, 1)


def walk(model, image, label, start, losses, steps, norm):
    """Return [(iterate, whether it counts)] of one image's way, with losses[k] at gradient k, and the last point."""
    eps, points, before, inside, found = EPS[norm], start, start, True, []
    largest = min(race.LARGEST_RADIUS, max(1, steps / race.FEW_STEPS))  # of the balls, in eps
    low, high = max(race.SMALLEST_STEP, min(race.SHORT[0] / steps, race.SHORT[1])), race.LARGEST_STEP
    valid = label != 255
    for k, loss in enumerate(losses):
        found.append((points, inside))
        there = points.clone().requires_grad_(True)
        values = PAPERS[loss](model(there), torch.where(valid, label, 0), k + 1, len(losses), valid)
        gradient, = torch.autograd.grad((values * valid).sum(), there)
        share = k / (len(losses) - 1)
        radius = eps * max(1, largest - (largest - 1) * share / race.SHRINKING)
        inside = radius == eps
        size = eps * ((low + high) / 2 + (high - low) / 2 * math.cos(math.pi * share))
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        moved = project(points + size * direction, image, radius, norm)
        mixed = moved if k == 0 else norms.MOMENTUM * moved + (1 - norms.MOMENTUM) * (2 * points - before)
        points, before = project(mixed, image, radius, norm), points
    return [*found, (points, inside)]


def choose(found, score):
    """Return (score, iterate) of the lowest one that counts, the last of equal ones, but none after a score of 0."""
    best = (math.inf, None)
    for points, inside in found:
        if inside and best[0] > 0 and (value := score(points)) <= best[0]:
            best = value, points
    return best


def race_by_hand(model, image, label, start, steps, norm, score):
    """Return (the result, {member: its candidate}, the member that won the race)."""
    first, each = int(race.FIRST_SHARE * steps), max(1, int(race.RACE_SHARE * steps / 2))
    length = steps - each  # of a way, which the other member's gradients are not in
    ways = {loss: walk(model, image, label, start, ["blend"] * first + [loss] * (length - first), steps, norm)
            for loss in race.MEMBERS}
    raced = {loss: choose(found[:first + each + 1], score) for loss, found in ways.items()}
    winner = min(raced, key=lambda loss: raced[loss][0])
    raced[winner] = choose(ways[winner], score)
    best = min(raced.values(), key=lambda pair: pair[0])
    return best[1], {loss: points for loss, (_, points) in raced.items()}, winner


def leave_powers_of_two(labels):
    """Void pixels until every class has 1, 2, 4, ... in an image, so that shares of them have no rounding."""
    for label in labels:
        for k in range(4):
            rows, columns = (label == k).nonzero().T
            kept = 2 ** int(math.log2(len(rows)))
            label[rows[kept:], columns[kept:]] = 255


@EVERY_NORM
@pytest.mark.parametrize(("steps", "aim", "changes"), [
    (4, "both", {}), (7, "both", {}), pytest.param(31, "miou", {}, marks=pytest.mark.slow),
    pytest.param(20, "both", {"MEMBERS": ("blend_late", "blend")}, marks=pytest.mark.slow),
    (30, "both", LONGER), (30, "miou", LONGER)])
def test_the_result_is_that_of_the_steps_by_hand(steps, aim, changes, norm, smooth, right, monkeypatch):
    """On so few pixels both members leave equally many; in a longer race of other losses either one may win."""
    for name, value in changes.items():
        monkeypatch.setattr(race, name, value)
    winners = set()
    for seed in range(3):
        model, images, labels = smooth(seed)
        leave_powers_of_two(labels)
        start = images if seed else (images + EPS[norm] / 20).clamp(0, 1)
        attack = attack_of(norm, steps=steps, race_aim=aim, random_start=False)
        outcome = attack.run(model, images, labels, start=None if seed else start)
        assert tuple(outcome.candidates) == race.MEMBERS
        for k in range(3):
            one = slice(k, k + 1)
            score = partial(even if aim == "miou" else right, model, labels=labels[one])
            expected, candidates, winner = race_by_hand(model, images[one], labels[one], start[one], steps, norm, score)
            torch.testing.assert_close(outcome.images[one], expected, rtol=0, atol=1e-9)
            for loss, points in candidates.items():
                torch.testing.assert_close(outcome.candidates[loss][one], points, rtol=0, atol=1e-9)
            winners.add(winner)
            assert not torch.equal(expected, start[one])
    assert len(winners) == 2 or changes != LONGER


@pytest.mark.parametrize("steps", [*range(4, 40), 100, 300, 1000])
def test_the_plan_uses_every_gradient(steps):
    first, each, last = race.plan_steps(steps)
    assert first + 2 * each + last == steps and first >= 1 and each >= 1 and last >= 0
    assert abs(first - race.FIRST_SHARE * steps) <= 1 and abs(2 * each - race.RACE_SHARE * steps) <= 2


@EVERY_NORM
@pytest.mark.parametrize("steps", [4, 5, 9, 30])
def test_an_image_takes_as_many_gradients_as_steps(steps, norm, smooth, right, queries):
    """And three more forward passes: one for each member to choose, one at the end."""
    model, images, labels = smooth(1)
    asked, backwards = queries(model), []
    model.body[2].register_full_backward_hook(lambda module, given, got: backwards.append(len(got[0])))
    for k, settings in enumerate([{}, {"restarts": 2}], 1):
        asked.clear(), backwards.clear()
        attack = attack_of(norm, eps=EPS[norm] / 4, steps=steps, **settings)
        outcome = attack.run(model, images, labels, image_ids=range(3))
        assert sum(backwards) == 3 * k * steps and sum(map(len, asked)) == 3 * k * (steps + 3)
        assert outcome.backwards.tolist() == [k * steps] * 3 and outcome.forwards.tolist() == [k * (steps + 3)] * 3
        assert attack.count_gradients() == k * steps and (right(model, outcome.images, labels) > 0).all()


@EVERY_NORM
@pytest.mark.parametrize("aim", race.AIMS)
def test_results_and_candidates_are_within_eps_but_the_way_is_not(aim, norm, toy, batch, queries):
    """Of float32 images, in linf exactly."""
    images, labels = batch
    asked = queries(toy)
    outcome = attack_of(norm, race_aim=aim).run(toy, images, labels, image_ids=range(3))
    most = EPS[norm] * (1 if norm == "linf" else 1 + 1e-6)
    for points in (outcome.images, *outcome.candidates.values()):
        assert points.dtype == torch.float32 and points.min() >= 0 and points.max() <= 1
        assert (lengths(points.double() - images.double(), norm) <= most).all()
    far = torch.stack([lengths(points.double() - images.double(), norm).max() for points in asked])
    assert 1.5 < far.max() / EPS[norm] <= 2 * (1 + 1e-6) and (far[math.ceil(race.SHRINKING * 12) + 1:] <= most).all()


@pytest.mark.slow
@EVERY_NORM
def test_the_result_is_the_candidate_with_the_lowest_score(norm, smooth, right):
    fewest = lowest = 0
    for seed in range(6):
        model, images, labels = smooth(seed)
        both, accuracy, miou = (attack_of(norm, eps=2 * EPS[norm], race_aim=aim, restarts=1 + seed % 2).run(
            model, images, labels, image_ids=range(3)) for aim in race.AIMS)
        assert torch.equal(accuracy.images, both.images)
        for outcome, score in ((both, right), (miou, even)):
            assert [*outcome.candidates] == [*MEMBERS]
            scores = torch.stack([score(model, points, labels) for points in outcome.candidates.values()])
            torch.testing.assert_close(score(model, outcome.images, labels), scores.amin(0), rtol=0, atol=1e-12)
            kept = torch.stack([(points == outcome.images).flatten(1).all(1) for points in outcome.candidates.values()])
            assert kept.any(0).all()
        fewest += (right(model, both.images, labels) < right(model, miou.images, labels)).sum().item()
        lowest += (even(model, miou.images, labels) < even(model, both.images, labels) - 1e-9).sum().item()
    assert fewest and lowest


@EVERY_NORM
@pytest.mark.parametrize("aim", race.AIMS)
def test_an_image_does_not_depend_on_its_batch(aim, norm, smooth):
    model, images, labels = smooth(5)
    attack = attack_of(norm, race_aim=aim)
    together = attack.run(model, images, labels, image_ids=[7, 8, 9])
    order = [2, 0, 1]
    shuffled = attack.run(model, images[order], labels[order], image_ids=[9, 7, 8])
    alone = [attack.run(model, images[k:k + 1], labels[k:k + 1], image_ids=[7 + k]) for k in range(3)]
    names = [None, *together.candidates]
    for name in names:
        whole, mixed, *parts = (outcome.candidates[name] if name else outcome.images
                                for outcome in (together, shuffled, *alone))
        torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


@EVERY_NORM
@pytest.mark.parametrize(("aim", "score"), [("both", "right"), ("miou", "even")])
def test_restarts_and_starts_make_no_candidate_weaker(aim, score, norm, smooth, right):
    count, better = right if score == "right" else even, 0
    for seed in range(3):
        model, images, labels = smooth(seed)
        one, three = (attack_of(norm, race_aim=aim, restarts=k).run(model, images, labels, image_ids=range(3))
                      for k in (1, 3))
        warm = attack_of(norm, steps=4, race_aim=aim).run(model, images, labels, start=three.images)
        assert (count(model, warm.images, labels) <= count(model, three.images, labels) + 1e-12).all()
        for name in MEMBERS:
            before, after = (count(model, outcome.candidates[name], labels) for outcome in (one, three))
            assert (after <= before + 1e-12).all()
            assert (count(model, warm.candidates[name], labels) <= count(model, three.images, labels) + 1e-12).all()
            better += (after < before - 1e-12).sum().item()
    assert better


@pytest.mark.parametrize("aim", race.AIMS)
def test_an_image_without_a_correct_pixel_takes_one_gradient(aim, smooth):
    """And none, if already its given start has no correct pixel."""
    model, images, labels = smooth(1)
    with torch.no_grad():
        labels[0] = model(images[:1])[0].argmin(0)
    labels[2] = 255
    outcome = attack_of(random_start=False, race_aim=aim).run(model, images, labels)
    assert outcome.backwards.tolist() == [1, 12, 1] and outcome.forwards.tolist() == [1, 15, 1]
    for points in (outcome.images, *outcome.candidates.values()):
        assert torch.equal(points[[0, 2]], images[[0, 2]]) and (points[1] != images[1]).any()
    outcome = attack_of(race_aim=aim).run(model, images, labels, start=images)
    assert outcome.backwards.tolist() == [0, 12, 0] and outcome.forwards.tolist() == [1, 16, 1]


@EVERY_NORM
def test_networks_are_attacked_together(norm, smooth, right):
    """The candidate with the fewest correct pixels in all of them; the same network twice is the network."""
    (one, images, labels), (other, _, _) = smooth(1), smooth(2)
    outcome = attack_of(norm).run(Networks([one, other]), images, labels, image_ids=range(3))
    left = [sum(right(model, points, labels) for model in (one, other))
            for points in (images, outcome.images, *outcome.candidates.values())]
    assert torch.equal(left[1], torch.minimum(*left[2:])) and (left[1] < left[0]).all()
    twice = attack_of(norm, race_aim="miou").run(Networks([one, one]), images, labels, image_ids=range(3))
    alone = attack_of(norm, race_aim="miou").run(one, images, labels, image_ids=range(3))
    torch.testing.assert_close(twice.images, alone.images, rtol=0, atol=1e-12)


def test_too_few_steps_and_unknown_aims_are_errors():
    for steps in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"steps {steps}: .* at least 4"):
            attack_of(steps=steps)
    with pytest.raises(ValueError, match="unknown race_aim 'iou'.*both, accuracy, miou"):
        attack_of(race_aim="iou")
