"""The gradients of all losses, against autograd through the papers' formulas, and at extreme logits."""
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import LOSSES, class_weights
from attacks.pixels import Pixels
from attacks.search import Problem
from tests.attacks.papers import BLENDS, PAPERS, TO_TARGET, WEIGHTS, autograd, blend

SCHEDULE = [(1, 1), (1, 5), (2, 5), (5, 5), (60, 90), (90, 90)]  # t, steps
UNTARGETED, TARGETED = list(LOSSES), [name for name, loss in LOSSES.items() if loss.targeted_log_weight]


@pytest.fixture
def case():
    """(logits [3, 5, 6, 7] in float64, a third of the pixels correct; labels with void pixels; a target map)."""
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(3, 5, 6, 7, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 5, (3, 6, 7), generator=generator)
    labels = torch.where(torch.rand(3, 6, 7, generator=generator) < 0.3, logits.argmax(1), labels)
    labels[:, 2:4, 1:3] = 255
    return logits, labels, torch.randint(0, 5, (6, 7), generator=generator)


def problem_of(name, logits, labels, target=None, weights=WEIGHTS):
    """Build a problem whose model is the identity, so that the images' gradient is the logits' gradient."""
    weights = torch.tensor(weights, dtype=torch.float64) if LOSSES[name].balanced else None
    return Problem(nn.Identity(), logits, labels, loss=name, target=target, class_weights=weights)


def kernel(name, logits, labels, *, t=1, steps=1, target=None, **kwargs):
    """Return the direction of ascent [B, C, H, W]."""
    problem = problem_of(name, logits, labels, target, **kwargs)
    return problem.differentiate(logits, torch.arange(len(logits)), t, steps)[1]


def assert_proportional(found, expected):
    """Assert that the two agree up to one positive factor per image."""
    for one, other in zip(found, expected, strict=True):
        factor = (one * other).sum() / (other * other).sum()
        assert factor > 0
        torch.testing.assert_close(one, factor * other, rtol=1e-9, atol=1e-11 * one.abs().max().item())


@pytest.mark.parametrize(("t", "steps"), SCHEDULE)
@pytest.mark.parametrize("name", UNTARGETED)
def test_the_gradient_is_that_of_the_papers_loss(name, t, steps, case):
    logits, labels, _ = case
    expected = autograd(PAPERS[name], logits, labels, t, steps)
    assert (expected.flatten(1).abs().amax(1) > 0.01 * min(WEIGHTS)).all()
    found = kernel(name, logits, labels, t=t, steps=steps)
    assert_proportional(found, expected)
    others = found.scatter(1, torch.where(labels == 255, 0, labels)[:, None], 0)
    assert (others.flatten(1).amax(1) == 1).all()  # the normalisation that prevents underflow


@pytest.mark.parametrize(("t", "steps"), SCHEDULE)
@pytest.mark.parametrize("name", TARGETED)
def test_with_a_target_the_papers_loss_descends(name, t, steps, case):
    logits, labels, target = case
    goal = torch.where(labels == 255, 255, target)
    expected = -autograd(TO_TARGET[name], logits, goal, t, steps)
    assert_proportional(kernel(name, logits, labels, t=t, steps=steps, target=target), expected)
    goal = torch.where(labels == 255, 255, 3)
    expected = -autograd(TO_TARGET[name], logits, goal, t, steps)
    assert_proportional(kernel(name, logits, labels, t=t, steps=steps, target=3), expected)


