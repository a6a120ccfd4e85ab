"""Several attacks, and for every image the worst of them."""
import torch

from attacks.apgd import APGD
from attacks.base import Attack, Outcome
from attacks.search import Problem
from utils.modes import eval_mode

SEA_LOSSES = ("mce_bal", "mce", "js")
ENSEMBLE_LOSSES = ("mce", "mce_bal", "js", "segpgd", "cospgd", "tsallis")


class Ensemble(Attack):
    """Each image's result is that of the member which leaves the fewest of its pixels right, the first of equal ones.

    Every member starts anew and sees every image, so what each one achieves alone is known as well. Scores that pool
    images (mIoU) have a worse choice of members still: metrics.robustness.worst_case finds it from members' records.
    """

    name = "members"

    def __init__(self, members: list[Attack]):
        first = members[0]
        super().__init__(eps=first.eps, norm=first.norm, restarts=first.restarts, seed=first.seed)
        self.members = tuple(members)

    def run(self, model, images, labels, *, image_ids=None, start=None):
        """As Attack.run; the passes are those of all members, and one forward each to choose."""
        best, fewest = images.detach(), None
        problem = Problem(model, images, labels)
        all_of_them = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for member in self.members:
            outcome = member.run(model, images, labels, image_ids=image_ids, start=start)
            with eval_mode(model):
                right = problem.score_of(outcome.images, all_of_them)
            better = torch.ones_like(right, dtype=torch.bool) if fewest is None else right < fewest
            best = torch.where(better.view(-1, 1, 1, 1), outcome.images, best)
            fewest = right if fewest is None else torch.minimum(right, fewest)
            problem.forwards += outcome.forwards
            problem.backwards += outcome.backwards
        return Outcome(best, problem.forwards, problem.backwards)

    def settings(self):
        """What the members share, and which they are."""
        members = [member.settings() for member in self.members]
        weights = next((member["class_weights"] for member in members if member["class_weights"]), None)
        return {**members[0], "attack": self.name, "attack_loss": None, "class_weights": weights,
                "members": ["-".join(filter(None, (member["attack"], member["attack_loss"]))) for member in members]}


class _RedEpsAPGD(Ensemble):
    losses: tuple[str, ...]

    def __init__(self, *, eps: float, class_weights, steps: int = 300, norm: str = "linf", restarts: int = 1,
                 seed: int = 1):
        super().__init__([
            APGD(eps=eps, steps=steps, norm=norm, red_eps=True, attack_loss=loss, restarts=restarts, seed=seed,
                 class_weights=class_weights if loss == "mce_bal" else None) for loss in self.losses])


class SEA(_RedEpsAPGD):
    """Segmentation Ensemble Attack: APGD with red-eps on mce_bal, mce and js, `steps` each.

    Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models", ECCV
    2024, section 3. class_weights: attacks.losses.class_weights of the training set.
    """

    name, losses = "sea", SEA_LOSSES


class SixLosses(_RedEpsAPGD):
    """APGD with red-eps on all six losses that aim at segmentation, `steps` each: a superset of SEA."""

    name, losses = "ensemble", ENSEMBLE_LOSSES
