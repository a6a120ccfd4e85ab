"""APGD against a second one, written from the paper for one image in NumPy; its checkpoints in fractions."""
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import APGD, PGD
from attacks.apgd import checkpoints


def fractions_of(steps):
    """p_0 = 0, p_1 = .22, p_j+1 = p_j + max(p_j - p_j-1 - .03, .06); w_j = ceil(p_j steps)."""
    before, share, marks = Fraction(0), Fraction(22, 100), set()
    while share <= 1:
        marks.add(math.ceil(share * steps))
        before, share = share, share + max(share - before - Fraction(3, 100), Fraction(6, 100))
    return sorted(marks)


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1] and checkpoints(2) == [1, 2] and checkpoints(3) == [1, 2, 3]
    assert [checkpoints(steps) for steps in range(1, 1001)] == [fractions_of(steps) for steps in range(1, 1001)]


LOSSES = {  # of an image's logits [C, N] and labels [N], all valid, for gradient t of steps
    "ce": lambda u, y, t, steps: F.cross_entropy(u.T, y, reduction="sum"),
    "mce": lambda u, y, t, steps: (F.cross_entropy(u.T, y, reduction="none") * (u.argmax(0) == y)).sum(),
    "js": lambda u, y, t, steps: js(u.softmax(0), y),
    "segpgd": lambda u, y, t, steps: segpgd(u, y, (t - 1) / (2 * steps)),
}


def js(p, labels):
    onehot = F.one_hot(labels, len(p)).T
    middle = (p + onehot) / 2
    return 0.5 * ((p * (p / middle).log()).sum() - middle.gather(0, labels[None]).log().sum())


def segpgd(u, y, share):
    hit = (u.argmax(0) == y).to(u)
    return (F.cross_entropy(u.T, y, reduction="none") * (hit * (1 - share) + (1 - hit) * share)).sum()


class Image:
    """What the second APGD knows of the model: f, the mean cross-entropy, the gradient of a loss, the right pixels."""

    def __init__(self, model, image, labels, loss):
        self.model, self.loss, self.x = model, LOSSES[loss], image.numpy()
        self.valid = labels != 255
        self.labels = labels[self.valid]

    def __call__(self, x, t, steps):
        """f(x), gradient t of the loss at x, right pixels at x."""
        point = torch.from_numpy(x).clone().requires_grad_(True)
        logits = self.model(point[None])[0][:, self.valid]
        gradient, = torch.autograd.grad(self.loss(logits, self.labels, t, steps), point)
        f = F.cross_entropy(logits.T, self.labels).item()
        return f, gradient.numpy(), (logits.argmax(0) == self.labels).sum().item()


def projected(z, x, eps, norm):
    delta = z - x
    if norm == "linf":
        delta = np.clip(delta, -eps, eps)
    else:
        delta = delta * min(1.0, eps / max(np.sqrt((delta**2).sum()), 1e-300))
    return np.clip(x + delta, 0, 1)


def direction(gradient, norm):
    return np.sign(gradient) if norm == "linf" else gradient / (np.sqrt((gradient**2).sum()) + 1e-300)


def apgd(image, start, *, eps, steps, norm):
    """Of one image, a generator of iterates that is sent what the attack under test took for each of them.

    Returns the iterate with the fewest right pixels (of equal ones the last), their number, and what happened at the
    marks.
    """
    eta, alpha, rho, events = 2 * eps, 0.75, 0.75, Counter()
    start = yield start
    x, (f0, g, fewest) = [start], image(start, 1, steps)
    f, best = [f0], start
    x_max, f_max, g_max = start, f0, g
    w, f_max_at, reduced_at = [0, *fractions_of(steps)], {0: f0}, {0: False}
    for k in range(1, steps + 1):
        if fewest == 0:
            break
        z = projected(x[-1] + eta * direction(g, norm), image.x, eps, norm)
        if k > 1:
            z = projected(x[-1] + alpha * (z - x[-1]) + (1 - alpha) * (x[-1] - x[-2]), image.x, eps, norm)
        z = yield z
        x.append(z)
        value, g, count = image(z, k + 1, steps)
        for other in (f_max, f[-1]):
            assert value == other or abs(value - other) > 1e-10, "rounding decides, choose another seed"
        f.append(value)
        if count <= fewest:
            best, fewest = z, count
        if value > f_max:
            x_max, f_max, g_max = z, value, g
        if k in w:
            last = w[w.index(k) - 1]
            rises = sum(f[i + 1] > f[i] for i in range(last, k))
            slow, stuck = rises < rho * (k - last), not reduced_at[last] and f_max_at[last] == f_max
            reduced_at[k], f_max_at[k] = slow or stuck, f_max
            if reduced_at[k]:
                eta /= 2
                events["goes back"] += value != f_max
                x[-1], f[-1], g = x_max, f_max, g_max
            events["halved" if slow or stuck else "kept"] += 1
            events["only the second rule"] += stuck and not slow and last > 0
            events["only the second rule, at the first mark"] += stuck and not slow and last == 0
            events["the first rule by a hair"] += rises == rho * (k - last)
            events["again before any rise"] += slow and reduced_at[last] and f_max_at[last] == f_max
    return best, fewest, events


