"""One attack on one batch: the score it lowers, the images still active, and each image's best iterate."""
import copy

import torch
from torch import Tensor, nn

from attacks.losses import LOSSES
from attacks.networks import count_networks
from attacks.pixels import IGNORE, Pixels, valid_labels
from utils.wide import widest


class TargetSizeError(ValueError):
    """A target map of another size than the images."""


class Problem:
    """A model and a batch to attack; computes scores and gradients and counts the passes of each image.

    An image's score is the number of its valid pixels that are still correct (for a balanced loss weighted by class),
    or with a target of those not yet at the target; at 0 nothing is left to attack.
    model: [0, 1] images [B, 3, H, W] -> logits [B, C, H, W], or Networks, whose losses' mean is the loss and whose
    scores' sum is the score; images, labels [B, H, W] as for Attack. loss: a name in LOSSES. target: a class or a class
    map int64 [H, W]. class_weights: [C], for balanced losses. even_score: the score is instead the mean over the
    image's classes of the share of their pixels that is correct.
    Attributes: forwards, backwards, the passes so far, int64 [B]. Raises ValueError for a target or class_weights that
    don't match the model or the images, FloatingPointError for logits or gradients that are not finite.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, *, loss: str = "ce",
                 target: int | Tensor | None = None, class_weights=None, even_score: bool = False):
        self.model, self.images, self.networks = model, images, count_networks(model)
        self.target = None if target is None else self._stack(_prepare_target(target, labels))
        self.labels = self._stack(labels)  # [B, networks * H, W]
        self.targeted, self.balanced = target is not None, LOSSES[loss].balanced
        self.loss, self.even_score = loss, even_score
        self.class_weights = torch.as_tensor(class_weights, device=labels.device) if self.balanced else None
        self.forwards = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
        self.backwards = torch.zeros_like(self.forwards)
        self._candidates = {}

    def predict(self, points: Tensor, rows: Tensor) -> Pixels:
        """Return the predictions for points[rows], without a gradient.  points [B, 3, H, W], rows int64 [b]."""
        self.forwards[rows] += 1
        with torch.no_grad():
            return self._pixels(self.model(_select_rows(points, rows)), rows)

    def differentiate(self, points: Tensor, rows: Tensor, t: int, steps: int, *,
                      loss: str | None = None) -> tuple[Pixels, Tensor]:
        """Return the predictions for points[rows] and the loss's gradient there, number t of `steps`.  [b, 3, H, W].

        loss: a name in LOSSES, the problem's by default.
        """
        weigh = LOSSES[loss or self.loss].targeted_log_weight if self.targeted else LOSSES[loss or self.loss].log_weight
        self.forwards[rows] += 1
        self.backwards[rows] += 1
        with torch.enable_grad():
            images = _select_rows(points, rows).detach().requires_grad_(True)
            logits = self.model(images)
        with torch.no_grad():
            pixels = self._pixels(logits, rows, t=t, steps=steps)
            log_weight = torch.cat([weigh(part) for part in pixels.split(self.networks)], dim=1)
            if self.balanced:
                log_weight = log_weight + self._pixel_weights(pixels).log().to(log_weight)
            logits_gradient = pixels.gradient(log_weight).to(logits)
        gradient, = torch.autograd.grad(logits, images, logits_gradient)
        if not gradient.isfinite().all():  # sign(nan) = 0 would look like robustness
            raise FloatingPointError("the gradient is not finite")
        return pixels, -gradient if self.targeted else gradient

    def score(self, pixels: Pixels) -> Tensor:
        """Compute each image's score (see the class).  [b], float64 (see utils.wide), exact if unweighted."""
        left = pixels.valid & ~pixels.correct if self.targeted else pixels.correct
        weighted = left * self._pixel_weights(pixels) if self.balanced else left
        if self.even_score:
            weighted = left * pixels.even_weights()
        return weighted.flatten(1).sum(1, dtype=widest(weighted.device))

    def score_points(self, points: Tensor, active: Tensor) -> Tensor:
        """Compute the scores of active images, one forward pass each; inf for the others.  [B], float64."""
        scores = torch.full_like(active, torch.inf, dtype=widest(active.device))
        rows = active.nonzero().flatten()
        if len(rows):
            scores[rows] = self.score(self.predict(points, rows))
        return scores

    def offer(self, name: str, points: Tensor, scores: Tensor):
        """Keep `points` [B, 3, H, W] as the candidates called `name` where their `scores` [B] are no higher than those
        of the points kept before; a score of inf says that an image has none.
        """
        if name in self._candidates:
            kept, kept_scores = self._candidates[name]
            better = scores <= kept_scores
            points, scores = torch.where(better.view(-1, 1, 1, 1), points, kept), scores.minimum(kept_scores)
        self._candidates[name] = points, scores

    def list_candidates(self, default: Tensor) -> dict[str, Tensor]:
        """Return {name: images}, those of `default` [B, 3, H, W] where none was offered."""
        return {name: torch.where(scores.isfinite().view(-1, 1, 1, 1), points, default)
                for name, (points, scores) in self._candidates.items()}

    def mean_loss(self, pixels: Pixels) -> Tensor:
        """Return the mean cross-entropy, negated with a target; APGD's step size follows it.  [b], float64."""
        return -pixels.cross_entropy() if self.targeted else pixels.cross_entropy()

    def _pixels(self, logits: Tensor, rows: Tensor, **schedule) -> Pixels:
        classes = logits.shape[1]
        if self.balanced and len(self.class_weights) != classes:
            raise ValueError(f"{len(self.class_weights)} class_weights for {classes} classes: give one per class")
        if self.targeted and not self.target.ndim and not 0 <= self.target < classes:
            raise ValueError(f"target {int(self.target)}: must be a class of the model, 0 to {classes - 1}")
        labels = valid_labels(_select_rows(self.labels, rows), classes)
        if self.targeted:
            labels = torch.where(labels != IGNORE, self.target, labels)
        pixels = Pixels(logits, labels, **schedule)
        if not pixels.log_py.isfinite().all():  # a nan or inf in a pixel's logits reaches its log-softmax
            raise FloatingPointError("the model's logits are not finite")
        return pixels

    def _stack(self, values: Tensor) -> Tensor:
        """Return [..., H, W] once for each network, one below another; a number as it is."""
        return torch.cat([values] * self.networks, dim=-2) if values.ndim and self.networks > 1 else values

    def _pixel_weights(self, pixels: Pixels) -> Tensor:
        return self.class_weights[pixels.index.squeeze(1)]


