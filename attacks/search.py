"""One attack on one batch: what is lowered, which images are still worth attacking, which iterate was the best."""
import torch
from torch import Tensor, nn

from attacks.losses import IGNORE, LOSSES, Pixels, valid_labels


class Problem:
    """A batch, what an attack lowers image by image, and how many passes that takes.

    Score: the valid pixels that the model still gets right (weighted for a balanced loss), or with a target those that
    are not yet at the target. At 0 nothing is left to attack. forwards, backwards: int64 [B].
    target: a class or a label map int64 [H, W]; class_weights: [C], for balanced losses.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, *, loss: str = "ce",
                 target: int | Tensor | None = None, class_weights=None):
        self.model, self.images, self.labels = model, images, labels
        self.target = None if target is None else _fitting(target, labels)
        self.targeted, self.balanced = target is not None, LOSSES[loss].balanced
        self.log_weight = LOSSES[loss].targeted if self.targeted else LOSSES[loss].log_weight
        self.class_weights = torch.as_tensor(class_weights, device=labels.device) if self.balanced else None
        self.forwards = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
        self.backwards = torch.zeros_like(self.forwards)

    def predict(self, points: Tensor, rows: Tensor) -> Pixels:
        """The predictions for points[rows].  points [B, 3, H, W], rows int64 [b]."""
        self.forwards[rows] += 1
        with torch.no_grad():
            return self._pixels(self.model(_take(points, rows)), rows)

    def differentiate(self, points: Tensor, rows: Tensor, t: int, steps: int) -> tuple[Pixels, Tensor]:
        """The predictions for points[rows], and for gradient t of `steps` the direction to ascend [b, 3, H, W]."""
        self.forwards[rows] += 1
        self.backwards[rows] += 1
        with torch.enable_grad():
            images = _take(points, rows).detach().requires_grad_(True)
            logits = self.model(images)
        with torch.no_grad():
            pixels = self._pixels(logits, rows, t=t, steps=steps)
            log_weight = self.log_weight(pixels)
            if self.balanced:
                log_weight = log_weight + self._weights_of(pixels).log().to(log_weight)
            at_logits = pixels.gradient(log_weight).to(logits)
        gradient, = torch.autograd.grad(logits, images, -at_logits if self.targeted else at_logits)
        if not gradient.isfinite().all():  # sign(nan) = 0 would look like robustness
            raise FloatingPointError("the gradient is not finite")
        return pixels, gradient

    def score(self, pixels: Pixels) -> Tensor:
        """What is left to attack, 0 where nothing is.  [b], float64, exact where it is a count."""
        left = pixels.valid & ~pixels.correct if self.targeted else pixels.correct
        weighted = left * self._weights_of(pixels) if self.balanced else left
        return weighted.flatten(1).sum(1, dtype=torch.float64)

    def score_of(self, points: Tensor, active: Tensor) -> Tensor:
        """The scores of active images, one forward pass each; inf for the others.  [B], float64."""
        scores = torch.full_like(active, torch.inf, dtype=torch.float64)
        rows = active.nonzero().flatten()
        if len(rows):
            scores[rows] = self.score(self.predict(points, rows))
        return scores

    def loss(self, pixels: Pixels) -> Tensor:
        """The mean cross-entropy, to ascend, whatever the weights: APGD's step rule wants a function.  [b], float64."""
        return -pixels.cross_entropy() if self.targeted else pixels.cross_entropy()

    def _pixels(self, logits: Tensor, rows: Tensor, **schedule) -> Pixels:
        classes = logits.shape[1]
        if self.balanced and len(self.class_weights) != classes:
            raise ValueError(f"class_weights are {len(self.class_weights)}, the model's classes {classes}")
        if self.targeted and not self.target.ndim and not 0 <= self.target < classes:
            raise ValueError(f"target {int(self.target)}: the model's classes are 0 to {classes - 1}")
        labels = valid_labels(_take(self.labels, rows), classes)
        if self.targeted:
            labels = torch.where(labels != IGNORE, self.target, labels)
        pixels = Pixels(logits, labels, **schedule)
        if not pixels.log_py.isfinite().all():  # any nan or inf of a pixel's logits is in its log-softmax
            raise FloatingPointError("the model's logits are not finite")
        return pixels

    def _weights_of(self, pixels: Pixels) -> Tensor:
        return self.class_weights[pixels.index.squeeze(1)]


class Search:
    """A run of iterates over a batch: evaluates those of active images and keeps each image's best.

    An image is active until an iterate brings its score to 0. All tensors have the whole batch's length; what belongs
    to an inactive image stays as it was (its gradient 0).
    """

    def __init__(self, problem: Problem, start: Tensor, active: Tensor):
        self.problem, self.active = problem, active.clone()  # bool [B]
        self.best = start.clone()
        self.score = start.new_full((len(start),), torch.inf, dtype=torch.float64)  # of best
        self.loss = torch.zeros_like(self.score)  # of the last iterate, as is gradient
        self.gradient = torch.zeros_like(start)

    def look(self, points: Tensor, t: int | None = None, steps: int | None = None):
        """Evaluate `points` [B, 3, H, W], with t also gradient t of `steps`; of equal iterates the last is best."""
        rows = self.active.nonzero().flatten()
        if not len(rows):
            return
        if t is None:
            pixels = self.problem.predict(points, rows)
        else:
            pixels, self.gradient[rows] = self.problem.differentiate(points, rows, t, steps)
        score = self.problem.score(pixels)
        better = score <= self.score[rows]
        self.best[rows[better]], self.score[rows[better]] = points[rows[better]], score[better]
        self.loss[rows] = self.problem.loss(pixels)
        self.active[rows] = score > 0
        self.gradient[rows[score == 0]] = 0


def _take(values: Tensor, rows: Tensor) -> Tensor:
    return values if len(rows) == len(values) else values[rows]


def _fitting(target: int | Tensor, labels: Tensor) -> Tensor:
    target = torch.as_tensor(target, device=labels.device, dtype=labels.dtype)
    if target.ndim and target.shape != labels.shape[1:]:
        size, wanted = ("x".join(map(str, values.shape[-2:])) for values in (target, labels))
        raise ValueError(f"the target map is {size}, the image is {wanted} (height x width)")
    return target
