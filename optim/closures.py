"""Running an optimizer's closures: a closure runs forward and backward and returns the loss."""
from collections.abc import Callable
from functools import reduce
from operator import add

import torch
from torch.optim import Optimizer


def run_closure(optimizer: Optimizer, closure: Callable):
    """Zero the gradients, run `closure` and return its loss, detached."""
    optimizer.zero_grad()
    with torch.enable_grad():
        loss = closure()
    # Detached, so that the first pass's graph is freed before the weights change.
    return loss.detach() if isinstance(loss, torch.Tensor) else loss


def sum_gradients(params: list, closures: list, run_passes: Callable) -> tuple:
    """Set the gradients to their sum over `closures`; return (sum of losses, whether all gradients are finite).

    run_passes(closure) sets the gradients of one closure and returns (loss, whether they are finite).
    """
    losses, all_finite, total = [], True, {}
    for closure in closures:
        loss, finite = run_passes(closure)
        losses.append(loss)
        all_finite = all_finite and finite
        for p in params:
            if p.grad is not None:
                total[p] = total[p].add_(p.grad) if p in total else p.grad.clone()
    for p in params:
        p.grad = total.get(p)
    return reduce(add, losses), all_finite
