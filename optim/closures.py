"""What an optimizer does with closures, each of which runs forward and backward and returns the loss."""
from collections.abc import Callable
from functools import reduce
from operator import add

import torch
from torch.optim import Optimizer


def gradient(optimizer: Optimizer, closure: Callable):
    """Run `closure` from zero gradients and return its loss, detached."""
    optimizer.zero_grad()
    with torch.enable_grad():
        loss = closure()
    # Detached, so that a first pass's graph is gone before the weights change under it.
    return loss.detach() if isinstance(loss, torch.Tensor) else loss


def summed(params: list, closures: list, passes: Callable) -> tuple:
    """Leave the sum of the gradients that `passes` leaves for each closure, and return the sum of its losses.

    passes(closure) -> (loss, whether the gradient may be used); the second value is whether all may.
    """
    losses, usable, total = [], True, {}
    for closure in closures:
        loss, good = passes(closure)
        losses.append(loss)
        usable = usable and good
        for p in params:
            if p.grad is not None:
                total[p] = total[p].add_(p.grad) if p in total else p.grad.clone()
    for p in params:
        p.grad = total.get(p)
    return reduce(add, losses), usable
