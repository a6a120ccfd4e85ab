"""The losses that an attack maximises, each defined by the weights of its pixels.

The gradient of every loss here is w * (softmax(logits) - onehot(label)) per pixel, with a weight w that is treated as a
constant; so a loss is defined by w. Weights and gradients are computed in log space from log-softmax, in fp32 at least,
and each image's gradient is divided by its own largest entry. Sign and l2 steps don't depend on that scale, and the
gradient of an image whose pixels are all confident doesn't underflow to 0, which would look like robustness. (Entries
below 1e-45 of the image's largest one still underflow: with huge logits few pixels determine the step.) Labels outside
the classes, such as 255, are ignored.
"""
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

IGNORE = 255
LEAST_TEMPERATURE = 0.1  # of logodds, in log-odds
_LOG_FLOOR = -1e30  # replaces -inf, so that the difference of two log-probabilities is never nan


def valid_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return `labels` [B, H, W] with those outside [0, num_classes), which the metrics ignore too, set to 255."""
    counted = (labels >= 0) & (labels < num_classes)
    return torch.where(counted, labels, IGNORE)


class Pixels:
    """A batch's predictions, in the form that computes weights.

    logits: [B, C, H, W]. labels: int64 [B, H, W], the true ones or the target. t: the number, from 1, of this gradient
    among the run's `steps`. Attributes: log_p [B, C, H, W], the log-softmax; log_py [B, H, W], its value for the label;
    valid [B, H, W], whether the label is a class; correct [B, H, W], whether it is valid and predicted.
    """

    def __init__(self, logits: Tensor, labels: Tensor, *, t: int = 1, steps: int = 1):
        self.t, self.steps = t, steps
        labels = valid_labels(labels, logits.shape[1])
        self.valid = labels != IGNORE
        self.index = torch.where(self.valid, labels, 0).unsqueeze(1)  # [B, 1, H, W], a valid index everywhere
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if wide.is_contiguous(memory_format=torch.channels_last):  # torch copies unless the last dimension is reduced
            self.log_p = wide.movedim(1, -1).log_softmax(dim=-1).movedim(-1, 1).clamp_min_(_LOG_FLOOR)
        else:
            self.log_p = wide.log_softmax(dim=1).clamp_min_(_LOG_FLOOR)
        self.log_py = self.log_p.gather(1, self.index).squeeze(1)
        self.correct = self.valid & (logits.argmax(dim=1) == labels)

    def cross_entropy(self) -> Tensor:
        """Return the mean of -log p_y over each image's valid pixels; 0 for an image without any.  [B], float64."""
        total = torch.where(self.valid, -self.log_py.double(), 0).flatten(1).sum(1)
        return total / self.valid.flatten(1).sum(1).clamp_min(1)

    def split(self, count: int) -> "list[Pixels]":
        """Return the pixels of each of `count` networks, whose logits lie one below another (attacks.networks)."""
        if count == 1:
            return [self]
        parts = [copy.copy(self) for _ in range(count)]
        for part in parts:
            vars(part).pop("log_rest", None)
        for name in ("log_p", "log_py", "valid", "correct", "index"):
            for part, values in zip(parts, getattr(self, name).chunk(count, dim=-2), strict=True):
                setattr(part, name, values)
        return parts

    @cached_property
    def log_rest(self) -> Tensor:
        """Return log(1 - p_y), exact where p_y rounds to 1.  [B, H, W]."""
        return self.log_p.scatter(1, self.index, -torch.inf).logsumexp(dim=1).clamp_min(_LOG_FLOOR)

    def scale(self, log_weight: Tensor) -> Tensor:
        """Return the log of the weights w [B, H, W] as w / sum w (1 - p_y) over each image's valid pixels.

        So scaled, the gradients w (p - onehot) of several losses have the same l1 norm in an image; 0 stays 0.
        """
        log_weight = torch.where(self.valid, log_weight, -torch.inf)
        total = (log_weight + self.log_rest).flatten(1).logsumexp(dim=1).view(-1, 1, 1)
        return log_weight - torch.where(total == -torch.inf, 0, total)

    def gradient(self, log_weight: Tensor) -> Tensor:
        """Return w * (p - onehot(y)), 0 on invalid pixels, divided by each image's largest w p_k.  [B, C, H, W]."""
        log_weight = torch.where(self.valid, log_weight, -torch.inf).unsqueeze(1)
        log_others = (self.log_p + log_weight).scatter_(1, self.index, -torch.inf)
        largest = log_others.amax((1, 2, 3), keepdim=True)
        others = log_others.sub_(torch.where(largest == -torch.inf, 0, largest)).exp_()  # nan stays and is reported
        # Minus the sum of the others instead of p_y - 1: exact even where p_y rounds to 1.
        return others.scatter_(1, self.index, -others.sum(1, keepdim=True))


@dataclass(frozen=True)
class Loss:
    """A loss, defined by the logarithm of its pixel weights: log_weight(pixels) -> [B, H, W].

    targeted_log_weight: the same for descent towards a target; None for a loss without a targeted form. balanced:
    whether the gradient and the attacked accuracy weight each pixel by its class's class_weights.
    """

    log_weight: Callable
    targeted_log_weight: Callable | None = None
    balanced: bool = False


