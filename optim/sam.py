"""Sharpness-Aware Minimization (SAM) and its scale-invariant form (ASAM) around any torch optimizer."""
import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from optim.ascent import add_, ascent, buckets, copy_of, restore_, total_norm
from optim.groups import build_base, check, complete, without_old_weights
from optim.second_pass import RandomState, second_pass
from utils.logging import logger


class SAM(Optimizer):
    """Steps along the gradient that the loss has at the worst point within `rho` of the weights.

    With g the gradient at the weights w, the perturbation is e = rho g / ||g||, one norm over all perturbed
    parameters, and the base optimizer updates w from the gradient at w + e. Weight decay is the base optimizer's:
    it acts on w and is no part of e. `adaptive` is ASAM: e = rho T^2 g / ||T g|| with T = |w| + eta for weights
    (more than one dimension) and 1 for biases and normalisation; it wants a rho about ten times larger.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.02, model=model, lr=0.01, momentum=0.9)
        loss = optimizer.step(closure)      # closure: forward, backward, return the loss

    base_optimizer: a class, which gets `params` and `base_kwargs`, or an instance over the same `params` (so that it
    can have an eps or a foreach of its own). `state`, `param_groups` and `defaults` are the base optimizer's own.
    rho, adaptive, eta: defaults of the parameter groups; rho = 0 leaves a group unperturbed and out of the norm.
    eps: the norm counts as at least this much. foreach: False loops over tensors, else fused operations run.
    start_step: this many plain base steps come first. model: its BatchNorm statistics are frozen in the second pass.
    Raises ValueError for a rho or eta that is negative or not finite.
    Sources: Foret et al., ICLR 2021, algorithm 1; Kwon et al., ICML 2021, section 3 (ASAM); Zhou et al., ICLR 2025
    (SAM in the late phase of training only).
    """

    def __init__(
        self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0, eps: float = 1e-12,
        foreach: bool | None = None, start_step: int = 0, model: torch.nn.Module | None = None, **base_kwargs,
    ):
        own = {"rho": rho, "adaptive": adaptive, "eta": eta, "sam_step": 0}
        check(own)
        base = build_base(params, base_optimizer, base_kwargs)
        base.defaults.update(own)
        for group in base.param_groups:
            complete(group, own)
        # Not Optimizer.__init__: it would make a second `state` and `param_groups`, and one truth is the point.
        super().__setstate__({
            "base_optimizer": base, "model": model, "start_step": start_step,
            "eps": eps, "foreach": foreach is not False, "_backup": [],
        })

    @property
    def param_groups(self) -> list[dict]:
        """The base optimizer's parameter groups."""
        return self.base_optimizer.param_groups

    @property
    def state(self) -> dict:
        """The base optimizer's state."""
        return self.base_optimizer.state

    @property
    def defaults(self) -> dict:
        """The base optimizer's defaults, with SAM's beside them."""
        return self.base_optimizer.defaults

    @property
    def perturbed(self) -> bool:
        """Whether the weights are at w + e."""
        return bool(self._backup)

    @property
    def active(self) -> bool:
        """Whether the next step perturbs: `start_step` steps are taken, and some group has rho > 0."""
        started = self.param_groups[0]["sam_step"] >= self.start_step
        return started and any(group["rho"] > 0 for group in self.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable | None = None, model: torch.nn.Module | None = None):
        """Take one step and return the closure's loss at w, detached.

        The closure runs forward and backward and returns the loss; gradients are zeroed before each call. It runs
        twice, the second time at w + e with BatchNorm frozen and the first pass's random numbers; once while SAM is
        not active or where the first gradient is zero. A first gradient with NaN or infinity takes no step at all.
        Without a closure: the base step from the present gradients, at w.
        """
        if closure is None:
            self.restore()
            return self._base_step()
        self._refuse_if_perturbed("step(closure)")
        random_state = RandomState(p.device for group in self.param_groups for p in group["params"])
        loss = self._gradient(closure)                      # g at w
        try:
            norm = self.first_step()                        # w -> w + e
            if self.perturbed:
                with second_pass(self.model if model is None else model, random_state):
                    self._gradient(closure)                 # g' at w + e
        finally:
            self.restore()                                  # back to w, bit for bit
        if norm is None or norm.isfinite():
            self._base_step()                               # w from g'
        else:
            logger.warning("SAM: the gradient is not finite, no step taken")
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> torch.Tensor | None:
        """Move from w to w + e along the present gradients and return their norm (for ASAM ||T g||), on the CPU.

        Nothing moves where that norm is zero, infinite or NaN; while SAM is not active or where no parameter to
        perturb has a gradient it returns None as well. Raises RuntimeError when called twice without a step between.
        """
        self._refuse_if_perturbed("first_step()")
        norm = self._climb(buckets(self.param_groups)) if self.active else None
        if zero_grad:
            self.zero_grad()
        return norm

    def second_step(self, zero_grad: bool = False):
        """Return to w and take the base step from the present gradients, those at w + e."""
        self.step()  # not _base_step: schedulers and hooks watch step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self):
        """Return from w + e to w, bit for bit; does nothing at w. With a GradScaler, call it before unscale_."""
        for params, saved in self._backup:
            restore_(params, saved, foreach=self.foreach)
        self._backup = []

    def _climb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        """Add rho T^2 g / ||T g|| to the parameters and return ||T g||."""
        if not lists:
            return None
        parts = [ascent(params, eta, foreach=self.foreach) for (*_, eta), params in lists.items()]
        norm = total_norm([norms for _, norms in parts]).cpu()  # the one point where the host waits for the device
        if 0 < norm < math.inf:
            for ((_, _, rho, _), params), (directions, _) in zip(lists.items(), parts, strict=True):
                self._backup.append((params, copy_of(params, foreach=self.foreach)))
                add_(params, directions, scale=rho / max(norm.item(), self.eps), foreach=self.foreach)
        return norm

    def _gradient(self, closure: Callable):
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        # Detached, so that the first pass's graph is gone before the weights change under it.
        return loss.detach() if isinstance(loss, torch.Tensor) else loss

    def _base_step(self):
        self.base_optimizer.step()
        taken = self.param_groups[0]["sam_step"] + 1
        for group in self.param_groups:
            group["sam_step"] = taken

    def _refuse_if_perturbed(self, what: str):
        if self.perturbed:
            raise RuntimeError(f"SAM: {what} while the weights are perturbed: call second_step() or restore() first")

    def add_param_group(self, param_group: dict):
        """Add a parameter group; it may have its own rho, adaptive and eta."""
        check({**self.defaults, **param_group})
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict:
        """Return the base optimizer's state dict, its groups with rho, adaptive, eta and sam_step (steps taken).

        Raises RuntimeError while the weights are perturbed: what is saved beside it would be wrong.
        """
        self._refuse_if_perturbed("state_dict()")
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict):
        """Load the state of a SAM or of a plain base optimizer, whose groups keep the rho, adaptive, eta of now."""
        self._refuse_if_perturbed("load_state_dict()")
        own = [{key: group[key] for key in ("rho", "adaptive", "eta")} for group in self.param_groups]
        self.base_optimizer.load_state_dict(without_old_weights(state_dict))
        for group, before in zip(self.param_groups, own, strict=True):
            complete(group, before | {"sam_step": 0})

    def __getstate__(self) -> dict:
        self._refuse_if_perturbed("a copy")
        kept = ("base_optimizer", "model", "start_step", "eps", "foreach", "_backup")
        return {key: self.__dict__[key] for key in kept}
