"""What all attacks share: checks at the door, a model left as it was found, restarts, the best result of each image."""
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.draw import Draw
from attacks.losses import LOSSES
from attacks.norms import NORMS
from attacks.search import Problem
from utils.modes import eval_mode, frozen_parameters


@dataclass
class Outcome:
    """What an attack returns: images [B, C, H, W], and the passes each took, int64 [B]."""

    images: Tensor
    forwards: Tensor
    backwards: Tensor


@dataclass
class Beginning:
    """Where an attempt begins: at `points` if there are any, else at a random point of `draw`, else at the images.

    active: bool [B], the images that are still worth attacking.
    """

    active: Tensor
    draw: Draw | None = None
    points: Tensor | None = None


class Attack:
    """A search for the worst image within eps of each given one.

    Calling it gives adversarial images for a batch. The model takes [0, 1] images (normalisation is inside it) and
    returns logits [B, C, H, W]. It runs in eval mode with frozen parameters and gets its flags back afterwards; no
    parameter gradient is computed, no buffer changes.

    eps: in [0, 1] pixel units (linf), or length over the image (l2). attack_loss: of LOSSES. restarts: attempts from
    new random points; of several results each image keeps the one that leaves the fewest pixels right. target: a class
    or an int64 map [H, W] that predictions are driven to, None for away from the labels. class_weights: [C], for
    mce_bal (attacks.losses.class_weights). seed: see __call__.
    Raises ValueError for settings out of bounds or without meaning.

    A new attack defines attempt() and settings().
    """

    name: str
    default_loss = "ce"
    random_start = False
    members: tuple = ()  # of an ensemble

    def __init__(self, *, eps: float, norm: str = "linf", attack_loss: str | None = None, restarts: int = 1,
                 target: int | Tensor | None = None, class_weights=None, seed: int = 1):
        attack_loss = attack_loss or self.default_loss
        _one_of("norm", norm, NORMS)
        _one_of("attack_loss", attack_loss, LOSSES)
        if not 0 <= eps < float("inf") or (norm == "linf" and eps > 1):
            raise ValueError(f"eps {eps}: must be a number from 0 up, for linf at most 1 (pixels are in [0, 1])")
        if restarts < 1:
            raise ValueError(f"restarts {restarts}: at least one attempt")
        if target is not None and LOSSES[attack_loss].targeted is None:
            raise ValueError(f"{attack_loss} is made of the pixels that are right: it has no targeted form")
        if LOSSES[attack_loss].balanced and class_weights is None:
            raise ValueError(f"{attack_loss} needs class_weights: 1/N of the training set's pixels in each class")
        self.eps, self.norm, self.attack_loss, self.restarts = float(eps), norm, attack_loss, int(restarts)
        self.target, self.class_weights, self.seed = target, class_weights, seed

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, image_ids=None, start=None) -> Tensor:
        """Adversarial images: same shape, dtype and device, in [0, 1], within eps of `images`, detached.

        images [B, C, H, W] in [0, 1]; labels [B, H, W] int64, 255 (and any label that is no class) is never read.
        image_ids: B ints; then the random numbers of an image depend on (seed, its id) alone, not on its batch.
        Without them they are drawn from torch's global generator. start: images to begin with in place of a random
        point, such as the result for a smaller eps; the result is then never worse than they are.
        """
        return self.run(model, images, labels, image_ids=image_ids, start=start).images

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, image_ids=None, start=None) -> Outcome:
        """As __call__, with the passes that each image took."""
        _check(images, labels)
        if image_ids is not None and len(image_ids) != len(images):
            raise ValueError(f"image_ids are {len(image_ids)}, the images {len(images)}")
        if start is not None and start.shape != images.shape:
            raise ValueError(f"start is {list(start.shape)}, the images are {list(images.shape)}")
        images = images.detach()
        with eval_mode(model), frozen_parameters(model):
            problem = Problem(model, images, labels, loss=self.attack_loss, target=self.target,
                              class_weights=self.class_weights)
            try:
                best = self._best_attempt(problem, image_ids, start)
            except FloatingPointError as error:
                raise FloatingPointError(f"{self!r}: {error}") from None
        return Outcome(best, problem.forwards, problem.backwards)

    def attempt(self, problem: Problem, begin: Beginning) -> tuple[Tensor, Tensor | None]:
        """One run over problem.images: (adversarial images, their scores [B] or None if it didn't look).

        What comes out for images that are not active is ignored.
        """
        raise NotImplementedError

    def settings(self) -> dict:
        """Everything that decides the result, for records and results.json."""
        weights = list(map(float, self.class_weights)) if LOSSES[self.attack_loss].balanced else None
        return {"attack": self.name, "attack_loss": self.attack_loss, "norm": self.norm, "eps": self.eps,
                "restarts": self.restarts, "target": _name_of(self.target), "class_weights": weights,
                "seed": self.seed if self.random_start or self.restarts > 1 else None}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
                           for name, value in self.settings().items() if not isinstance(value, list))
        return f"{type(self).__name__}({values})"

    def _best_attempt(self, problem: Problem, image_ids, start: Tensor | None) -> Tensor:
        images = problem.images
        active = torch.ones(len(images), dtype=torch.bool, device=images.device)
        best, score = images.clone(), torch.full_like(active, torch.inf, dtype=torch.float64)
        if start is not None:
            best = start = NORMS[self.norm](images, self.eps).project(start.detach())
            score = problem.score_of(start, active)
        for restart in range(self.restarts):
            active = active & (score > 0)
            random = self.random_start or restart > 0
            draw = Draw(images, image_ids, self.seed, restart) if random else None
            points, found = self.attempt(problem, Beginning(active, draw, start if restart == 0 else None))
            if found is None and (self.restarts > 1 or start is not None):
                found = problem.score_of(points, active)
            better = active if found is None else active & (found <= score)
            best = torch.where(better.view(-1, 1, 1, 1), points, best)
            score = score if found is None else torch.where(better, found, score)
        return best


def _name_of(target) -> int | str | None:
    if not isinstance(target, Tensor):
        return target
    return "map " + hashlib.sha256(target.to(torch.int64).cpu().numpy().tobytes()).hexdigest()[:16]


def _one_of(what: str, name: str, known):
    if name not in known:
        raise ValueError(f"{what} {name!r}: known are {', '.join(known)}")


def _check(images: Tensor, labels: Tensor):
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be float [B, C, H, W], got {images.dtype} {list(images.shape)}")
    if labels.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"labels must be [B, H, W] for images {list(images.shape)}, got {list(labels.shape)}")
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError("images must be in [0, 1] and not normalised: the model normalises")
