"""Ensembles: run several attacks and keep the worst result for each image."""
import torch

from attacks.apgd import APGD
from attacks.base import Attack, Outcome
from attacks.folding import fold
from attacks.search import Problem
from utils.modes import eval_mode, frozen_parameters

SEA_LOSSES = ("mce_bal", "mce", "js")
ENSEMBLE_LOSSES = ("ce", "segpgd", "mce", "mce_bal", "mce_even", "logodds", "cospgd", "js", "tsallis")  # all but blends


class Ensemble(Attack):
    """For each image the result of the member that leaves the fewest correct pixels, of equal members the first.

    Every member starts on its own and attacks all images, so each one's own result can be recorded too.
    This choice need not minimise scores that pool images (mIoU): metrics.robustness.worst_case searches the members'
    records for a lower one.
    """

    name = "members"

    def __init__(self, members: list[Attack]):
        first = members[0]
        super().__init__(eps=first.eps, norm=first.norm, restarts=first.restarts, seed=first.seed)
        self.members = tuple(members)

    def run(self, model, images, labels, *, image_ids=None, start=None):
        """Run every member and choose, see Attack.run. Passes: all members' and one forward pass a member to choose."""
        best, fewest = images.detach(), None
        problem = Problem(model, images, labels)
        every_image = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for member in self.members:
            outcome = member.run(model, images, labels, image_ids=image_ids, start=start)
            with eval_mode(model), frozen_parameters(model):
                problem.model = fold(model, images)
                correct = problem.score_points(outcome.images, every_image)
            better = torch.ones_like(correct, dtype=torch.bool) if fewest is None else correct < fewest
            best = torch.where(better.view(-1, 1, 1, 1), outcome.images, best)
            fewest = correct if fewest is None else torch.minimum(correct, fewest)
            problem.forwards += outcome.forwards
            problem.backwards += outcome.backwards
        return Outcome(best, problem.forwards, problem.backwards)

    def settings(self):
        """Return the settings that the members share, and the members' names."""
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
    """Segmentation Ensemble Attack: APGD with red_eps on mce_bal, mce and js, `steps` each.

    Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models", ECCV
    2024, section 3. class_weights: [C], from attacks.losses.class_weights of the training set.
    """

    name, losses = "sea", SEA_LOSSES


class AllLosses(_RedEpsAPGD):
    """APGD with red_eps on every loss in ENSEMBLE_LOSSES, `steps` each."""

    name, losses = "ensemble", ENSEMBLE_LOSSES