@pytest.mark.parametrize(("t", "steps"), SCHEDULE)
@pytest.mark.parametrize("name", UNTARGETED)
def test_the_weights_are_those_of_the_paper(name, t, steps, case):
    """Exactly, not up to a factor: the gradient is w (p - onehot)."""
    logits, labels, _ = case
    pixels = Pixels(logits, labels, t=t, steps=steps)
    valid = (labels != 255)[:, None]
    onehot = F.one_hot(torch.where(labels == 255, 0, labels), 5).movedim(-1, 1)
    weight = LOSSES[name].log_weight(pixels).exp()[:, None]
    if LOSSES[name].balanced:
        weight = weight * torch.tensor(WEIGHTS, dtype=torch.float64)[torch.where(labels == 255, 0, labels)][:, None]
    expected = autograd(PAPERS[name], logits, labels, t, steps)
    torch.testing.assert_close(weight * (logits.softmax(1) - onehot) * valid, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("name", TARGETED)
@pytest.mark.parametrize(("t", "steps"), SCHEDULE)
def test_the_targeted_weights_are_those_of_the_paper(name, t, steps, case):
    logits, labels, target = case
    target = target.expand_as(labels)
    weight = LOSSES[name].targeted_log_weight(Pixels(logits, target, t=t, steps=steps)).exp()[:, None]
    onehot = F.one_hot(target, 5).movedim(-1, 1)
    expected = autograd(TO_TARGET[name], logits, target, t, steps)
    torch.testing.assert_close(weight * (logits.softmax(1) - onehot), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("name", "t", "steps"), [("js", 1, 1), ("tsallis", 1, 5), ("tsallis", 4, 5),
                                                  ("tsallis", 5, 5), ("logodds", 1, 1)])
def test_the_gradient_agrees_with_finite_differences(name, t, steps, case):
    logits, labels, _ = case
    pixels = Pixels(logits, labels, t=t, steps=steps)
    log_weight, h = LOSSES[name].log_weight(pixels), 1e-5

    def odds_of(p):
        return math.log(p / (1 - p))

    def loss(u, y, b):
        total = sum(map(math.exp, u))
        p = [math.exp(value) / total for value in u]
        if name == "logodds":  # T sigma(-m / T) falls as m does; T, of the whole image, is held constant
            return temperatures[b] / (1 + math.exp(odds_of(p[y]) / temperatures[b]))
        if name == "js":
            m = [(value + (k == y)) / 2 for k, value in enumerate(p)]
            return 0.5 * (sum(a * math.log(a / b) for a, b in zip(p, m, strict=True)) - math.log(m[y]))
        q = -2 + 3 * t / steps
        return -math.log(p[y]) if q == 1 else (1 - p[y] ** (1 - q)) / (1 - q)

    right = [[image.softmax(0)[y, row, column].item() for row in range(6) for column in range(7)
              if (y := label[row, column].item()) != 255 and image[:, row, column].argmax() == y]
             for image, label in zip(logits, labels, strict=True)]
    temperatures = [sum(map(odds_of, image)) / len(image) / 2 for image in right]
    assert min(temperatures) > 0.1  # below, the program takes 0.1
    for b, row, column in [(0, 0, 0), (1, 5, 6), (2, 1, 3), (0, 4, 2), (2, 5, 0)]:
        u, y = logits[b, :, row, column].tolist(), labels[b, row, column].item()
        p = logits[b, :, row, column].softmax(0)
        for k in range(5):
            up, down = ([value + sign * h * (j == k) for j, value in enumerate(u)] for sign in (1, -1))
            expected = (loss(up, y, b) - loss(down, y, b)) / (2 * h)
            found = log_weight[b, row, column].exp() * (p[k] - float(k == y))
            assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("name", UNTARGETED)
def test_images_of_a_batch_are_independent(name, case):
    """To the last bit; alone, blend to 1e-10: torch adds 5 terms in another order for the last pixels of a batch."""
    logits, labels, target = case
    logits = logits.clone()
    logits[1] *= 1e5  # so that a log weight of 1e5 has a last bit of 1e-11
    for goal in [None] + ([target] if name in TARGETED else []):
        found = kernel(name, logits, labels, t=2, steps=5, target=goal)
        for k in range(3):
            others, kinds = logits.flip(1), labels.flip(2)
            others[k], kinds[k] = logits[k], labels[k]
            assert torch.equal(kernel(name, others, kinds, t=2, steps=5, target=goal)[k], found[k])
            alone = kernel(name, logits[k:k + 1], labels[k:k + 1], t=2, steps=5, target=goal)[0]
            torch.testing.assert_close(alone, found[k], rtol=0, atol=1e-10 if name == "blend" else 0)


@pytest.mark.parametrize("name", BLENDS)
def test_a_blend_leaves_out_losses_without_a_gradient(name, case):
    """No pixel of image 1 is correct, so mce and mce_even have none."""
    logits, labels, _ = case
    labels[1] = logits[1].argmin(0)
    expected = autograd(PAPERS[name], logits, labels, 2, 5)
    others = [member for member in BLENDS[name] if "mce" not in member]
    expected[1] = autograd(partial(blend, others), logits, labels, 2, 5)[1]
    assert_proportional(kernel(name, logits, labels, t=2, steps=5), expected)


@pytest.mark.parametrize("factor", [1e-3, 1, 30, 1e4])  # logit gaps up to 1e5
@pytest.mark.parametrize("name", UNTARGETED)
def test_scaled_weights_give_a_gradient_of_the_same_l1_norm(name, factor, case):
    """Of each image, the part of other classes: sum w (1 - p_y) = 1, in log space and from the logits themselves."""
    logits, labels, _ = case
    logits, valid = factor * logits, labels != 255
    at_label = F.one_hot(torch.where(valid, labels, 0), 5).movedim(-1, 1).bool()
    log_rest = logits.masked_fill(at_label, -torch.inf).logsumexp(1) - logits.logsumexp(1)
    pixels = Pixels(logits, labels, t=2, steps=5)
    total = pixels.scale(LOSSES[name].log_weight(pixels)) + log_rest
    total = torch.where(valid, total, -torch.inf).flatten(1).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)


