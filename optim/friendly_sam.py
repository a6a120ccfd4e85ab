"""Friendly SAM: SAM that perturbs along the part of the gradient that is specific to the batch."""
import torch

from optim.sam import SAM


class FriendlySAM(SAM):
    """SAM with e = rho d / ||d||, where d = g - sigma m and m is the running mean of g: m <- decay m + (1 - decay) g.

    d uses the m from before the step; in the first step m = d = g. m is updated in steps where SAM is active, after the
    return to w, and stays as it is after an error or a gradient that is not finite. A step with d = 0 is a plain step.
    There is one m, so all ranks need the same g and a step has one closure: step raises ValueError with a `first_pass`
    or several closures. With a GradScaler, which changes the scale of g, restore() discards m: it acts as plain SAM.
    Source: Li et al., CVPR 2024, algorithm 1.
    """

    copied = (*SAM.copied, "sigma", "decay")
    memory_name = "friendly_mean"
    takes_micro_batches = takes_first_pass = False
    _next_mean: dict = {}  # m after this step

    def __init__(self, params, base_optimizer, rho: float = 0.05, sigma: float = 1.0, decay: float = 0.9, **kwargs):
        super().__init__(params, base_optimizer, rho, **kwargs)
        self.sigma, self.decay = sigma, decay

    def _ascent_gradients(self, params: list) -> list:
        return [p.grad - self.sigma * self.memory[p] if p in self.memory else p.grad for p in params]

    def _perturb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        norm = super()._perturb(lists)
        if norm is not None and norm.isfinite():
            self._next_mean = {p: torch.lerp(p.grad, self.memory[p], self.decay) if p in self.memory else p.grad.clone()
                               for params in lists.values() for p in params}
        return norm

    def restore(self):
        """Return from w + e to w, bit for bit, and discard the next m."""
        super().restore()
        self._next_mean = {}

    def _return_to_w(self):
        next_mean = self._next_mean  # restore() discards it
        super()._return_to_w()
        self.memory |= next_mean