class Search:
    """Evaluates the iterates of active images and keeps each image's best one.

    An image is active until one of its iterates has score 0. All tensors have the length of the whole batch; the
    entries of an inactive image no longer change, and its gradient is 0.
    """

    def __init__(self, problem: Problem, start: Tensor, active: Tensor):
        self.problem, self.active = problem, active.clone()  # bool [B]
        self.best = start.clone()
        self.score = start.new_full((len(start),), torch.inf, dtype=widest(start.device))  # of the best iterates
        self.loss = torch.zeros_like(self.score)  # like gradient: of the last iterate
        self.gradient = torch.zeros_like(start)

    def branch(self) -> "Search":
        """Return a search that continues from this one's state without changing it."""
        other = copy.copy(self)
        for name in ("active", "best", "score", "loss", "gradient"):
            setattr(other, name, getattr(self, name).clone())
        return other

    def evaluate(self, points: Tensor, t: int | None = None, steps: int | None = None, *, loss: str | None = None,
                 inside: bool = True):
        """Evaluate `points` [B, 3, H, W], with t also gradient t of `steps`; the last of equal iterates is best.

        inside: whether the points are in the ball; others only give a gradient. loss: see Problem.differentiate.
        """
        rows = self.active.nonzero().flatten()
        if not len(rows):
            return
        if t is None:
            pixels = self.problem.predict(points, rows)
        else:
            pixels, self.gradient[rows] = self.problem.differentiate(points, rows, t, steps, loss=loss)
        self.loss[rows] = self.problem.mean_loss(pixels)
        if not inside:
            return
        score = self.problem.score(pixels)
        better = score <= self.score[rows]
        self.best[rows[better]], self.score[rows[better]] = points[rows[better]], score[better]
        self.active[rows] = score > 0
        self.gradient[rows[score == 0]] = 0


def _select_rows(values: Tensor, rows: Tensor) -> Tensor:
    return values if len(rows) == len(values) else values[rows]


def _prepare_target(target: int | Tensor, labels: Tensor) -> Tensor:
    target = torch.as_tensor(target, device=labels.device, dtype=labels.dtype)
    if target.ndim and target.shape != labels.shape[1:]:
        size, wanted = ("x".join(map(str, values.shape[-2:])) for values in (target, labels))
        raise TargetSizeError(f"the target map is {size}, the images are {wanted} (height x width): they must be equal")
    return target
