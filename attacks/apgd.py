"""Auto-PGD (APGD): the attack adapts its step size, and optionally shrinks the ball."""
from math import ceil

import torch

from attacks.base import Attack, InitialState
from attacks.norms import NORMS
from attacks.search import Search

MIN_RISING = 0.75  # rho in the paper: with a smaller share of rising steps the loss has stalled
# red_eps: the radii, in eps, of the balls before the last one, and the share of the steps in each.
LARGER_RADII, LARGER_SHARE = (2.0, 1.5), 0.3


class APGD(Attack):
    """Steps with momentum, of size 2 eps at first, halved at checkpoints where the loss stalled; returns best iterates.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, section 3, for segmentation as in Croce, Singh and Hein, ECCV 2024: the step size always follows the
    plain cross-entropy, whatever the loss. An image's best iterate is the one with the fewest correct pixels (for
    mce_bal weighted by class), the last of equal ones. red_eps divides the steps over balls of 2, 1.5 and 1 eps; each
    starts from the best iterate of the one before. An image stops changing once none of its pixels is correct.
    Images [B, C, H, W] in [0, 1]. Cost: `steps` gradients, and one more forward pass for each ball.

        APGD(eps=4 / 255, steps=100, attack_loss="mce", red_eps=True)(model, images, labels)
    """

    name = "apgd"

    def __init__(self, *, eps: float, steps: int = 100, norm: str = "linf", random_start: bool = True,
                 red_eps: bool = False, attack_loss: str | None = None, restarts: int = 1, target=None,
                 class_weights=None, seed: int = 1):
        super().__init__(eps=eps, norm=norm, attack_loss=attack_loss, restarts=restarts, target=target,
                         class_weights=class_weights, seed=seed)
        self.steps, self.random_start, self.red_eps = int(steps), random_start, red_eps
        if self.steps < 1:
            raise ValueError(f"steps {steps}: must be at least 1")

    def attempt(self, problem, initial):
        """Search one ball, or with red_eps one after another."""
        for radius, steps in self._plan_balls():
            ball = NORMS[self.norm](problem.images, radius * self.eps)
            search = Search(problem, ball.start_from(initial), initial.active)
            _ascend(search, ball, steps)
            initial = InitialState(initial.active, points=search.best)
        return search.best, search.score

    def settings(self):
        """Return the settings of every attack, and the steps."""
        return {**super().settings(), "steps": self.steps, "random_start": self.random_start, "red_eps": self.red_eps}

    def _plan_balls(self) -> list[tuple[float, int]]:
        """Return (radius in eps, steps) of each ball: all `steps` together, at least 1 in the last ball."""
        if not self.red_eps:
            return [(1.0, self.steps)]
        each = int(LARGER_SHARE * self.steps)
        return [*((radius, each) for radius in LARGER_RADII if each), (1.0, self.steps - each * len(LARGER_RADII))]


def checkpoints(steps: int) -> list[int]:
    """Return the iterations after which the step size may change: ceil(p_j steps), p = 0.22, 0.41, ... (the paper)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({ceil(share * steps - 1e-9) for share in shares[1:] if share <= 1})


def _ascend(search: Search, ball, steps: int):
    """Run APGD in one ball from search.best; `search` collects the best iterates."""
    points, before = search.best.clone(), None
    search.evaluate(points, 1, steps)
    # The points of highest loss, to return to; search.best are those of lowest score.
    top, top_loss, top_gradient = points.clone(), search.loss.clone(), search.gradient.clone()
    step_size = torch.full_like(top_loss, 2 * ball.eps)  # [B]
    rises, loss, last_checkpoint = torch.zeros_like(step_size), top_loss.clone(), 0
    top_loss_then, kept_size = top_loss.clone(), torch.ones_like(search.active)  # at the last checkpoint
    at_checkpoint = checkpoints(steps)
    for k in range(1, steps + 1):
        points, before = ball.step(points, before, search.gradient, _expand(step_size, points)), points
        search.evaluate(points, *((k + 1, steps) if k < steps else ()))
        rises += search.loss > loss
        loss = search.loss.clone()
        higher = loss > top_loss
        top_loss = torch.where(higher, loss, top_loss)
        top[higher], top_gradient[higher] = points[higher], search.gradient[higher]
        if k in at_checkpoint:
            stalled = (rises < MIN_RISING * (k - last_checkpoint)) | (kept_size & (top_loss_then == top_loss))
            step_size = torch.where(stalled, step_size / 2, step_size)
            points = torch.where(_expand(stalled, points) > 0, top, points)
            search.gradient[stalled], loss[stalled] = top_gradient[stalled], top_loss[stalled]
            rises, last_checkpoint, kept_size, top_loss_then = torch.zeros_like(rises), k, ~stalled, top_loss.clone()


def _expand(values, like):
    """Return [B] as [B, 1, 1, 1] in the images' dtype."""
    return values.view(-1, 1, 1, 1).to(like.dtype)
