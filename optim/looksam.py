"""LookSAM: a second pass only every few steps; the steps between reuse its direction."""
import torch

from optim.two_gradients import TwoGradients, inner_product, orthogonal_part


class LookSAM(TwoGradients):
    """Takes a SAM step every `interval` steps; the steps between go along g + alpha (||g|| / ||g_v||) g_v, in one pass.

    g_v is the part of the last SAM gradient g' that is orthogonal to g of the same step. Norms and inner products are
    taken over all perturbed parameters; the other parameters step along g.
    Source: Liu et al., CVPR 2022, algorithm 1.
    """

    copied = (*TwoGradients.copied, "alpha")
    memory_name = "looksam_direction"

    def __init__(self, params, base_optimizer, rho: float = 0.05, alpha: float = 0.7, interval: int = 5, **kwargs):
        super().__init__(params, base_optimizer, rho, interval=interval, **kwargs)
        self.alpha = alpha

    def _combine(self, params: tuple, first: tuple):
        self.memory = dict(zip(params, orthogonal_part([p.grad for p in params], first), strict=True))

    def _base_step(self):
        if self.started and not self.active:
            self._add_direction([(p.grad, part) for p, part in self.memory.items() if p.grad is not None])
        super()._base_step()

    def _add_direction(self, pairs: list):
        """Add alpha (||g|| / ||g_v||) g_v to the gradients; `pairs` are (g, g_v) of each parameter."""
        if not pairs:
            return
        grads, parts = zip(*pairs, strict=True)
        square = inner_product(parts, parts)
        scale = torch.where(square > 0, self.alpha * (inner_product(grads, grads) / square).sqrt(), 0.0)
        for grad, part in pairs:
            grad.add_(part * scale.to(part.device))