def compare(found, asked, model, images, labels, loss="ce", *, starts=None, stages, norm):
    """Assert that the attack which asked for `asked` and found `found` is the second APGD; returns what happened at
    all marks.

    Each of its iterates is compared to what follows from those before it: over many steps a difference in the last bit
    grows, how much depends on the CPU.
    """
    events, asked = Counter(), iter(asked)
    best = list((images if starts is None else starts).numpy())
    subjects = {k: Image(model, images[k], labels[k], loss) for k in range(len(images))}
    for eps, steps in stages:
        runs = {k: apgd(image, projected(best[k], image.x, eps, norm), eps=eps, steps=steps, norm=norm)
                for k, image in subjects.items()}
        expected = {k: next(run) for k, run in runs.items()}
        while runs:
            taken = next(asked)
            torch.testing.assert_close(taken, torch.from_numpy(np.stack(list(expected.values()))), rtol=0, atol=1e-9)
            for (k, run), point in zip(list(runs.items()), taken.numpy(), strict=True):
                try:
                    expected[k] = run.send(point)
                except StopIteration as end:
                    best[k], fewest, more = end.value
                    events += more
                    if fewest == 0:
                        del subjects[k]
                    del runs[k], expected[k]
    assert next(asked, None) is None
    assert torch.equal(found, torch.from_numpy(np.stack(best)))
    return events


EPS = {"linf": 0.03, "l2": 0.4}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", EPS)
def test_is_the_paper(norm, loss, smooth, queries):
    """Images, one by one, over seeds and numbers of steps; all of the step rule's branches are taken on the way."""
    total = Counter()
    for seed, steps in enumerate([1, 2, 3, 5, 9, 14, 25, 40], start=8):
        model, images, labels = smooth(seed, images=2)
        eps, asked = EPS[norm] * (1 + seed % 3), queries(model)
        found = APGD(eps=eps, steps=steps, norm=norm, attack_loss=loss, random_start=False)(model, images, labels)
        assert (found != images).any()
        total += compare(found, tuple(asked), model, images, labels, loss, stages=[(eps, steps)], norm=norm)
    assert total["kept"] and total["halved"] >= 20


class Scripted(nn.Module):
    """A smooth network, with a say in the loss of every iterate: call i takes script[i] off the logits of class 0."""

    def __init__(self, network, script):
        super().__init__()
        self.network, self.script, self.calls = network, script, 0

    def forward(self, images):
        self.calls += 1
        return self.network(images) - self.script[self.calls - 1] * torch.eye(4)[0].view(4, 1, 1)


def test_every_branch_of_the_step_rule(smooth, queries):
    """Losses that mostly rise a little and now and then fall a lot, some at once."""
    total, steps = Counter(), 40
    for seed in range(20):
        network, images, labels = smooth(seed, images=1)
        generator = torch.Generator().manual_seed(seed)
        labels[(labels != 255) & (torch.rand(labels.shape, generator=generator) < 0.7)] = 0
        change = torch.rand(steps + 1, dtype=torch.float64, generator=generator)
        change = torch.where(change < (0.1, 0.2, 0.3, 0.5)[seed % 4], -0.8, 0.2)
        change[1] -= 2 * (seed % 5 == 0)
        model = Scripted(network, change.cumsum(0))
        asked = queries(model)
        found = APGD(eps=1e-3, steps=steps, random_start=False)(model, images, labels)
        assert model.calls == steps + 1
        model.calls = 0
        total += compare(found, tuple(asked), model, images, labels, stages=[(1e-3, steps)], norm="linf")
    assert len(total) == 7 and min(total.values()) >= 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", EPS)
