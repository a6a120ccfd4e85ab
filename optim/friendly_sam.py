"""Friendly SAM: a climb along what is new in the gradient of this batch."""
import torch

from optim.sam import SAM


class FriendlySAM(SAM):
    """SAM with e = rho d / ||d||, where d = g - sigma m and m is the running mean of g: m <- decay m + (1 - decay) g.

    d takes the m of before this step; at first m = d = g. m follows the steps that may climb, and only once they are
    back at w: an error or a gradient that is not finite leaves it as it is. A step with d = 0 is a plain one. There is
    one m, so ranks must agree in g, and a step has one closure: ValueError for a `first_pass` or for several closures.
    With a GradScaler, whose g change in scale, it is plain SAM.
    Source: Li et al., CVPR 2024, algorithm 1.
    """

    kept = (*SAM.kept, "sigma", "decay")
    memory_name = "friendly_mean"
    takes_micro_batches = takes_first_pass = False
    _next: dict = {}  # m once this step is done

    def __init__(self, params, base_optimizer, rho: float = 0.05, sigma: float = 1.0, decay: float = 0.9, **kwargs):
        super().__init__(params, base_optimizer, rho, **kwargs)
        self.sigma, self.decay = sigma, decay

    def _uphill(self, params: list) -> list:
        return [p.grad - self.sigma * self.memory[p] if p in self.memory else p.grad for p in params]

    def _climb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        norm = super()._climb(lists)
        if norm is not None and norm.isfinite():
            self._next = {p: torch.lerp(p.grad, self.memory[p], self.decay) if p in self.memory else p.grad.clone()
                          for params in lists.values() for p in params}
        return norm

    def restore(self):
        """Return from w + e to w, bit for bit, and forget what m would become."""
        super().restore()
        self._next = {}

    def _return(self):
        following = self._next
        super()._return()
        self.memory |= following
