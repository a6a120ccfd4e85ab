"""SAM whose update is made of both gradients: what GSAM and LookSAM share."""
import torch

from optim.ascent import widened
from optim.sam import SAM


class TwoGradients(SAM):
    """A SAM that still has g, the gradient at w, when it has g', the one at w + e.

    The update holds g, so ranks must agree in it and a step has one closure: ValueError for a `first_pass` or for
    several closures. With a GradScaler, whose g and g' differ in scale, it is plain SAM.
    """

    takes_micro_batches = takes_first_pass = False
    _first: tuple | list = ()  # of parameters and their g

    def _climb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        norm = super()._climb(lists)
        if self.perturbed:
            self._first = [(p, p.grad.clone()) for params in lists.values() for p in params]
        return norm

    def restore(self):
        """Return from w + e to w, bit for bit, and forget g."""
        super().restore()
        self._first = ()

    def _return(self):
        both = [(p, g) for p, g in self._first if p.grad is not None]
        self.restore()
        if both:
            self._join(*zip(*both, strict=True))

    def _join(self, params: tuple, first: tuple):
        """Use `first`, the gradients g of `params`, whose present ones are g'."""
        raise NotImplementedError


def inner(first: list, second: list) -> torch.Tensor:
    """Return the inner product of two lists of tensors, a scalar in float32 at least."""
    parts = [(a.to(widened(a.dtype)) * b).sum() for a, b in zip(first, second, strict=True)]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()


def orthogonal(first: list, second: list) -> list:
    """Return the part of `first` that is orthogonal to `second`, both taken as one vector."""
    square = inner(second, second)
    along = torch.where(square > 0, inner(first, second) / square, 0.0)
    return [a - along.to(a.device) * b for a, b in zip(first, second, strict=True)]
