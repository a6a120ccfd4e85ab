"""What an attack maximises: per-pixel losses, all from one kernel.

Every loss here has the gradient w * (softmax(logits) - onehot(label)) per pixel, with a weight w that is taken as a
constant; a loss is its weight. Weights and gradients are formed from log-softmax in log space, in fp32 at least, and an
image's gradient is scaled by its own largest entry: sign and l2 steps don't see the scale, and an image whose pixels
are all confident doesn't underflow to 0, which would look like robustness. (A pixel whose entry is 1e-45 of the image's
largest one still does: with huge logits a few pixels steer.) A label outside the classes (255) is never read.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = 255
_LEAST = -1e30  # in place of -inf, so that no difference of two log-probabilities is nan


def valid_labels(labels: Tensor, num_classes: int) -> Tensor:
    """`labels` with everything outside [0, num_classes), which no metric counts, set to 255.  [B, H, W]."""
    counted = (labels >= 0) & (labels < num_classes)
    return torch.where(counted, labels, IGNORE)


class Pixels:
    """A batch's predictions as the weights need them: [B, H, W] each, log_p [B, C, H, W].

    logits: [B, C, H, W]; labels: int64 [B, H, W], the true ones or the target's; t: which of a run's `steps` gradients
    this is, from 1. log_p: log softmax; log_py: that of the label; valid: the label is a class; correct: valid, and the
    label is predicted.
    """

    def __init__(self, logits: Tensor, labels: Tensor, *, t: int = 1, steps: int = 1):
        self.t, self.steps = t, steps
        labels = valid_labels(labels, logits.shape[1])
        self.valid = labels != IGNORE
        self.index = torch.where(self.valid, labels, 0).unsqueeze(1)  # [B, 1, H, W], safe to gather with
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.log_p = wide.log_softmax(dim=1).clamp_min_(_LEAST)
        self.log_py = self.log_p.gather(1, self.index).squeeze(1)
        self.correct = self.valid & (logits.argmax(dim=1) == labels)

    def cross_entropy(self) -> Tensor:
        """Mean of -log p_y over each image's valid pixels; 0 where it has none.  [B], float64."""
        total = torch.where(self.valid, -self.log_py.double(), 0).flatten(1).sum(1)
        return total / self.valid.flatten(1).sum(1).clamp_min(1)

    def gradient(self, log_weight: Tensor) -> Tensor:
        """w * (p - onehot(y)) on valid pixels, each image's scaled so that its largest p_k is 1.  [B, C, H, W]."""
        log_weight = torch.where(self.valid, log_weight, -torch.inf).unsqueeze(1)
        log_others = (self.log_p + log_weight).scatter_(1, self.index, -torch.inf)
        largest = log_others.flatten(1).amax(1).view(-1, 1, 1, 1)
        others = log_others.sub_(torch.where(largest == -torch.inf, 0, largest)).exp_()  # nan stays: it is reported
        # p_y - 1 as minus the sum of the others: exact where p_y rounds to 1.
        return others.scatter_(1, self.index, -others.sum(1, keepdim=True))


@dataclass(frozen=True)
class Loss:
    """A loss by the logarithm of its weight: log_weight(pixels) -> [B, H, W].

    targeted: the same for descent towards a target, None where the loss has no such form. balanced: pixels weigh 1/N
    of their class, in the gradient and in the accuracy that is attacked.
    """

    log_weight: Callable
    targeted: Callable | None = None
    balanced: bool = False


def _ce(pixels):
    return torch.zeros_like(pixels.log_py)


def _segpgd(pixels):
    """1 - lambda on correct pixels, lambda on wrong ones; lambda = (t - 1) / (2 steps)."""
    share = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, (1 - share).log(), share.log())


def _segpgd_targeted(pixels):
    """The mirror image: 1 - lambda on pixels that are not yet at the target."""
    share = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, share.log(), (1 - share).log())


def _mce(pixels):
    return torch.where(pixels.correct, 0.0, -torch.inf).to(pixels.log_py)


def _log_cosine(pixels):
    """log of cos(softmax, onehot) = p_y / ||p||_2."""
    return pixels.log_py - 0.5 * (2 * pixels.log_p).logsumexp(dim=1)


def _cospgd_targeted(pixels):
    return (-_log_cosine(pixels).clamp_max(0).expm1()).log()


def _js(pixels):
    """p_y / 2 * log((1 + p_y) / p_y)."""
    return pixels.log_py + (pixels.log_py.exp().log1p() - pixels.log_py).log() + torch.tensor(0.5).log()


def _tsallis(pixels):
    """p_y^(1 - q) with q rising from -2 to 1: -2 + 3 t / steps."""
    return (3 - 3 * pixels.t / pixels.steps) * pixels.log_py


# ce: cross-entropy. segpgd: Gu et al., ECCV 2022. mce (masked CE), mce_bal (class-balanced, for mIoU), js
# (Jensen-Shannon): Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of Robust Semantic
# Segmentation Models", ECCV 2024. cospgd: Agnihotri, Jung and Keuper, ICML 2024. tsallis: tsallis_pgd (2026).
LOSSES = {
    "ce": Loss(_ce, _ce),
    "segpgd": Loss(_segpgd, _segpgd_targeted),
    "mce": Loss(_mce),
    "mce_bal": Loss(_mce, balanced=True),
    "cospgd": Loss(_log_cosine, _cospgd_targeted),
    "js": Loss(_js, _js),
    "tsallis": Loss(_tsallis, _tsallis),
}


def class_weights(pixel_counts) -> list[float]:
    """Weights for mce_bal from the training set's pixels per class: 1/N, summing to 1.

    A class that never occurs there weighs as much as the rarest one that does. Raises ValueError without any pixel.
    """
    counts = torch.as_tensor(pixel_counts, dtype=torch.float64)
    if not counts.gt(0).any():
        raise ValueError("no labelled pixel in the training set: mce_bal has nothing to balance by")
    counts = torch.where(counts > 0, counts, counts[counts > 0].min())
    return (counts.reciprocal() / counts.reciprocal().sum()).tolist()
