"""Friendly SAM: a climb along what is new in the gradient of this batch."""
import torch

from optim.sam import SAM


class FriendlySAM(SAM):
    """SAM with e = rho d / ||d||, where d = g - sigma m and m is the running mean of g: m <- decay m + (1 - decay) g.

    d takes the m of before this step; at first m = d = g. m follows the steps that may climb; a gradient that is not
    finite leaves it as it is, and a step with d = 0 is a plain one. With a `first_pass` each rank has an m of its own,
    and a checkpoint the m of its writer.
    Several closures would need an m each: ValueError.
    Source: Li et al., CVPR 2024, algorithm 1.
    """

    kept = (*SAM.kept, "sigma", "decay")
    memory_name = "friendly_mean"
    takes_micro_batches = False

    def __init__(self, params, base_optimizer, rho: float = 0.05, sigma: float = 1.0, decay: float = 0.9, **kwargs):
        super().__init__(params, base_optimizer, rho, **kwargs)
        self.sigma, self.decay = sigma, decay

    def _uphill(self, params: list) -> list:
        return [p.grad - self.sigma * self.memory[p] if p in self.memory else p.grad for p in params]

    def _climb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        norm = super()._climb(lists)
        if norm is not None and norm.isfinite():
            for p in (p for params in lists.values() for p in params):
                if p in self.memory:
                    self.memory[p].mul_(self.decay).add_(p.grad, alpha=1 - self.decay)
                else:
                    self.memory[p] = p.grad.clone()
        return norm
