"""The attack of TRADES on training images: away from the prediction for the image, not from its label."""
import torch

from attacks.norms import NORMS
from attacks.pgd import PGD
from attacks.pixels import IGNORE

START = 1e-3  # the standard deviation of the first points: at the image itself the gradient is 0


class TradesPGD(PGD):
    """`steps` projected steps of ascent on KL(p(image) || p(point)), summed over the labelled pixels.

    p: the softmax of the logits. The first point is the image plus normal noise of 0.001, projected. Settings are
    PGD's. Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
    algorithm 1.
    """

    name = "trades"

    def __init__(self, *, eps: float, step_size: float | None = None, steps: int = 3, norm: str = "linf",
                 seed: int = 1):
        super().__init__(eps=eps, step_size=step_size, steps=steps, norm=norm, seed=seed)

    def attempt(self, problem, initial):
        """Take the steps; all pixels but ignored ones count, right or wrong."""
        model, images = problem.model, problem.images
        ball = NORMS[self.norm](images, self.eps)
        counted = (problem.labels != IGNORE)[:, None]
        with torch.no_grad():
            target = self._log_softmax(model, images).exp() * counted
        points = ball.project(images + START * initial.draw(torch.randn))
        for _ in range(self.steps):
            points.requires_grad_()
            with torch.enable_grad():  # the point's part of the divergence
                loss = -(target * self._log_softmax(model, points)).sum()
            gradient, = torch.autograd.grad(loss, points)
            if not gradient.isfinite().all():
                raise FloatingPointError("the gradient is not finite")
            points = ball.project(points.detach() + self.step_size * ball.direction(gradient))
        problem.forwards += 1 + self.steps
        problem.backwards += self.steps
        return points, None

    def settings(self):
        """Return what describes the attack; its loss is the divergence."""
        return {"attack": self.name, "norm": self.norm, "eps": self.eps, "steps": self.steps,
                "step_size": self.step_size}

    @staticmethod
    def _log_softmax(model, points):
        logits = model(points)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
