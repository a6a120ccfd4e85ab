"""Attacks of other programs, from their papers, for benchmarks.attack_strength."""
import torch

from attacks import APGD, Attack
from attacks.norms import NORMS
from attacks.search import Search
from utils.optional import import_optional

PADAM_STEP = 2 / 255


class PAdamCos(Attack):
    """Projected Adam on 1 - u_y / ||u|| of the logits u, mean over labelled pixels, from a random point.

    Halmosi, Mohos and Jelasity, "Evaluating the Adversarial Robustness of Semantic Segmentation: Trying Harder Pays
    Off", ECCV 2024: Adam with AMSGrad, step size 2/255, clipping to the ball after each step. Unlike there, the best
    iterate is returned, which is never weaker than the last.
    """

    name, random_start = "padam-cos", True

    def __init__(self, *, eps: float, steps: int, seed: int = 1):
        super().__init__(eps=eps, seed=seed)
        self.steps = steps

    def attempt(self, problem, initial):
        """Take the steps and keep the best iterate."""
        ball = NORMS[self.norm](problem.images, self.eps)
        points = ball.start_from(initial).requires_grad_(True)
        optimizer = torch.optim.Adam([points], lr=PADAM_STEP, amsgrad=True, maximize=True)
        search = Search(problem, points.detach(), initial.active)
        for _ in range(self.steps):
            search.evaluate(points.detach())
            with torch.enable_grad():
                loss = self._loss(problem, points)
            optimizer.zero_grad()
            points.grad, = torch.autograd.grad(loss, points)
            problem.backwards += 1
            optimizer.step()
            with torch.no_grad():
                points.copy_(ball.project(points))
        search.evaluate(points.detach())
        return search.best, search.score

    def settings(self):
        """Return the settings of every attack, and the steps."""
        return {**super().settings(), "attack_loss": None, "steps": self.steps}

    @staticmethod
    def _loss(problem, points):
        logits = problem.model(points)
        valid = (problem.labels >= 0) & (problem.labels < logits.shape[1])
        of_label = logits.gather(1, torch.where(valid, problem.labels, 0)[:, None]).squeeze(1)
        return (1 - of_label / logits.norm(dim=1))[valid].mean()


class TorchattacksPGD(Attack):
    """PGD of the package torchattacks, run from its own code (`pip install --no-deps torchattacks`), steps of eps / 4.

    It knows no ignored label and no seed: void pixels become cross-entropy's -100, torch's generator is seeded.
    """

    name, random_start = "torchattacks-pgd", True

    def __init__(self, *, eps: float, steps: int, seed: int = 1):
        super().__init__(eps=eps, seed=seed)
        self.steps = steps

    def attempt(self, problem, initial):  # noqa: ARG002
        """Return the last iterate."""
        torchattacks = import_optional("torchattacks", command="pip install --no-deps torchattacks")
        torch.manual_seed(self.seed)
        labels = torch.where(problem.labels == 255, -100, problem.labels)
        attack = torchattacks.PGD(problem.model, eps=self.eps, alpha=self.eps / 4, steps=self.steps)
        problem.backwards += self.steps
        with torch.enable_grad():
            return attack(problem.images, labels), None

    def settings(self):
        """Return the settings of every attack, and the steps."""
        return {**super().settings(), "attack_loss": None, "steps": self.steps}


def tsallis_red_eps(*, eps: float, steps: int, seed: int) -> Attack:
    """Return tsallis_pgd (2026): APGD with radius reduction on the Tsallis losses with q from -2 to 1."""
    return APGD(eps=eps, steps=steps, seed=seed, attack_loss="tsallis", red_eps=True)
