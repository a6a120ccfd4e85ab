"""The smallest radius at which almost all pixels of an image are wrong."""
import math

import torch
from torch import Tensor

from attacks.base import Attack
from attacks.norms import NORMS
from attacks.search import Problem
from utils.wide import widest

MAX_EPS = {"linf": 64 / 255, "l2": 64.0}
FIRST_RADIUS = {"linf": 0.25 / 255, "l2": 0.1}
FEWEST_TRIES, MOST_TRIES, ROUNDS = 2, 6, 16  # of steps at one radius until it changes: steps / ROUNDS within these
SLOWEST_GROWTH, FASTER_GROWTH = 1.25, 2.0  # the radius grows by the first factor, plus the second times the right share
LARGEST_CUT, SMALLEST_CUT = 0.3, 0.01  # of the smallest radius found, to get the next one to try
LARGEST_STEP, SMALLEST_STEP = 0.5, 0.1  # in radii, of the first and last step at one radius; between them a half cosine
SPARE = 0.01  # of the pixels that may stay right: fewer do, as rounding differs where the result is scored


class MinRadius(Attack):
    """Search for the smallest radius at which a share of each image's labelled pixels is wrong.

    As in Pintor et al., "Fast minimum-norm adversarial attacks", NeurIPS 2021, every image has its own radius, which
    follows what its steps reach, here by rules of this program: it grows after some steps, the faster the more
    pixels are right, until an iterate succeeds; from then on it is a little below the smallest radius that did, by less
    each time that such steps fail. Steps are those of Race, on the loss "blend", from the clean image.

    max_eps: the largest radius tried (default 64/255, l2 64). min_radius_share: of the labelled pixels, in (0, 1]. An
    image that is that wrong before stays as it is, at radius 0; one that never is gets its iterate with the fewest
    correct pixels. Nothing is random. Cost: at most `steps` gradients.

        adversarial = MinRadius(steps=100)(model, images, labels)
        radii = (adversarial - images).abs().amax((1, 2, 3))
    """

    name, default_loss = "min_radius", "blend"

    def __init__(self, *, max_eps: float | None = None, steps: int = 100, norm: str = "linf",
                 min_radius_share: float = 0.99):
        super().__init__(eps=MAX_EPS.get(norm, 0) if max_eps is None else max_eps, norm=norm)
        self.steps, self.share = int(steps), float(min_radius_share)
        if self.steps < 2:
            raise ValueError(f"steps {steps}: min_radius needs at least 2, the first is spent on the clean image")
        if not 0 < self.share <= 1:
            raise ValueError(f"min_radius_share {min_radius_share}: must be above 0 and at most 1")

    def _run_attempts(self, problem, image_ids, start):  # noqa: ARG002
        """Step on, each image in a ball of its own radius; from `start`, if given, after a look at the clean image."""
        search = _Radii(problem, self)
        points, before = problem.images.clone(), None
        for t in range(1, self.steps + 1):
            gradient = search.evaluate(points, t)
            if not search.active.any():
                break
            if t == 1 and start is not None:
                points = NORMS[self.norm](problem.images, self.eps).project(start.detach())
                search.radius = search.radius.maximum(NORMS[self.norm].measure(points - problem.images))
                continue
            ball = NORMS[self.norm](problem.images, _expand(search.radius))
            size = _expand(search.step_size()).to(points)
            points, before = ball.step(points, before, gradient, size), points
        return search.best

    def settings(self):
        """Return the settings of every attack, the steps and the share."""
        return {**super().settings(), "attack_loss": None, "steps": self.steps, "min_radius_share": self.share}


class _Radii:
    """The radius of each image and the best iterate so far.  Attributes are [B], `best` is [B, C, H, W].

    radius: of the ball that the next step stays in. smallest: the radius of `best` if it succeeded, else inf. score:
    its correct pixels. active: False once nothing is left to reduce.
    """

    def __init__(self, problem: Problem, attack: MinRadius):
        self.problem, self.attack = problem, attack
        images = problem.images
        first = min(FIRST_RADIUS[attack.norm], attack.eps)
        self.radius = torch.full((len(images),), first, dtype=widest(images.device), device=images.device)
        self.smallest, self.score = torch.full_like(self.radius, torch.inf), torch.full_like(self.radius, torch.inf)
        self.cut = torch.full_like(self.radius, LARGEST_CUT)
        self.tries = min(max(attack.steps // ROUNDS, FEWEST_TRIES), MOST_TRIES)
        self.tried = torch.zeros_like(self.radius)  # steps at this radius
        self.best, self.gradient = images.clone(), torch.zeros_like(images)
        self.active = torch.ones(len(images), dtype=torch.bool, device=images.device)

    def evaluate(self, points: Tensor, t: int) -> Tensor:
        """Evaluate `points` [B, C, H, W], iterate number t; set each image's next radius and return the gradient."""
        rows = self.active.nonzero().flatten()
        pixels, self.gradient[rows] = self.problem.differentiate(points, rows, t, self.attack.steps)
        score, labelled = torch.full_like(self.score, torch.inf), torch.ones_like(self.score)
        score[rows], labelled[rows] = self.problem.score(pixels), pixels.valid.flatten(1).sum(1).to(labelled)
        distance = NORMS[self.attack.norm].measure(points - self.problem.images)
        allowed = ((1 - self.attack.share) * labelled + 1e-6).floor()
        succeeds = score <= (allowed if t == 1 else (allowed * (1 - SPARE)).ceil())  # 1: the clean image
        better = torch.where(succeeds, distance < self.smallest, self.smallest.isinf() & (score < self.score))
        self.best[better], self.score[better] = points[better], score[better]
        self.smallest = torch.where(succeeds & better, distance, self.smallest)
        self._choose_radius(score / labelled, succeeds & better)
        self.active = self.smallest > 0
        return self.gradient

    def _choose_radius(self, right: Tensor, improved: Tensor):
        self.tried += 1
        fails, found = (self.tried >= self.tries) & ~improved, self.smallest.isfinite()
        self.cut = torch.where(fails & found, (self.cut / 2).clamp_min(SMALLEST_CUT), self.cut)
        grown = self.radius * (SLOWEST_GROWTH + FASTER_GROWTH * right)
        self.radius = torch.where(fails & ~found, grown.clamp_max(self.attack.eps), self.radius)
        self.radius = torch.where((fails | improved) & found, self.smallest * (1 - self.cut), self.radius)
        self.tried = torch.where(fails | improved, 0, self.tried)

    def step_size(self) -> Tensor:
        """Return each image's step size."""
        share = (1 + torch.cos(math.pi * self.tried / self.tries)) / 2
        return self.radius * (SMALLEST_STEP + (LARGEST_STEP - SMALLEST_STEP) * share)


def _expand(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
