"""The predictions of a batch, in log space, and the gradient that pixel weights give.

Weights and gradients are computed from log-softmax, in fp32 at least, and each image's gradient is divided by its own
largest entry. Sign and l2 steps don't depend on that scale, and the gradient of an image whose pixels are all confident
doesn't underflow to 0, which would look like robustness. (Entries below 1e-45 of the image's largest one still
underflow: with huge logits few pixels determine the step.) Labels outside the classes, such as 255, are ignored.
"""
import copy
from functools import cached_property

import torch
from torch import Tensor

from utils.wide import widest

IGNORE = 255
_LEAST_REST = 1e-25  # of a sum of probabilities: each that matters in it is then far from underflow
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
        total = torch.where(self.valid, -self.log_py.to(widest(self.log_py.device)), 0).flatten(1).sum(1)
        return total / self.valid.flatten(1).sum(1).clamp_min(1)

    def split(self, count: int) -> "list[Pixels]":
        """Return the pixels of each of `count` networks, whose logits lie one below another (attacks.networks)."""
        if count == 1:
            return [self]
        parts = [copy.copy(self) for _ in range(count)]
        for part in parts:
            for name in ("p", "log_rest"):  # computed for all networks together
                vars(part).pop(name, None)
        for name in ("log_p", "log_py", "valid", "correct", "index"):
            for part, values in zip(parts, getattr(self, name).chunk(count, dim=-2), strict=True):
                setattr(part, name, values)
        return parts

    @cached_property
    def p(self) -> Tensor:
        """Return the softmax; classes that underflow are 0.  [B, C, H, W]."""
        return self.log_p.exp()

    @cached_property
    def log_rest(self) -> Tensor:
        """Return log(1 - p_y), exact where p_y rounds to 1.  [B, H, W]."""
        rest = self.p.scatter(1, self.index, 0).sum(1)
        log_rest = rest.log()
        small = rest < _LEAST_REST  # a few pixels: others underflowed or are about to
        if small.any():
            others = self.log_p.scatter(1, self.index, -torch.inf).movedim(1, -1)[small]
            log_rest[small] = others.logsumexp(dim=-1).clamp_min(_LOG_FLOOR)
        return log_rest

    def even_weights(self) -> Tensor:
        """Return for each valid pixel 1 / (the image's pixels with its label x the image's classes).  [B, H, W]."""
        classes = self.log_p.shape[1]
        counts = torch.stack([torch.bincount(index[valid], minlength=classes)
                              for index, valid in zip(self.index.squeeze(1), self.valid, strict=True)])
        counts = counts.to(widest(counts.device))
        weights = torch.where(counts > 0, 1 / (counts.clamp_min(1) * (counts > 0).sum(1, keepdim=True)), 0)
        return weights.gather(1, self.index.flatten(1)).view_as(self.valid) * self.valid

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
