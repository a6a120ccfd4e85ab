"""Sharpness-Aware Minimization (SAM) and its scale-invariant form (ASAM) around any torch optimizer."""
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch

from optim.ascent import add_, ascent, buckets, copy_of, grad_norm, total_norm
from optim.closures import gradient, summed
from optim.groups import build_base, check
from optim.second_pass import RandomState, second_pass
from optim.wrapper import Wrapper
from utils.logging import logger


class SAM(Wrapper):
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
    start_step: this many plain base steps come first; from then on every `interval`-th step perturbs, the others are
    plain. model: its BatchNorm statistics are frozen in the second pass. unperturbed: parameters that stay out of e
    and of the norm (SAM-ON: all but those of the normalisation layers, see `norm_parameters`).
    Attributes: `first_pass`, a callable whose context surrounds a first pass that a second one follows: the `no_sync`
    of DistributedDataParallel gives each rank its own e. `second`, whether a second pass is under way; `radius`, ||e||
    of the last climb, or None.
    Raises ValueError for a rho or eta that is negative or not finite and for an interval below 1.
    Sources: Foret et al., ICLR 2021, algorithm 1; Kwon et al., ICML 2021, section 3 (ASAM); Zhou et al., ICLR 2025
    (SAM in the late phase of training only); Mueller et al., NeurIPS 2023 (SAM-ON).
    """

    kept = (*Wrapper.kept, "model", "start_step", "interval", "eps", "unperturbed")
    first_pass: Callable = nullcontext          # on the class, so that a copy starts without one
    radius: torch.Tensor | None = None
    second: bool = False
    takes_micro_batches = True                  # whether step takes several closures
    takes_first_pass = True                     # whether ranks may have first gradients of their own

    def __init__(
        self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0, eps: float = 1e-12,
        foreach: bool | None = None, start_step: int = 0, model: torch.nn.Module | None = None, interval: int = 1,
        unperturbed: Iterable[torch.Tensor] = (), **base_kwargs,
    ):
        own = {"rho": rho, "adaptive": adaptive, "eta": eta, "sam_step": 0}
        check(own)
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        super().__init__(build_base(params, base_optimizer, base_kwargs), own, foreach=foreach is not False)
        self.model, self.start_step, self.interval, self.eps = model, start_step, interval, eps
        self.unperturbed = set(unperturbed)

    @property
    def started(self) -> bool:
        """Whether `start_step` steps are taken and some group has rho > 0."""
        return self.sam_step >= self.start_step and any(group["rho"] > 0 for group in self.param_groups)

    @property
    def active(self) -> bool:
        """Whether the next step perturbs: SAM has started, and it is the turn of an `interval`-th step."""
        return self.started and (self.sam_step - self.start_step) % self.interval == 0

    @torch.no_grad()
    def step(self, closure: Callable | Sequence[Callable] | None = None, model: torch.nn.Module | None = None):
        """Take one step and return the closure's loss at w, detached.

        The closure runs forward and backward and returns the loss; gradients are zeroed before each call. It runs
        twice, the second time at w + e with BatchNorm frozen and the first pass's random numbers; once while SAM is
        not active or where the first gradient is zero. A first gradient with NaN or infinity takes no step at all.
        Several closures are micro-batches, each with an e of its own (m-sharpness, Foret et al., section 4): one step
        from the sum of their gradients, and the sum of their losses. Without a closure: the base step from the
        present gradients, at w.
        """
        closures = [] if closure is None else self._checked(closure)
        if not self.perturbed:
            self.radius = None
        try:
            if not closures:
                self._return()
                return self._base_step()
            if len(closures) == 1:
                loss, finite = self._passes(closures[0], model)
            else:
                loss, finite = summed(self.params, closures, lambda micro: self._passes(micro, model))
            if finite:
                self._base_step()                           # w from g'
            else:
                logger.warning("%s: the gradient is not finite, no step taken", type(self).__name__)
            return loss
        finally:
            called = self.sam_step + 1                      # whatever came of it: this is the caller's iteration
            for group in self.param_groups:
                group["sam_step"] = called

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> torch.Tensor | None:
        """Move from w to w + e along the present gradients and return their norm (for ASAM ||T g||), on the CPU.

        Nothing moves where that norm is zero, infinite or NaN; while SAM is not active or where no parameter to
        perturb has a gradient it returns None as well. Raises RuntimeError when called twice without a step between.
        """
        self._refuse_if_perturbed("first_step()")
        self.radius = None
        norm = self._climb(buckets(self.param_groups, self._perturbs)) if self.active else None
        if zero_grad:
            self.zero_grad()
        return norm

    def second_step(self, zero_grad: bool = False):
        """Return to w and take the base step from the present gradients, those at w + e."""
        self.step()  # not _base_step: schedulers and hooks watch step()
        if zero_grad:
            self.zero_grad()

    def _passes(self, closure: Callable, model: torch.nn.Module | None) -> tuple:
        """Leave the gradients of the base step behind, the weights at w; return the loss and whether to step."""
        if not self.active:
            return gradient(self, closure), True
        local = self.first_pass is not nullcontext          # then the other ranks wait for this one's second pass
        random_state = RandomState(p.device for p in self.params)
        with self.first_pass():
            loss = gradient(self, closure)                  # g at w
        try:
            norm = self.first_step()                        # w -> w + e
            if self.perturbed or local:
                self.second = True
                with second_pass(self.model if model is None else model, random_state):
                    gradient(self, closure)                 # g' at w + e
            self._return()                                  # back to w, bit for bit
        finally:
            self.second = False
            self.restore()
        if local:
            norm = grad_norm(self.params)                   # of g', on which the ranks agree
        return loss, norm is None or bool(norm.isfinite())

    def _checked(self, closure) -> list:
        self._refuse_if_perturbed("step(closure)")
        closures = list(closure) if isinstance(closure, Sequence) else [closure]
        name = type(self).__name__
        if len(closures) != 1 and not (closures and self.takes_micro_batches):
            raise ValueError(f"{name} can't step from {len(closures)} closures")
        if self.first_pass is not nullcontext and not self.takes_first_pass:
            raise ValueError(f"{name}'s update holds the first gradient, in which all ranks must agree: no first_pass")
        return closures

    # What the methods that build on SAM change.

    def _perturbs(self, p: torch.Tensor) -> bool:
        """Whether `p` belongs to the perturbed parameters."""
        return p not in self.unperturbed

    def _uphill(self, params: list) -> list:
        """Return what the climb takes for the gradients of `params`."""
        return [p.grad for p in params]

    def _climb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        """Add rho T^2 g / ||T g|| to the parameters and return ||T g||."""
        if not lists:
            return None
        parts = [ascent(params, self._uphill(params), eta, foreach=self.foreach) for (*_, eta), params in lists.items()]
        norm = total_norm([lengths for _, lengths, _ in parts]).cpu()  # the one point where the host waits
        if 0 < norm < math.inf:
            moved = []
            for ((_, _, rho, _), params), (directions, _, lengths) in zip(lists.items(), parts, strict=True):
                self._backup.append((params, copy_of(params, foreach=self.foreach)))
                moved.append(self._move(params, directions, lengths, rho=rho, norm=norm))
            self.radius = total_norm(moved)
        return norm

    def _move(self, params: list, directions: list, lengths: list, *, rho: float, norm: torch.Tensor) -> list:
        """Add e to `params`, one list of the climb; return norms whose own norm is ||e||. lengths: ||directions||."""
        scale = rho / max(norm.item(), self.eps)
        add_(params, directions, scale=scale, foreach=self.foreach)
        return [torch.linalg.vector_norm(torch.stack(list(lengths))) * scale]

    def _return(self):
        """Go back to w; where the weights were away, make the base step's gradient of g', which is SAM's itself."""
        self.restore()

    def _base_step(self):
        self.base_optimizer.step()