def test_the_pixels_of_each_network_are_its_own(case):
    """Also what was computed of all of them before they were split."""
    logits, labels, _ = case
    parts = [logits, logits.flip(1)]
    whole = Pixels(torch.cat(parts, 2), torch.cat([labels] * 2, 1), t=2, steps=5)
    assert whole.log_rest.shape == (3, 12, 7)
    for found, part in zip(whole.split(2), parts, strict=True):
        alone = Pixels(part, labels, t=2, steps=5)
        for name in ("log_rest", "log_p", "log_py", "valid", "correct", "index"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), rtol=1e-12, atol=0)
        for loss in LOSSES.values():
            torch.testing.assert_close(loss.log_weight(found), loss.log_weight(alone), rtol=1e-12, atol=1e-12)


GAPS = [1e-3, 1.0, 17.0, 30.0, 104.0, 200.0, 6e4, 1e10, 1e30, 3e38]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", UNTARGETED)
def test_no_logit_gap_gives_nan(name, gap):
    """One class far above or below the others, or both; correct, wrong and void pixels; float32, and float16 to 6e4."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        if gap > torch.finfo(dtype).max:
            continue
        logits = torch.zeros(3, 4, 2, 3, dtype=dtype)
        logits[:2, 0] = gap
        logits[1:, 1] = -gap
        labels = torch.tensor([[0, 1, 2], [3, 255, 0]]).expand(3, 2, 3)
        for t in (1, 3, 4):
            for target in (None, *([0, 1] if name in TARGETED else [])):
                weights = (0.1, 0.2, 0.3, 0.4)
                gradient = kernel(name, logits, labels, t=t, steps=4, target=target, weights=weights)
                assert gradient.isfinite().all() and gradient.dtype == dtype
                assert (gradient[:, :, 1, 1] == 0).all()
        assert Pixels(logits, labels).cross_entropy().isfinite().all()


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", UNTARGETED)
def test_a_confident_correct_pixel_keeps_its_gradient(name, gap):
    """For two classes, every loss has the same gradient after scaling: directly away from the label."""
    logits = torch.zeros(1, 2, 1, 1)
    logits[:, 1] = gap
    gradient = kernel(name, logits, torch.ones(1, 1, 1, dtype=torch.int64), t=1, steps=4, weights=(0.3, 0.7))
    assert gradient.flatten().tolist() == [1.0, -1.0]


@pytest.mark.parametrize("gap", [20.0, 105.0, 200.0, 1e5])
def test_autograd_of_cross_entropy_loses_that_gradient(gap):
    """Shows why the log-space gradient is needed: p_y - 1 rounds to 0, and from a gap of 104 so does every p_k."""
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    lifted = logits + torch.tensor([0, 0.5, gap]).view(1, 3, 1, 1)
    labels = torch.full((1, 1, 1), 2)
    lost, = torch.autograd.grad(F.cross_entropy(lifted, labels), logits)
    assert lost[0, 2] == 0 and (gap < 104 or (lost == 0).all())
    kept = kernel("ce", lifted.detach(), labels).flatten()
    assert kept.tolist() == pytest.approx([math.exp(-0.5), 1, -1 - math.exp(-0.5)], rel=2e-2 if gap == 1e5 else 1e-5)


@pytest.mark.parametrize("name", UNTARGETED)
def test_labels_outside_the_classes_have_no_effect(name, case):
    logits, labels, target = case
    void = labels == 255
    targets = [None] + ([target, 3] if name in TARGETED else [])
    odd, wild = labels.clone(), logits.clone()
    odd[void] = torch.tensor([-1, 5, 254, 10**12]).repeat(3)
    wild.movedim(1, -1)[void] = torch.tensor([1e9, -1e9, 0, 1e300, 3], dtype=torch.float64)
    for goal in targets:
        expected = kernel(name, logits, labels, t=2, steps=5, target=goal)
        assert (expected.movedim(1, -1)[void] == 0).all() and (expected != 0).flatten(1).any(1).all()
        assert torch.equal(kernel(name, logits, odd, t=2, steps=5, target=goal), expected)
        assert torch.equal(kernel(name, wild, odd, t=2, steps=5, target=goal), expected)
        for one, other in ((logits, odd), (wild, odd)):
            found, reference = problem_of(name, one, other, goal), problem_of(name, logits, labels, goal)
            rows = torch.arange(3)
            mine, theirs = found.predict(one, rows), reference.predict(logits, rows)
            assert torch.equal(found.score(mine), reference.score(theirs))
            assert torch.equal(found.mean_loss(mine), reference.mean_loss(theirs))


@pytest.mark.parametrize("name", UNTARGETED)
def test_an_image_without_labels_has_no_gradient_no_loss_and_no_score(name, case):
    logits, labels, target = case
    labels[1] = torch.tensor([255, 5]).repeat(21).view(6, 7)
    for goal in [None] + ([target] if name in TARGETED else []):
        gradient = kernel(name, logits, labels, t=2, steps=5, target=goal)
        assert [bool(image.any()) for image in gradient] == [True, False, True]
        problem = problem_of(name, logits, labels, goal)
        pixels = problem.predict(logits, torch.arange(3))
        assert problem.mean_loss(pixels)[1] == 0 and problem.score(pixels)[1] == 0
        assert (problem.score(pixels)[[0, 2]] > 0).all()


@pytest.mark.parametrize("name", UNTARGETED)
def test_nan_logits_at_any_pixel_are_an_error(name, case):
    logits, labels, _ = case
    for place in [(0, 0, 0, 0), (2, 3, 2, 1)]:  # the second is void
        broken = logits.clone()
        broken[place] = float("nan")
        with pytest.raises(FloatingPointError, match="logits are not finite"):
            kernel(name, broken, labels)
        with pytest.raises(FloatingPointError, match="logits are not finite"):
            problem_of(name, broken, labels).predict(broken, torch.arange(3))


@pytest.mark.parametrize("name", UNTARGETED)
def test_logits_may_be_minus_infinity_but_not_infinity(name, case):
    logits, labels, target = case
    logits[:, 3] = -float("inf")
    for goal in [None] + ([target] if name in TARGETED else []):
        gradient = kernel(name, logits, labels, t=2, steps=5, target=goal)
        given = labels if goal is None else goal.expand_as(labels)
        assert gradient.isfinite().all() and gradient.any() and (gradient[:, 3][given != 3] == 0).all()
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        kernel(name, -logits, labels)


@pytest.mark.parametrize("name", UNTARGETED)
def test_scores_are_counts_by_hand(name):
    """Predictions 0 0 1 1 2; labels 0 1 1 255 0: pixels 0, 2 are correct, 2 is at target 1, 3 is void."""
    logits = F.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).double().T.reshape(1, 3, 1, 5)
    labels = torch.tensor([0, 1, 1, 255, 0]).view(1, 1, 5)

    def score(target=None):
        problem = problem_of(name, logits, labels, target, weights=(0.125, 0.75, 0.125))
        return problem.score(problem.predict(logits, torch.arange(1))).item()

    assert score() == (0.125 + 0.75 if name == "mce_bal" else 2)
    if name in TARGETED:
        assert score(1) == 3
        assert score(torch.tensor([[0, 2, 1, 2, 1]])) == 2


def test_cross_entropy_is_the_mean_over_valid_pixels(case):
    logits, labels, _ = case
    found = Pixels(logits, labels).cross_entropy()
    expected = [F.cross_entropy(u[None], y[None], ignore_index=255) for u, y in zip(logits, labels, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=0)
    assert torch.equal(Pixels(logits.half(), labels).cross_entropy(),
                       Pixels(logits.half().float(), labels).cross_entropy())
    far = torch.zeros(1, 2, 1, 1, dtype=torch.float16)
    far[:, 0], far[:, 1] = 6e4, -6e4
    assert Pixels(far, torch.ones(1, 1, 1, dtype=torch.int64)).cross_entropy().item() == pytest.approx(1.2e5, rel=1e-3)


def test_the_problem_ascends_the_loss_away_from_labels_and_the_negative_loss_towards_a_target(case):
    logits, labels, target = case
    rows, goal = torch.arange(3), torch.where(labels == 255, 255, target)
    for name in UNTARGETED:  # mean_loss is the plain cross-entropy for every loss
        problem = problem_of(name, logits, labels)
        expected = [F.cross_entropy(u[None], y[None], ignore_index=255) for u, y in zip(logits, labels, strict=True)]
        torch.testing.assert_close(problem.mean_loss(problem.predict(logits, rows)), torch.stack(expected))
    for name in TARGETED:
        problem = problem_of(name, logits, labels, target)
        expected = [-F.cross_entropy(u[None], y[None], ignore_index=255) for u, y in zip(logits, goal, strict=True)]
        torch.testing.assert_close(problem.mean_loss(problem.predict(logits, rows)), torch.stack(expected))


def test_class_weights_by_hand():
    assert class_weights([10, 30, 0, 60]) == pytest.approx([0.4, 0.4 / 3, 0.4, 0.4 / 6])  # 1/10, 1/30, 1/10, 1/60
    assert class_weights(torch.tensor([5])) == [1.0]
    huge = class_weights([10**12, 1])
    assert sum(huge) == pytest.approx(1) and huge[0] == pytest.approx(1e-12)
    with pytest.raises(ValueError, match="no labelled pixel"):
        class_weights([0, 0])