def test_with_red_eps_too(norm, loss, smooth, queries):
    """30, 30 and 40 % of the steps in balls of 2, 1.5 and 1 eps, each begun at the best of the one before."""
    for seed, steps, shares in [(0, 10, (3, 3, 4)), (1, 33, (9, 9, 15)), (2, 4, (1, 1, 2))]:
        model, images, labels = smooth(40 + seed, images=2)
        eps, asked = EPS[norm], queries(model)
        found = APGD(eps=eps, steps=steps, norm=norm, attack_loss=loss, random_start=False,
                     red_eps=True)(model, images, labels)
        stages = list(zip((2 * eps, 1.5 * eps, eps), shares, strict=True))
        compare(found, tuple(asked), model, images, labels, loss, stages=stages, norm=norm)
        plain = APGD(eps=eps, steps=steps, norm=norm, attack_loss=loss, random_start=False)(model, images, labels)
        assert (found != plain).any()


@pytest.mark.parametrize("red_eps", [False, True])
@pytest.mark.parametrize("norm", EPS)
def test_begins_at_a_random_point_of_the_first_ball(norm, red_eps, smooth, queries):
    """The point that PGD without a step returns is where the second APGD begins: of 2 eps with red_eps."""
    model, images, labels = smooth(5)
    eps, ids, asked = EPS[norm], [4, 2, 7], queries(model)
    found = APGD(eps=eps, steps=10, norm=norm, red_eps=red_eps, seed=3)(model, images, labels, image_ids=ids)
    asked = tuple(asked)
    radius = 2 * eps if red_eps else eps
    starts = PGD(eps=radius, steps=1, step_size=0.0, norm=norm, seed=3)(model, images, labels, image_ids=ids)
    stages = [(2 * eps, 3), (1.5 * eps, 3), (eps, 4)] if red_eps else [(eps, 10)]
    compare(found, asked, model, images, labels, starts=starts, stages=stages, norm=norm)


def test_begins_where_it_is_told(smooth, queries):
    """After a look at the start itself."""
    model, images, labels = smooth(6)
    start = images + 0.03 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = queries(model)
    found = APGD(eps=0.03, steps=12)(model, images, labels, start=start)
    compare(found, tuple(asked[1:]), model, images, labels, starts=start, stages=[(0.03, 12)], norm="linf")


@pytest.mark.parametrize(("steps", "stages"), [(1, (1,)), (2, (2,)), (3, (3,)), (4, (1, 1, 2)), (20, (6, 6, 8)),
                                               (300, (90, 90, 120))])
def test_red_eps_shares_out_the_steps(steps, stages, smooth, queries):
    """Where 30 % is no whole step yet, all go to the last ball; every ball takes one forward pass more."""
    model, images, labels = smooth(0)
    asked = queries(model)
    attack = APGD(eps=1e-4, steps=steps, red_eps=True)
    outcome = attack.run(model, images, labels, image_ids=range(3))
    assert outcome.backwards.tolist() == [steps] * 3 and outcome.forwards.tolist() == [steps + len(stages)] * 3
    assert len(asked) == steps + len(stages)
    assert (outcome.images - images).abs().max() <= 1e-4
    radii = [(points - images).abs().max().item() / 1e-4 for points in asked]
    bounds = [radius for radius, count in zip((2, 1.5, 1)[-len(stages):], stages, strict=True)
              for _ in range(count + 1)]
    assert all(radius <= bound * (1 + 1e-9) for radius, bound in zip(radii, bounds, strict=True))
    ends = np.cumsum([count + 1 for count in stages])
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):  # each ball is filled
        assert max(radii[begin:end]) == pytest.approx(bounds[begin], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_passes(steps, smooth, queries):
    """steps + 1 forward and steps backward passes: the last iterate's gradient is never asked for."""
    model, images, labels = smooth(1)
    asked, graphs = queries(model), []
    model.register_forward_hook(lambda module, args, logits: graphs.append(logits.requires_grad))
    outcome = APGD(eps=1e-3, steps=steps).run(model, images, labels)
    assert outcome.forwards.tolist() == [steps + 1] * 3 and outcome.backwards.tolist() == [steps] * 3
    assert len(asked) == steps + 1 and graphs == [True] * steps + [False]


def test_the_first_step_goes_the_whole_way(smooth):
    """2 eps, cut to eps: after one step every value is in a corner of the ball, wherever it began."""
    model, images, labels = smooth(2)
    labels = torch.where(labels == 255, 0, labels)
    delta = (APGD(eps=0.02, steps=1)(model, images, labels, image_ids=range(3)) - images).abs()
    inside = ((images > 0.02) & (images < 0.98)).flatten(1)
    moved = (delta.flatten(1)[inside] - 0.02).abs() < 1e-9
    assert moved.double().mean() > 0.99


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps 0"):
        APGD(eps=0.1, steps=0)
