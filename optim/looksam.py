"""LookSAM: a second pass every few steps, whose new direction serves the steps between as well."""
import torch

from optim.two_gradients import TwoGradients, inner, orthogonal


class LookSAM(TwoGradients):
    """Takes a SAM step every `interval` steps and steps along g + alpha (||g|| / ||g_v||) g_v between.

    g_v is the part of the last SAM gradient g' orthogonal to the g of its own step. Norms and inner products are over
    all perturbed parameters; the others step along g. A step between costs one pass.
    Source: Liu et al., CVPR 2022, algorithm 1.
    """

    kept = (*TwoGradients.kept, "alpha")
    memory_name = "looksam_direction"

    def __init__(self, params, base_optimizer, rho: float = 0.05, alpha: float = 0.7, interval: int = 5, **kwargs):
        super().__init__(params, base_optimizer, rho, interval=interval, **kwargs)
        self.alpha = alpha

    def _join(self, params: tuple, first: tuple):
        self.memory = dict(zip(params, orthogonal([p.grad for p in params], first), strict=True))

    def _base_step(self):
        if self.started and not self.active:
            self._reuse([(p.grad, part) for p, part in self.memory.items() if p.grad is not None])
        super()._base_step()

    def _reuse(self, pairs: list):
        """Add the share of g_v to the gradients: pairs of g and g_v."""
        if not pairs:
            return
        grads, parts = zip(*pairs, strict=True)
        square = inner(parts, parts)
        scale = torch.where(square > 0, self.alpha * (inner(grads, grads) / square).sqrt(), 0.0)
        for grad, part in pairs:
            grad.add_(part * scale.to(part.device))
