"""Segmentation losses, averaged over the labelled pixels and computed in float32 at least."""
import math

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, label_smoothing: float = 0.0,
                  class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean cross-entropy of `logits` [B, C, H, W] over the valid pixels of `labels` [B, H, W].

    label_smoothing: that share of the target is spread evenly over all classes. class_weights [C]: a pixel counts by
    that of its label; the mean is still over pixels, not over weights. The result is a scalar. Without valid pixels it
    is exactly 0 with a zero gradient; torch's own mean would be NaN.
    """
    weighted = class_weights is not None
    losses = F.cross_entropy(_to_float32(logits), labels, ignore_index=ignore_index,
                             reduction="none" if weighted else "sum", label_smoothing=label_smoothing)
    if weighted:
        losses = (losses * _weigh(labels, class_weights, ignore_index).to(losses)).sum()
    return losses / count_valid_pixels(labels, ignore_index).clamp(min=1)


def focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, gamma: float = 2.0, alpha: float = 1.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean over valid pixels of alpha * (1 - p)^gamma * -log p, where p is the true class's probability.

    logits [B, C, H, W], labels [B, H, W]; gamma is 0 or at least 1 (between them autograd computes 0 * inf at p = 1).
    class_weights: see cross_entropy. Without valid pixels the result is exactly 0. Source: Lin et al., ICCV 2017,
    section 3.2.
    """
    losses = F.cross_entropy(_to_float32(logits), labels, ignore_index=ignore_index, reduction="none")  # [B, H, W]
    missed = -torch.expm1(-losses)  # 1 - p, exact even for p close to 1; 0 at ignored pixels
    if class_weights is not None:
        losses = losses * _weigh(labels, class_weights, ignore_index).to(losses)
    return alpha * (missed**gamma * losses).sum() / count_valid_pixels(labels, ignore_index).clamp(min=1)


def ohem(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, label_smoothing: float = 0.0,
         threshold: float = 0.7, least: float = 1 / 16) -> torch.Tensor:
    """Return the mean cross-entropy over each image's hard pixels, those whose label has a probability below threshold.

    At least the share `least` of an image's valid pixels is kept, the hardest ones. Images count by their valid pixels.
    Source: Shrivastava et al., CVPR 2016, with the threshold of Wu et al., "High-performance semantic segmentation
    using very deep fully convolutional networks", 2016.
    """
    logits = _to_float32(logits)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none",
                             label_smoothing=label_smoothing).flatten(1)
    valid = (labels != ignore_index).flatten(1)
    plain = F.cross_entropy(logits.detach(), labels, ignore_index=ignore_index, reduction="none").flatten(1)
    ranked = plain.masked_fill(~valid, -1.0).sort(1, descending=True).values
    fewest = (valid.sum(1) * least).ceil().long().clamp(min=1)
    limit = ranked.gather(1, fewest[:, None] - 1).clamp(max=-math.log(threshold))
    kept = valid & (plain >= limit)
    per_image = (losses * kept).sum(1) / kept.sum(1).clamp(min=1)
    return _mean_over_images(per_image, valid)


def dice(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, smooth: float = 1.0) -> torch.Tensor:
    """Return 1 - (2 sum p t + smooth) / (sum p + sum t + smooth), the mean over the classes in an image's label.

    p: probabilities, t: 1 at a class's pixels; sums are over an image's valid pixels. Images count by their valid
    pixels. Source: Milletari et al., "V-Net", 3DV 2016, with sums in place of squares.
    """
    probabilities, target, valid = _one_hot(logits, labels, ignore_index)
    overlap = 2 * (probabilities * target).sum(2) + smooth
    losses = 1 - overlap / (probabilities.sum(2) + target.sum(2) + smooth)  # [B, C]
    return _mean_over_images(_mean_over_present(losses, target), valid)


def lovasz(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255) -> torch.Tensor:
    """Return the Lovasz-Softmax loss: of each class in an image's label the Lovasz extension of 1 - IoU, their mean.

    Images count by their valid pixels. Source: Berman et al., "The Lovasz-Softmax loss", CVPR 2018, algorithm 1.
    """
    probabilities, target, valid = _one_hot(logits, labels, ignore_index)
    errors, order = (target - probabilities).abs().sort(2, descending=True)  # ignored pixels have error 0: last
    sorted_target, inside = target.gather(2, order), valid[:, None].expand_as(target).gather(2, order)
    intersection = sorted_target.sum(2, keepdim=True) - sorted_target.cumsum(2)
    union = sorted_target.sum(2, keepdim=True) + (inside * (1 - sorted_target)).cumsum(2)
    jaccard = 1 - intersection / union.clamp(min=1)  # the loss if the pixels up to each one are wrong
    slopes = torch.diff(jaccard, dim=2, prepend=torch.zeros_like(jaccard[..., :1]))
    return _mean_over_images(_mean_over_present((errors * slopes).sum(2), target), valid)


def count_valid_pixels(labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """Count the `labels` that are not `ignore_index`; return an int64 scalar on their device."""
    return (labels != ignore_index).sum()


def _weigh(labels: torch.Tensor, class_weights: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Return each pixel's weight, 0 at ignored pixels."""
    valid = labels != ignore_index
    return class_weights.to(labels.device)[labels.where(valid, 0)] * valid


def divergence(logits: torch.Tensor, attacked: torch.Tensor, labels: torch.Tensor, *,
               ignore_index: int = 255) -> torch.Tensor:
    """Return the mean over valid pixels of KL(p || q), p the softmax of `logits`, q that of `attacked` [B, C, H, W].

    It has a gradient for both. The labels only say which pixels are valid. Source: TRADES, Zhang et al., ICML 2019.
    """
    log_p, log_q = _to_float32(logits).log_softmax(1), _to_float32(attacked).log_softmax(1)
    losses = (log_p.exp() * (log_p - log_q)).sum(1) * (labels != ignore_index)
    return losses.sum() / count_valid_pixels(labels, ignore_index).clamp(min=1)


def _one_hot(logits, labels, ignore_index: int):
    """Return probabilities and target [B, C, pixels], both 0 at ignored pixels, and which pixels are valid."""
    valid = (labels != ignore_index).flatten(1)  # [B, pixels]
    probabilities = _to_float32(logits).softmax(1).flatten(2) * valid[:, None]
    labels = labels.flatten(1).where(valid, 0)
    target = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0) * valid[:, None]
    return probabilities, target, valid


def _mean_over_present(losses, target):
    """Return the mean of losses [B, C] over the classes in each image's target [B, C, pixels]."""
    present = target.sum(2) > 0
    return (losses * present).sum(1) / present.sum(1).clamp(min=1)


def _mean_over_images(losses, valid):
    """Return the mean of losses [B] by valid pixels [B, pixels], so that a batch in parts has the same gradient."""
    pixels = valid.sum(1)
    return (losses * pixels).sum() / pixels.sum().clamp(min=1)


def _to_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return half-precision logits in float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
