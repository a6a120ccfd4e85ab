"""What an attack maximises: per-pixel losses, summed over the valid pixels of the whole batch.

Summed, never averaged over the batch: then no image's gradient depends on the others. In fp32 at least, whatever the
logits are.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def valid_labels(labels: Tensor, num_classes: int) -> Tensor:
    """`labels` with everything outside [0, num_classes), which no metric counts, set to 255.  [B, H, W]."""
    counted = (labels >= 0) & (labels < num_classes)
    return torch.where(counted, labels, IGNORE)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[label] over valid pixels; 0 where there are none.  [B, C, H, W], [B, H, W] -> []."""
    labels = valid_labels(labels, logits.shape[1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