def _ce(pixels):
    return torch.zeros_like(pixels.log_py)


def _segpgd(pixels):
    """Weight correct pixels 1 - lambda and wrong ones lambda; lambda = (t - 1) / (2 steps)."""
    lambda_ = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, (1 - lambda_).log(), lambda_.log())


def _segpgd_targeted(pixels):
    """Weight pixels at the target lambda and the others 1 - lambda."""
    lambda_ = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, lambda_.log(), (1 - lambda_).log())


def _mce(pixels):
    return torch.where(pixels.correct, 0.0, -torch.inf).to(pixels.log_py)


def _log_cosine(pixels):
    """Return the log of cos(softmax, onehot) = p_y / ||p||_2."""
    return pixels.log_py - 0.5 * (2 * pixels.log_p).logsumexp(dim=1)


def _cospgd_targeted(pixels):
    return (-_log_cosine(pixels).clamp_max(0).expm1()).log()


def _js(pixels):
    """Weight p_y / 2 * log((1 + p_y) / p_y)."""
    return pixels.log_py + (pixels.log_py.exp().log1p() - pixels.log_py).log() + torch.tensor(0.5).log()


def _tsallis(pixels):
    """Weight p_y^(1 - q), with q = -2 + 3 t / steps rising from -2 to 1."""
    return (3 - 3 * pixels.t / pixels.steps) * pixels.log_py


def _mce_even(pixels):
    """Weight each still-correct pixel 1 / the image's correct pixels of its class."""
    image = torch.arange(len(pixels.index), device=pixels.index.device).view(-1, 1, 1)
    place = (image * pixels.log_p.shape[1] + pixels.index.squeeze(1))[pixels.correct]
    counts = torch.bincount(place, minlength=len(pixels.index) * pixels.log_p.shape[1])
    log_weight = torch.full_like(pixels.log_py, -torch.inf)
    log_weight[pixels.correct] = -counts[place].to(log_weight).log()
    return log_weight


def _blend(names: tuple[str, ...], pixels):
    """Weight each pixel by the sum of these losses' weights, each scaled in each image as in Pixels.scale."""
    return torch.stack([pixels.scale(LOSSES[name].log_weight(pixels)) for name in names]).logsumexp(dim=0)


def _logodds(pixels):
    return _weigh_log_odds(pixels, pixels.correct)


def _logodds_targeted(pixels):
    return _weigh_log_odds(pixels, pixels.valid & ~pixels.correct)


def _weigh_log_odds(pixels, left):
    """Weight sigma(m / T) sigma(-m / T) / (1 - p_y), the slope of T sigma(-m / T); m = log(p_y / (1 - p_y)).

    T is half the mean of |m| over the pixels that are `left` to change, so a pixel that is right with confidence has a
    gradient: 1 / (1 - p_y) cancels the 1 - p_y in softmax - onehot.
    """
    log_rest = pixels.log_rest
    odds = pixels.log_py - log_rest
    total = torch.where(left, odds, 0).flatten(1).sum(1, dtype=torch.float64)
    mean = (total / left.flatten(1).sum(1).clamp_min(1)).abs()
    scaled = odds / (mean / 2).clamp_min(LEAST_TEMPERATURE).to(odds).view(-1, 1, 1)
    return torch.nn.functional.logsigmoid(scaled) + torch.nn.functional.logsigmoid(-scaled) - log_rest


# ce: cross-entropy. segpgd: Gu et al., ECCV 2022. mce (masked CE), mce_bal (class-balanced, for mIoU), js
# (Jensen-Shannon): Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of Robust Semantic
# Segmentation Models", ECCV 2024. mce_even (mce balanced over the classes that are still correct in the image) and
# logodds (of the label, so that confident pixels have a gradient too): this program. cospgd: Agnihotri, Jung and
# Keuper, ICML 2024. tsallis: tsallis_pgd (2026).
LOSSES = {
    "ce": Loss(_ce, _ce),
    "segpgd": Loss(_segpgd, _segpgd_targeted),
    "mce": Loss(_mce),
    "mce_bal": Loss(_mce, balanced=True),
    "mce_even": Loss(_mce_even),
    "logodds": Loss(_logodds, _logodds_targeted),
    "cospgd": Loss(_log_cosine, _cospgd_targeted),
    "js": Loss(_js, _js),
    "tsallis": Loss(_tsallis, _tsallis),
    "blend": Loss(partial(_blend, ("logodds", "mce", "mce_even", "js", "cospgd"))),
    "blend_late": Loss(partial(_blend, ("logodds", "mce", "mce_even", "tsallis"))),
}


def class_weights(pixel_counts) -> list[float]:
    """Return the class weights [C] of mce_bal: proportional to 1 / the training set's pixels of each class, sum 1.

    pixel_counts: [C]. A class without pixels gets the weight of the rarest class that has some. Raises ValueError if
    all counts are 0.
    """
    counts = torch.as_tensor(pixel_counts, dtype=torch.float64)
    if not counts.gt(0).any():
        raise ValueError("the training set has no labelled pixel: mce_bal needs some to compute class weights")
    counts = torch.where(counts > 0, counts, counts[counts > 0].min())
    return (counts.reciprocal() / counts.reciprocal().sum()).tolist()
