"""SAM whose update combines both gradients: what GSAM and LookSAM share."""
import torch

from optim.ascent import at_least_float32
from optim.sam import SAM


class TwoGradients(SAM):
    """SAM that keeps g, the gradient at w, until it has g', the gradient at w + e.

    The update contains g, so all ranks need the same g and a step has one closure: step raises ValueError with a
    `first_pass` or several closures. With a GradScaler, whose g and g' differ in scale, restore() discards g: it acts
    as plain SAM.
    """

    takes_micro_batches = takes_first_pass = False
    _first_gradients: tuple | list = ()  # pairs of a parameter and its g

    def _perturb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        norm = super()._perturb(lists)
        if self.perturbed:
            self._first_gradients = [(p, p.grad.clone()) for params in lists.values() for p in params]
        return norm

    def restore(self):
        """Return from w + e to w, bit for bit, and discard g."""
        super().restore()
        self._first_gradients = ()

    def _return_to_w(self):
        both = [(p, g) for p, g in self._first_gradients if p.grad is not None]
        self.restore()
        if both:
            self._combine(*zip(*both, strict=True))

    def _combine(self, params: tuple, first: tuple):
        """Combine `first`, the gradients g of `params`, with g', their current gradients."""
        raise NotImplementedError


def inner_product(first: list, second: list) -> torch.Tensor:
    """Return the inner product of two lists of tensors, a scalar in float32 at least."""
    parts = [(a.to(at_least_float32(a.dtype)) * b).sum() for a, b in zip(first, second, strict=True)]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()


def orthogonal_part(first: list, second: list) -> list:
    """Return the part of `first` that is orthogonal to `second`, each list taken as one vector."""
    square = inner_product(second, second)
    along = torch.where(square > 0, inner_product(first, second) / square, 0.0)
    return [a - along.to(a.device) * b for a, b in zip(first, second, strict=True)]
