"""What all attacks share: input checks, restoring the model, restarts, and choosing each image's best result."""
import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attacks.draw import Draw
from attacks.folding import fold
from attacks.losses import LOSSES
from attacks.norms import NORMS
from attacks.search import Problem
from utils.modes import eval_mode, frozen_parameters
from utils.wide import widest


@dataclass
class Outcome:
    """The result of an attack: images [B, C, H, W], and the forward and backward passes of each, int64 [B].

    candidates: {name: images} of an attack that offers several for each image; `images` has those with the lowest
    scores, but a score that pools images may be lower with others (metrics.worst_case).
    """

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    candidates: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class InitialState:
    """How an attempt starts: from `points` [B, C, H, W] if given, else from a random point of `draw`, else the images.

    active: bool [B], the images that the attempt attacks.
    """

    active: Tensor
    draw: Draw | None = None
    points: Tensor | None = None


class Attack:
    """A search for the worst image within eps of each given one; call it with a model, images and labels.

    The model takes [0, 1] images (it normalises them itself) and returns logits [B, C, H, W]; attacks.Networks are
    several at once. It runs in eval mode with frozen parameters; afterwards its flags are restored. No parameter
    gradient is computed and no buffer changes.

    eps: largest distance, in [0, 1] pixel units: of any pixel (linf) or of the image as one vector (l2).
    attack_loss: a name in LOSSES. restarts: the number of attempts, from different random points; each image keeps the
    result with the fewest correct pixels. target: a class, or int64 class map [H, W], to move predictions to; None
    moves them away from the labels. class_weights: [C], for mce_bal (attacks.losses.class_weights). seed: see
    __call__. Raises ValueError for invalid settings.

    A subclass defines attempt() and settings().
    """

    name: str
    default_loss = "ce"
    random_start = False
    members: tuple = ()  # the attacks of an ensemble
    even_score = False  # see attacks.search.Problem

    def __init__(self, *, eps: float, norm: str = "linf", attack_loss: str | None = None, restarts: int = 1,
                 target: int | Tensor | None = None, class_weights=None, seed: int = 1):
        attack_loss = attack_loss or self.default_loss
        _require_known("norm", norm, NORMS)
        _require_known("attack_loss", attack_loss, LOSSES)
        if not 0 <= eps < float("inf") or (norm == "linf" and eps > 1):
            raise ValueError(f"eps {eps}: must be a finite number >= 0, for linf at most 1 (pixels are in [0, 1])")
        if restarts < 1:
            raise ValueError(f"restarts {restarts}: must be at least 1")
        if target is not None and LOSSES[attack_loss].targeted_log_weight is None:
            raise ValueError(f"{attack_loss} has no targeted form: choose another attack_loss, or leave the target out")
        if LOSSES[attack_loss].balanced and class_weights is None:
            raise ValueError(f"{attack_loss} needs class_weights: compute them with attacks.class_weights")
        self.eps, self.norm, self.attack_loss, self.restarts = float(eps), norm, attack_loss, int(restarts)
        self.target, self.class_weights, self.seed = target, class_weights, seed
        self.class_weights_from = None  # whose labels the weights were counted in, if not the training set's

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, image_ids=None, start=None) -> Tensor:
        """Return adversarial images: same shape, dtype and device, in [0, 1], within eps of `images`, detached.

        images: float [B, C, H, W] in [0, 1]. labels: int64 [B, H, W]; 255 and any other value that is not a class are
        ignored. image_ids: B ints, which make an image's random numbers depend only on (seed, its id), not on its
        batch; without them torch's global generator is used. start: images [B, C, H, W] that replace the first random
        point, such as the result for a smaller eps; the attack never returns a weaker result than these. Raises
        ValueError for inputs of wrong shape, type or range, FloatingPointError if logits or gradients are not finite.
        """
        return self.run(model, images, labels, image_ids=image_ids, start=start).images

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, image_ids=None, start=None) -> Outcome:
        """Attack as __call__ does, and return the passes of each image as well."""
        _check_batch(images, labels)
        if image_ids is not None and len(image_ids) != len(images):
            raise ValueError(f"{len(image_ids)} image_ids for {len(images)} images: give one id per image")
        if start is not None and start.shape != images.shape:
            raise ValueError(f"start has shape {list(start.shape)}, images {list(images.shape)}: they must be equal")
        images = images.detach()
        with eval_mode(model), frozen_parameters(model):
            # One step doesn't make up for folding, where the weights change from call to call as in training.
            network, points = fold(model, images) if self.count_gradients() != 1 else model, images
            if network is not model:
                points = images.contiguous(memory_format=torch.channels_last)
            problem = Problem(network, points, labels, loss=self.attack_loss, target=self.target,
                              class_weights=self.class_weights, even_score=self.even_score)
            try:
                best = self._run_attempts(problem, image_ids, start)
            except FloatingPointError as error:
                raise FloatingPointError(f"{self!r}: {error}") from None
        best = torch.empty_like(images).copy_(best)
        return Outcome(best, problem.forwards, problem.backwards, problem.list_candidates(best))

    def attempt(self, problem: Problem, initial: InitialState) -> tuple[Tensor, Tensor | None]:
        """Attack problem.images once; return (adversarial images, their scores [B], or None if not computed).

        The results of images that are not active are ignored.
        """
        raise NotImplementedError

    def settings(self) -> dict:
        """Return everything that determines the result, for records and results.json."""
        weights = list(map(float, self.class_weights)) if LOSSES[self.attack_loss].balanced else None
        return {"attack": self.name, "attack_loss": self.attack_loss, "norm": self.norm, "eps": self.eps,
                "restarts": self.restarts, "target": _describe_target(self.target), "class_weights": weights,
                **({"class_weights_from": self.class_weights_from} if self.class_weights_from else {}),
                "seed": self.seed if self.random_start or self.restarts > 1 else None}

    def count_gradients(self) -> int:
        """Return how many gradients an image gets, unless all its pixels are wrong before."""
        return sum(member.count_gradients() for member in self.members) or self.restarts * getattr(self, "steps", 0)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
                           for name, value in self.settings().items() if not isinstance(value, list))
        return f"{type(self).__name__}({values})"

    def _run_attempts(self, problem: Problem, image_ids, start: Tensor | None) -> Tensor:
        """Run all attempts and return each image's best result, the last of equal ones.  [B, C, H, W]."""
        images = problem.images
        active = torch.ones(len(images), dtype=torch.bool, device=images.device)
        best, score = images.clone(), torch.full_like(active, torch.inf, dtype=widest(images.device))
        if start is not None:
            best = start = NORMS[self.norm](images, self.eps).project(start.detach())
            score = problem.score_points(start, active)
        for restart in range(self.restarts):
            active = active & (score > 0)
            random = self.random_start or restart > 0
            draw = Draw(images, image_ids, self.seed, restart) if random else None
            points, found = self.attempt(problem, InitialState(active, draw, start if restart == 0 else None))
            if found is None and (self.restarts > 1 or start is not None):
                found = problem.score_points(points, active)
            better = active if found is None else active & (found <= score)
            best = torch.where(better.view(-1, 1, 1, 1), points, best)
            score = score if found is None else torch.where(better, found, score)
        return best


def _describe_target(target) -> int | str | None:
    if not isinstance(target, Tensor):
        return target
    return "map " + hashlib.sha256(target.to(torch.int64).cpu().numpy().tobytes()).hexdigest()[:16]


def _require_known(what: str, name: str, known):
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(known)}")


def _check_batch(images: Tensor, labels: Tensor):
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be float [B, C, H, W], got {images.dtype} {list(images.shape)}")
    if labels.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"labels must be [B, H, W] for images {list(images.shape)}, got {list(labels.shape)}")
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError("images must be in [0, 1] and not normalised: the model normalises them")
