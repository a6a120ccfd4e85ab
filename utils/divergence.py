"""What counts as diverged: losses and logits that are not finite, or larger than any network's that still works."""
from torch import Tensor

LIMIT = 1e15  # a diverged network has finite logits of 1e29, and a mean IoU, before they overflow


def has_diverged(values: Tensor) -> bool:
    """Return whether a value is nan, infinite or beyond LIMIT."""
    return not bool((values.detach().abs() <= LIMIT).all())


def refuse_diverged(logits: Tensor):
    """Raise FloatingPointError for logits of a diverged network, which have a mean IoU like any others."""
    if has_diverged(logits):
        raise FloatingPointError("the network has no score, as it has diverged: its logits are not finite or beyond "
                                 f"{LIMIT:g} (docs/training.md#diverged)")
