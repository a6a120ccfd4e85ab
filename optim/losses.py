"""Segmentation losses: means over the pixels that have a label, in float32 at least."""
import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255) -> torch.Tensor:
    """Return the mean cross-entropy of `logits` [B, C, H, W] over the valid pixels of `labels` [B, H, W].

    A batch without valid pixels costs exactly 0 and has a zero gradient, where torch's own mean is NaN.
    """
    losses = F.cross_entropy(_widened(logits), labels, ignore_index=ignore_index, reduction="sum")
    return losses / valid_pixels(labels, ignore_index).clamp(min=1)


def focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, gamma: float = 2.0, alpha: float = 1.0
) -> torch.Tensor:
    """Return the mean over valid pixels of alpha * (1 - p)^gamma * -log p, p the probability of the true class.

    logits [B, C, H, W], labels [B, H, W]; gamma is 0 or at least 1 (below, the gradient has no limit at p = 1).
    A batch without valid pixels costs exactly 0. Source: Lin et al., ICCV 2017, section 3.2.
    """
    losses = F.cross_entropy(_widened(logits), labels, ignore_index=ignore_index, reduction="none")  # [B, H, W]
    missed = -torch.expm1(-losses)  # 1 - p, exact also where p is close to 1; 0 at ignored pixels
    return alpha * (missed**gamma * losses).sum() / valid_pixels(labels, ignore_index).clamp(min=1)


def valid_pixels(labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """Return the number of `labels` that are not `ignore_index`, an int64 scalar on their device."""
    return (labels != ignore_index).sum()


def _widened(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
