"""Several networks attacked as one: the gradient of the mean of their losses, against autograd through each alone."""
import pytest
import torch
from torch.nn import functional as F

from attacks import APGD, ATTACKS, LOSSES, PGD, Networks, Square, build_attack, join
from attacks.pixels import Pixels
from attacks.search import Problem
from utils.snapshots import differences, take_snapshot

WEIGHTS = (0.1, 0.4, 0.2, 0.3)


class Always(torch.nn.Module):
    """Every pixel stays in class 0, so that no attack ends early."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images).tanh()
        return logits + torch.tensor([9.0, 0, 0, 0]).view(1, 4, 1, 1)


@pytest.fixture
def pair(smooth):
    """Two networks that agree on some pixels, one of them far more confident; images, labels."""
    (one, images, labels), (other, _, _) = smooth(1), smooth(2)
    with torch.no_grad():
        other.body[2].weight.mul_(3)
    return [one, other], images, labels


def differentiate_alone(network, images, labels, loss: str, t: int, steps: int, target=None):
    """Return the gradient of a network's mean loss over its pixels, by autograd; pixels' weights are constants."""
    points = images.clone().requires_grad_(True)
    logits = network(points)
    wanted = labels if target is None else torch.where(labels == 255, labels, target)
    pixels = Pixels(logits.detach(), wanted, t=t, steps=steps)
    kind = LOSSES[loss]
    weight = (kind.log_weight if target is None else kind.targeted_log_weight)(pixels).exp()
    if kind.balanced:
        weight = weight * torch.tensor(WEIGHTS, dtype=torch.float64)[wanted.clamp_max(3)]
    errors = F.cross_entropy(logits, wanted, ignore_index=255, reduction="none")
    counted = (wanted != 255).flatten(1).sum(1).view(-1, 1, 1)
    gradient, = torch.autograd.grad((torch.where(wanted == 255, 0, weight) * errors / counted).sum(), points)
    return gradient if target is None else -gradient


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_mean_of_the_losses(pair, loss, target):
    networks, images, labels = pair
    if target is not None and LOSSES[loss].targeted_log_weight is None:
        pytest.skip("no targeted form")
    problem = Problem(Networks(networks), images, labels, loss=loss, target=target, class_weights=WEIGHTS)
    _, found = problem.differentiate(images, torch.arange(3), 3, 7)
    wanted = sum(differentiate_alone(network, images, labels, loss, 3, 7, target) for network in networks) / 2
    close = 1e-6 if LOSSES[loss].balanced else 1e-9  # class weights are in float32
    for mine, theirs in zip(found, wanted, strict=True):  # each image's gradient has its own scale
        torch.testing.assert_close(mine / mine.abs().max(), theirs / theirs.abs().max(), rtol=close, atol=close)
    alone = differentiate_alone(networks[0], images, labels, loss, 3, 7, target)
    assert (found.sign() != alone.sign()).float().mean() > 0.05  # the second network counts


def test_the_score_and_the_loss_are_over_all_networks(pair):
    networks, images, labels = pair
    rows = torch.arange(3)
    whole = Problem(Networks(networks), images, labels)
    alone = [Problem(network, images, labels) for network in networks]
    pixels, parts = whole.predict(images, rows), [each.predict(images, rows) for each in alone]
    assert torch.equal(whole.score(pixels), sum(each.score(part) for each, part in zip(alone, parts, strict=True)))
    means = torch.stack([each.mean_loss(part) for each, part in zip(alone, parts, strict=True)])
    torch.testing.assert_close(whole.mean_loss(pixels), means.mean(0))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_takes_networks_and_leaves_them_alone(pair, name):
    networks, images, labels = pair
    attack = build_attack(name, eps=0.1, steps=4, class_weights=WEIGHTS)
    before = take_snapshot(model := Networks(networks))
    found = attack(model, images, labels, image_ids=[1, 2, 3])
    assert (found - images).abs().max() <= 0.1 * (1 + 1e-12) and found.min() >= 0 and found.max() <= 1
    assert not differences(before, take_snapshot(model))
    twice = attack(Networks([networks[0]] * 2), images, labels, image_ids=[1, 2, 3])
    assert torch.equal(twice, attack(networks[0], images, labels, image_ids=[1, 2, 3]))  # a mean of equal ones


def test_both_networks_lose_what_one_alone_would_keep(pair):
    networks, images, labels = pair
    attack = PGD(eps=0.15, steps=20, best_iterate=True)
    left = [Problem(network, images, labels).score_points for network in networks]
    everywhere = torch.ones(3, dtype=torch.bool)
    together, first = (attack(model, images, labels, image_ids=[1, 2, 3]) for model in (Networks(networks),
                                                                                        networks[0]))
    assert left[1](together, everywhere).sum() < left[1](first, everywhere).sum()
    assert left[0](together, everywhere).sum() < left[0](images, everywhere).sum()


def test_a_target_map_counts_for_each_network(pair):
    networks, images, labels = pair
    target = torch.randint(0, 4, labels.shape[1:], generator=torch.Generator().manual_seed(1))
    whole = Problem(Networks(networks), images, labels, target=target)
    alone = [Problem(network, images, labels, target=target) for network in networks]
    scores = [problem.score(problem.predict(images, torch.arange(3))) for problem in (whole, *alone)]
    assert torch.equal(scores[0], scores[1] + scores[2])


def test_networks_of_other_classes_are_refused(pair):
    networks, images, labels = pair
    small = torch.nn.Conv2d(3, 3, 1).double()
    with pytest.raises(ValueError, match="logits differ in shape"):
        PGD(eps=0.1)(Networks([networks[0], small]), images, labels)


def test_one_network_is_itself(pair):
    networks, _, _ = pair
    assert join(networks[:1]) is networks[0] and list(join(networks).networks) == networks


@pytest.mark.parametrize(("attack", "gradients"), [
    (PGD(eps=0.1, steps=7, restarts=2), 14), (APGD(eps=0.1, steps=20, red_eps=True), 20), (Square(eps=0.1), 0),
    (build_attack("noise", eps=0.1), 0), (build_attack("fgsm", eps=0.1), 1),
    (build_attack("race", eps=0.1, steps=9, restarts=2), 18), (build_attack("min_radius", steps=11), 11),
    (build_attack("sea", eps=0.1, steps=10, class_weights=WEIGHTS), 30)])
def test_the_number_of_gradients_is_what_an_attack_takes(pair, attack, gradients):
    networks, images, labels = pair
    assert attack.count_gradients() == gradients
    images, labels = images[:1] * 0 + 0.5, torch.where(labels[:1] == 255, 255, 0)  # of one class: some stay right
    outcome = attack.run(Always(networks[0]), images, labels, image_ids=[1])
    assert outcome.backwards.tolist() == [gradients]
