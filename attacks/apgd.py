"""Auto-PGD: step sizes that the attack finds itself, and radius reduction."""
from math import ceil

import torch

from attacks.base import Attack, Beginning
from attacks.norms import NORMS
from attacks.search import Search

MOMENTUM, RISES = 0.75, 0.75
WIDE, WIDE_SHARE = (2.0, 1.5), 0.3  # red-eps: balls before the last, in eps, and the share of the steps in each


class APGD(Attack):
    """Steps with momentum from 2 eps on, halved at checkpoints where the loss stalled; each image's best iterate.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, section 3, for segmentation as in Croce, Singh and Hein, ECCV 2024: the step rule follows the plain
    cross-entropy whatever the loss, and the best iterate is the one with the fewest pixels right (for mce_bal weighted
    by class; of equal ones the last). With red_eps the steps are shared out over balls of 2, 1.5 and 1 eps, each
    begun at the last one's best iterate. An image without a correct pixel left is left alone.
    Images [B, C, H, W] in [0, 1]; `steps` gradients and one forward pass more for each ball.

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
            raise ValueError(f"steps {steps}: at least one")

    def attempt(self, problem, begin):
        """The stages, of which a plain run has one."""
        for radius, steps in self._stages():
            ball = NORMS[self.norm](problem.images, radius * self.eps)
            search = Search(problem, ball.first(begin), begin.active)
            _ascend(search, ball, steps)
            begin = Beginning(begin.active, points=search.best)
        return search.best, search.score

    def settings(self):
        """As every attack's, and the steps."""
        return {**super().settings(), "steps": self.steps, "random_start": self.random_start, "red_eps": self.red_eps}

    def _stages(self) -> list[tuple[float, int]]:
        """(radius in eps, steps), all steps together `self.steps`, the last one's at least 1."""
        if not self.red_eps:
            return [(1.0, self.steps)]
        wide = int(WIDE_SHARE * self.steps)
        return [*((radius, wide) for radius in WIDE if wide), (1.0, self.steps - wide * len(WIDE))]


def checkpoints(steps: int) -> list[int]:
    """Iterations at which the step size is looked at: ceil(p_j steps) with p = 0.22, 0.41, ... as in the paper."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({ceil(share * steps - 1e-9) for share in shares[1:] if share <= 1})


def _ascend(search: Search, ball, steps: int):
    """APGD in one ball from search.best on; the iterates end up in `search`."""
    points = before = search.best.clone()
    search.look(points, 1, steps)
    top, top_loss, top_gradient = points.clone(), search.loss.clone(), search.gradient.clone()
    size = torch.full_like(top_loss, 2 * ball.eps)
    rises, loss, previous = torch.zeros_like(size), top_loss.clone(), 0
    top_then, kept = top_loss.clone(), torch.ones_like(search.active)  # as of the last checkpoint
    marks = checkpoints(steps)
    for k in range(1, steps + 1):
        moved = ball.project(points + _wide(size, points) * ball.direction(search.gradient))
        mix = MOMENTUM if k > 1 else 1.0
        points, before = ball.project(points + mix * (moved - points) + (1 - mix) * (points - before)), points
        search.look(points, *((k + 1, steps) if k < steps else ()))
        rises += search.loss > loss
        loss = search.loss.clone()
        higher = loss > top_loss
        top_loss = torch.where(higher, loss, top_loss)
        top[higher], top_gradient[higher] = points[higher], search.gradient[higher]
        if k in marks:
            stalled = (rises < RISES * (k - previous)) | (kept & (top_then == top_loss))
            size = torch.where(stalled, size / 2, size)
            points = torch.where(_wide(stalled, points) > 0, top, points)
            search.gradient[stalled], loss[stalled] = top_gradient[stalled], top_loss[stalled]
            rises, previous, kept, top_then = torch.zeros_like(rises), k, ~stalled, top_loss.clone()


def _wide(values, like):
    """[B] as [B, 1, 1, 1] in the images' dtype."""
    return values.view(-1, 1, 1, 1).to(like.dtype)
