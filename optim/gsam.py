"""GSAM: SAM that also lowers the surrogate gap, the difference between the loss at w + e and at w."""
from optim.two_gradients import TwoGradients, orthogonal_part


class GSAM(TwoGradients):
    """Steps along g' - alpha g_perp, where g_perp is the part of g orthogonal to g' (g, g': gradients at w and w + e).

    Inner products are taken over all perturbed parameters; the other parameters step along g'. rho is constant, while
    the paper varies it with the learning rate.
    Source: Zhuang et al., ICLR 2022, algorithm 1.
    """

    copied = (*TwoGradients.copied, "alpha")

    def __init__(self, params, base_optimizer, rho: float = 0.05, alpha: float = 0.4, **kwargs):
        super().__init__(params, base_optimizer, rho, **kwargs)
        self.alpha = alpha

    def _combine(self, params: tuple, first: tuple):
        for p, part in zip(params, orthogonal_part(first, [p.grad for p in params]), strict=True):
            p.grad.sub_(part, alpha=self.alpha)
