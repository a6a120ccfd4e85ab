"""Projected gradient descent (ascent on the loss)."""
import torch

from attacks.base import Attack
from attacks.norms import NORMS
from attacks.search import Search


class PGD(Attack):
    """`steps` projected steps from a random point: x <- project(x + step_size * direction(gradient)).

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1. Images
    [B, C, H, W] in [0, 1]; eps and step_size in the same units, step_size defaults to eps / 4. Returns the last
    iterate, or with best_iterate each image's best one. An image stops changing once none of its pixels is correct.

        PGD(eps=4 / 255, steps=10)(model, images, labels)
    """

    name = "pgd"

    def __init__(self, *, eps: float, step_size: float | None = None, steps: int = 10, norm: str = "linf",
                 random_start: bool = True, best_iterate: bool = False, attack_loss: str | None = None,
                 restarts: int = 1, target=None, class_weights=None, seed: int = 1):
        super().__init__(eps=eps, norm=norm, attack_loss=attack_loss, restarts=restarts, target=target,
                         class_weights=class_weights, seed=seed)
        self.step_size, self.steps = float(eps / 4 if step_size is None else step_size), int(steps)
        self.random_start, self.best_iterate = random_start, best_iterate
        if self.steps < 1 or not 0 <= self.step_size < float("inf"):
            raise ValueError(f"steps {steps}, step_size {step_size}: steps must be at least 1, "
                             "step_size a finite number of at least 0")

    def attempt(self, problem, initial):
        """Take the steps from the initial points."""
        ball = NORMS[self.norm](problem.images, self.eps)
        points = ball.start_from(initial)
        search = Search(problem, points, initial.active)
        for t in range(1, self.steps + 1):
            search.evaluate(points, t, self.steps)
            moved = ball.project(points + self.step_size * ball.direction(search.gradient))
            points = torch.where(search.active.view(-1, 1, 1, 1), moved, points)
        if not self.best_iterate:
            return points, None
        search.evaluate(points)
        return search.best, search.score

    def settings(self):
        """Return the settings of every attack, and the steps."""
        return {**super().settings(), "steps": self.steps, "step_size": self.step_size,
                "random_start": self.random_start, "best_iterate": self.best_iterate}
