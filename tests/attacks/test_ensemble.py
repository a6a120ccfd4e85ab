"""Ensembles choose the worst member for every image, compared with the members run alone."""
import pytest
import torch
from torch import nn

from attacks import ENSEMBLE_LOSSES, SEA, SEA_LOSSES, AllLosses, Attack, Ensemble, Noise

EPS = {"linf": 0.03, "l2": 0.4}
WEIGHTS = (0.05, 0.6, 0.25, 0.1)


class Fixed(Attack):
    """An attack that returns the given images."""

    name = "fixed"

    def __init__(self, images):
        super().__init__(eps=1.0)
        self.points = images

    def attempt(self, problem, initial):
        return self.points, None


@pytest.fixture
def threshold():
    """A network that predicts class 1 from 1/2 up."""
    model = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1))
        model.bias.copy_(torch.tensor([1.0, -1.0]))
    return model


def test_each_image_gets_the_member_with_the_fewest_correct_pixels(threshold):
    """Image 0 loses pixels to the first, 1 to the second, 2 and 3 to both equally, 4 to neither; 255 is ignored."""
    images, labels = torch.full((5, 1, 1, 4), 0.75), torch.ones(5, 1, 4, dtype=torch.int64)
    labels[1, 0, 2:] = 255
    one, two = images.clone(), images.clone()
    one[0, ..., :3] = 0.2
    two[0, ..., :2] = 0.2
    one[1, ..., 2:] = 0.2  # void pixels only
    two[1, ..., :1] = 0.3
    one[2], two[2] = 0.1, 0.2
    one[3, ..., 0], two[3, ..., 1] = 0.1, 0.1
    one[4], two[4] = 0.8, 0.9
    outcome = Ensemble([Fixed(one), Fixed(two)]).run(threshold, images, labels)
    assert torch.equal(outcome.images, torch.stack([one[0], two[1], one[2], one[3], one[4]]))
    assert outcome.forwards.tolist() == [2] * 5 and outcome.backwards.tolist() == [0] * 5  # only the passes to choose
    outcome = Ensemble([Fixed(two), Fixed(one)]).run(threshold, images, labels)
    assert torch.equal(outcome.images, torch.stack([one[0], two[1], two[2], two[3], two[4]]))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_members_does_not_matter(order, threshold):
    """A published ensemble always returned its first member's result."""
    images, labels = torch.full((3, 1, 1, 3), 0.75), torch.ones(3, 1, 3, dtype=torch.int64)
    members = []
    for k in range(3):
        points = images.clone()
        points[k], points[(k + 1) % 3, ..., 0] = 0.1, 0.1
        members.append(points)
    found = Ensemble([Fixed(members[k]) for k in order])(threshold, images, labels)
    assert (found == 0.1).all()


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", [SEA, AllLosses, Noise])
def test_equals_the_members_run_alone(kind, norm, smooth, right):
    winners = set()
    for seed in range(3):
        model, images, labels = smooth(30 + seed)
        settings = {} if kind is Noise else {"class_weights": WEIGHTS, "steps": 7}
        attack = kind(eps=EPS[norm], norm=norm, seed=seed, **settings)
        outcome = attack.run(model, images, labels, image_ids=[4, 8, 6])
        alone = [member.run(model, images, labels, image_ids=[4, 8, 6]) for member in attack.members]
        counts = torch.stack([right(model, member.images, labels) for member in alone])
        chosen = [column.index(min(column)) for column in counts.T.tolist()]
        assert torch.equal(outcome.images, torch.stack([alone[k].images[b] for b, k in enumerate(chosen)]))
        assert torch.equal(outcome.forwards, sum(member.forwards for member in alone) + len(alone))
        assert torch.equal(outcome.backwards, sum(member.backwards for member in alone))
        winners |= set(chosen)
    assert len(winners) >= 2


@pytest.mark.parametrize(("kind", "losses"), [(SEA, ("mce_bal", "mce", "js")),
                                              (AllLosses, (
    "ce", "segpgd", "mce", "mce_bal", "mce_even", "logodds", "cospgd", "js", "tsallis"))])
def test_members_are_apgd_with_red_eps(kind, losses):
    attack = kind(eps=0.03, norm="l2", steps=50, restarts=2, seed=4, class_weights=WEIGHTS)
    assert kind.losses == losses and SEA.losses == SEA_LOSSES and AllLosses.losses == ENSEMBLE_LOSSES
    assert [member.attack_loss for member in attack.members] == list(losses)
    for member in attack.members:
        assert member.settings() == {
            "attack": "apgd", "attack_loss": member.attack_loss, "norm": "l2", "eps": 0.03, "restarts": 2,
            "target": None, "class_weights": list(WEIGHTS) if member.attack_loss == "mce_bal" else None, "seed": 4,
            "steps": 50, "random_start": True, "red_eps": True}
    assert attack.settings() == {
        **attack.members[0].settings(), "attack": attack.name, "attack_loss": None, "class_weights": list(WEIGHTS),
        "members": [f"apgd-{loss}" for loss in losses]}
    assert [member.steps for member in kind(eps=0.03, class_weights=WEIGHTS).members] == [300] * len(losses)


def test_every_member_attacks_every_image_on_its_own(smooth):
    """The second member also attacks images in which the first left no correct pixel."""
    model, images, labels = smooth(2)
    seen = []

    class Spy(Fixed):
        def attempt(self, problem, initial):
            seen.append((problem.images.clone(), initial.active.tolist(), initial.points))
            return super().attempt(problem, initial)

    labels = torch.where(labels == 255, 255, model(images).argmin(1))
    Ensemble([Spy(images), Spy(images)])(model, images, labels)
    assert [active for _, active, _ in seen] == [[True] * 3] * 2
    assert all(torch.equal(points, images) and start is None for points, _, start in seen)


def test_noise_has_two_members():
    settings = Noise(eps=0.03).settings()
    assert settings["attack"] == "noise" and settings["members"] == ["uniform_noise", "sign_noise"]
    assert settings["attack_loss"] is settings["class_weights"] is None


def test_class_weights_are_required():
    with pytest.raises(TypeError, match="class_weights"):
        SEA(eps=0.03)
    with pytest.raises(ValueError, match="mce_bal needs class_weights"):
        SEA(eps=0.03, class_weights=None)
