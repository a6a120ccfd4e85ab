"""GSAM: SAM that also lowers the surrogate gap, the difference between the loss at w + e and at w."""
from optim.two_gradients import TwoGradients, orthogonal


class GSAM(TwoGradients):
    """Steps along g' - alpha g_perp: g' the gradient at w + e, g_perp the part of g, that at w, orthogonal to g'.

    The inner products are over all perturbed parameters; the others step along g'. rho is constant, where the paper
    ties it to the learning rate.
    Source: Zhuang et al., ICLR 2022, algorithm 1.
    """

    kept = (*TwoGradients.kept, "alpha")

    def __init__(self, params, base_optimizer, rho: float = 0.05, alpha: float = 0.4, **kwargs):
        super().__init__(params, base_optimizer, rho, **kwargs)
        self.alpha = alpha

    def _join(self, params: tuple, first: tuple):
        for p, part in zip(params, orthogonal(first, [p.grad for p in params]), strict=True):
            p.grad.sub_(part, alpha=self.alpha)
