"""Race: blends of losses attack each image, and the one that does best gets the rest of its gradients."""
import copy
from math import cos, pi

import torch

from attacks.base import Attack
from attacks.norms import NORMS
from attacks.search import Search

FIRST, MEMBERS = "blend", ("blend", "blend_late")  # losses: of the common way, and of those that race
FIRST_SHARE, RACE_SHARE = 0.6, 0.1  # of the gradients: on the common way, and of all members before one is chosen
LEAST_STEPS = 2 + len(MEMBERS)
LARGEST_STEP, SMALLEST_STEP = 2.0, 0.1  # in eps, of a way's first and last step; between them a half cosine
SHORT = 3.0, 0.5  # the last step is as long as this over `steps`, at most the second number, if that is longer
LARGEST_RADIUS, SHRINKING = 2.0, 0.4  # in eps, of the first ball; the share of a way until the ball has radius eps
FEW_STEPS = 5  # with so many the ball never is larger than eps, with twice as many at first as large as it can be
AIMS = ("both", "accuracy", "miou")


class Race(Attack):
    """Steps with momentum on blends of losses in a shrinking ball; after a common way the blends compete.

    The ball has at first (from 2 FEW_STEPS on) twice the radius eps, which carries images over regions where fewer
    pixels are wrong, and shrinks to eps within SHRINKING of the steps. Most gradients go into a way on FIRST, the blend
    of five losses. Then each of MEMBERS goes on from there by some steps; the one that leaves fewest correct pixels in
    the image gets the image's remaining steps, and the others stop. Only iterates within eps count, and of each member
    the best one is its candidate.

    steps: gradients of an image, all members together; at least LEAST_STEPS. race_aim: "accuracy" and "both" return for
    each image the candidate with the fewest correct pixels; with "both" records are scored by the best choice among all
    candidates, as a score that pools images, such as mIoU, may be lower with others. "miou" is as "both", but searches
    and returns by the mean over the image's classes of the share that is correct. Cost: `steps` gradients, one more
    forward pass for each member to choose, and one at the end; the members' candidates are then scored.

        Race(eps=1 / 255, steps=30)(model, images, labels)
    """

    name, default_loss = "race", FIRST

    def __init__(self, *, eps: float, steps: int = 30, norm: str = "linf", random_start: bool = True,
                 race_aim: str = "both", restarts: int = 1, seed: int = 1):
        super().__init__(eps=eps, norm=norm, restarts=restarts, seed=seed)
        self.steps, self.random_start, self.aim = int(steps), random_start, race_aim
        self.even_score = race_aim == "miou"
        self.smallest_step = max(SMALLEST_STEP, min(SHORT[0] / max(self.steps, 1), SHORT[1]))
        self.largest_radius = min(LARGEST_RADIUS, max(1.0, self.steps / FEW_STEPS))
        if self.steps < LEAST_STEPS:
            raise ValueError(f"steps {steps}: race needs at least {LEAST_STEPS} for its {len(MEMBERS)} candidates")
        if race_aim not in AIMS:
            raise ValueError(f"unknown race_aim {race_aim!r}: choose from {', '.join(AIMS)}")

    def attempt(self, problem, initial):
        """Go the common way, let the members race, and let each image's best member go on."""
        first, each, last = plan_steps(self.steps)
        start = NORMS[self.norm](problem.images, self.eps).start_from(initial)
        way = _Way(Search(problem, start, initial.active), self, steps=first + each + last)
        way.go_on(FIRST, first)
        ways = {loss: way.branch() for loss in MEMBERS}
        for loss, way in ways.items():
            way.go_on(loss, each)
            way.score_last()
        chosen = torch.stack([way.search.score for way in ways.values()]).argmin(0)  # the first of equal ones
        for number, (loss, way) in enumerate(ways.items()):
            way.search.active &= chosen == number
            way.go_on(loss, last)
            way.score_last()
            problem.offer(loss, way.search.best, way.search.score)
        scores = torch.stack([way.search.score for way in ways.values()])
        points = torch.stack([way.search.best for way in ways.values()])
        return points[scores.argmin(0), torch.arange(len(start), device=start.device)], scores.amin(0)

    def settings(self):
        """Return the settings of every attack, the steps and the aim."""
        return {**super().settings(), "attack_loss": None, "steps": self.steps, "random_start": self.random_start,
                "race_aim": self.aim}


def plan_steps(steps: int) -> tuple[int, int, int]:
    """Return the gradients of the common way, of each member before one is chosen, and of that one afterwards."""
    first, each = max(1, int(FIRST_SHARE * steps)), max(1, int(RACE_SHARE * steps / len(MEMBERS)))
    return first, each, steps - first - each * len(MEMBERS)


class _Way:
    """A sequence of `steps` iterates of a batch; `search` keeps each image's best one within eps."""

    def __init__(self, search: Search, attack: Race, *, steps: int):
        self.search, self.attack, self.steps = search, attack, steps
        self.points, self.before = search.best.clone(), None
        self.taken, self.inside = 0, True
        self.ball = NORMS[attack.norm](search.problem.images, attack.eps)

    def branch(self) -> "_Way":
        """Return a way that goes on from here without changing this one."""
        other = copy.copy(self)
        other.search = self.search.branch()
        return other

    def go_on(self, loss: str, steps: int):
        """Take `steps` steps with this loss."""
        for _ in range(steps):
            self.search.evaluate(self.points, self.taken + 1, self.steps, loss=loss, inside=self.inside)
            share = self.taken / (self.steps - 1)  # of the way
            smallest = self.attack.smallest_step
            size = smallest + (LARGEST_STEP - smallest) * (1 + cos(pi * share)) / 2
            following = self._make_ball(share).step(self.points, self.before, self.search.gradient,
                                                    size * self.attack.eps)
            active = self.search.active.view(-1, 1, 1, 1)
            self.points, self.before = torch.where(active, following, self.points), self.points
            self.taken += 1

    def score_last(self):
        """Score the points that the last step reached."""
        self.search.evaluate(self.points, inside=self.inside)

    def _make_ball(self, share: float):
        self.inside = share >= SHRINKING or self.attack.largest_radius == 1
        if self.inside:
            return self.ball
        largest = self.attack.largest_radius
        radius = largest + (1 - largest) * share / SHRINKING
        return NORMS[self.attack.norm](self.search.problem.images, radius * self.attack.eps)
