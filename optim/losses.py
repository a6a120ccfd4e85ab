"""Segmentation losses, averaged over the labelled pixels and computed in float32 at least."""
import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255) -> torch.Tensor:
    """Return the mean cross-entropy of `logits` [B, C, H, W] over the valid pixels of `labels` [B, H, W].

    The result is a scalar. Without valid pixels it is exactly 0 with a zero gradient; torch's own mean would be NaN.
    """
    losses = F.cross_entropy(_to_float32(logits), labels, ignore_index=ignore_index, reduction="sum")
    return losses / count_valid_pixels(labels, ignore_index).clamp(min=1)


def focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = 255, gamma: float = 2.0, alpha: float = 1.0
) -> torch.Tensor:
    """Return the mean over valid pixels of alpha * (1 - p)^gamma * -log p, where p is the true class's probability.

    logits [B, C, H, W], labels [B, H, W]; gamma is 0 or at least 1 (between them autograd computes 0 * inf at p = 1).
    Without valid pixels the result is exactly 0. Source: Lin et al., ICCV 2017, section 3.2.
    """
    losses = F.cross_entropy(_to_float32(logits), labels, ignore_index=ignore_index, reduction="none")  # [B, H, W]
    missed = -torch.expm1(-losses)  # 1 - p, exact even for p close to 1; 0 at ignored pixels
    return alpha * (missed**gamma * losses).sum() / count_valid_pixels(labels, ignore_index).clamp(min=1)


def count_valid_pixels(labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """Count the `labels` that are not `ignore_index`; return an int64 scalar on their device."""
    return (labels != ignore_index).sum()


def _to_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return half-precision logits in float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
