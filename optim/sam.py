"""Sharpness-Aware Minimization (SAM) and its scale-invariant form (ASAM) around any torch optimizer."""
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch

from optim.ascent import add_, ascent_directions, copy_tensors, grad_norm, group_parameters, total_norm
from optim.closures import run_closure, sum_gradients
from optim.groups import build_base, check_group
from optim.second_pass import RandomState, second_pass
from optim.wrapper import Wrapper
from utils.logging import logger


class SAM(Wrapper):
    """Updates the weights with the gradient at an approximately worst point within distance `rho` of them.

    With g the gradient at the weights w, the perturbation is e = rho g / ||g||, with one norm over all perturbed
    parameters, and the base optimizer updates w from g', the gradient at w + e. Weight decay is left to the base
    optimizer: it acts on w and does not enter e. `adaptive` is ASAM: e = rho T^2 g / ||T g|| with T = |w| + eta for
    weights (more than one dimension) and 1 for biases and normalisation; it needs a rho about ten times larger.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.02, model=model, lr=0.01, momentum=0.9)
        loss = optimizer.step(closure)      # closure: forward, backward, return the loss

    base_optimizer: a class, which gets `params` and `base_kwargs`, or an instance over the same `params` (which can
    have its own eps or foreach). `state`, `param_groups` and `defaults` are the base optimizer's objects.
    rho, adaptive, eta: defaults of the parameter groups; rho = 0 leaves a group unperturbed and out of the norm.
    eps: lower bound of the norm. foreach: False loops over tensors, otherwise fused operations are used.
    start_step: the number of plain base steps at first; after them every `interval`-th step perturbs, and the others
    are plain. model: its BatchNorm statistics are frozen in the second pass. unperturbed: parameters to leave out of e
    and of the norm (SAM-ON: all except those of the normalisation layers, see `norm_parameters`).
    Attributes: `first_pass`, a callable that returns a context for every first pass that a second one follows; with
    DistributedDataParallel's `no_sync` each rank has its own e. `in_second_pass`, whether a second pass is running.
    `radius`, ||e|| of the last perturbation, or None.
    Raises ValueError for a rho or eta that is negative or not finite, and for an interval below 1.
    Sources: Foret et al., ICLR 2021, algorithm 1; Kwon et al., ICML 2021, section 3 (ASAM); Zhou et al., ICLR 2025
    (SAM in the late phase of training only); Mueller et al., NeurIPS 2023 (SAM-ON).
    """

    copied = (*Wrapper.copied, "model", "start_step", "interval", "eps", "unperturbed")
    first_pass: Callable = nullcontext          # on the class, so that a copy has none
    radius: torch.Tensor | None = None
    in_second_pass: bool = False
    takes_micro_batches = True                  # whether step accepts several closures
    takes_first_pass = True                     # whether the ranks' first gradients may differ

    def __init__(
        self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0, eps: float = 1e-12,
        foreach: bool | None = None, start_step: int = 0, model: torch.nn.Module | None = None, interval: int = 1,
        unperturbed: Iterable[torch.Tensor] = (), **base_kwargs,
    ):
        own = {"rho": rho, "adaptive": adaptive, "eta": eta, "sam_step": 0}
        check_group(own)
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        super().__init__(build_base(params, base_optimizer, base_kwargs), own, foreach=foreach is not False)
        self.model, self.start_step, self.interval, self.eps = model, start_step, interval, eps
        self.unperturbed = set(unperturbed)

    @property
    def started(self) -> bool:
        """Whether `start_step` steps have been taken and some group has rho > 0."""
        return self.sam_step >= self.start_step and any(group["rho"] > 0 for group in self.param_groups)

    @property
    def active(self) -> bool:
        """Whether the next step perturbs: SAM has started, and the step is an `interval`-th one."""
        return self.started and (self.sam_step - self.start_step) % self.interval == 0

    @torch.no_grad()
    def step(self, closure: Callable | Sequence[Callable] | None = None, model: torch.nn.Module | None = None):
        """Take one step and return the closure's loss at w, detached.

        The closure runs forward and backward and returns the loss; gradients are zeroed before each call. It is called
        twice, the second time at w + e with BatchNorm frozen and the first pass's random numbers, but only once while
        SAM is not active or if the first gradient is zero. If the first gradient has NaN or infinity, no step is taken.
        Several closures are micro-batches, each with its own e (m-sharpness, Foret et al., section 4): one step is
        taken from the sum of their gradients, and the sum of their losses is returned. Without a closure the base step
        is taken at w from the current gradients.
        """
        closures = [] if closure is None else self._check_closures(closure)
        if not self.perturbed:
            self.radius = None
        try:
            if not closures:
                self._return_to_w()
                return self._base_step()
            if len(closures) == 1:
                loss, finite = self._run_passes(closures[0], model)
            else:
                loss, finite = sum_gradients(self.params, closures, lambda micro: self._run_passes(micro, model))
            if finite:
                self._base_step()                           # w from g'
            else:
                logger.warning("%s: the gradient is not finite, no step taken", type(self).__name__)
            return loss
        finally:
            called = self.sam_step + 1                      # even after an error: it is the caller's iteration
            for group in self.param_groups:
                group["sam_step"] = called

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> torch.Tensor | None:
        """Move from w to w + e along the current gradients and return their norm (for ASAM ||T g||), on the CPU.

        If that norm is zero, infinite or NaN, the weights stay at w. While SAM is not active, or if no parameter to
        perturb has a gradient, they stay too and None is returned. Raises RuntimeError if the weights are perturbed.
        """
        self._refuse_if_perturbed("first_step()")
        self.radius = None
        norm = self._perturb(group_parameters(self.param_groups, self._is_perturbed)) if self.active else None
        if zero_grad:
            self.zero_grad()
        return norm

    def second_step(self, zero_grad: bool = False):
        """Return to w and take the base step from the current gradients, those at w + e."""
        self.step()  # not _base_step(): schedulers and hooks wrap step()
        if zero_grad:
            self.zero_grad()

    def _run_passes(self, closure: Callable, model: torch.nn.Module | None) -> tuple:
        """Compute the base step's gradients, ending at w; return (loss, whether the gradients are finite)."""
        if not self.active:
            return run_closure(self, closure), True
        local = self.first_pass is not nullcontext          # then other ranks wait for this one's second pass
        random_state = RandomState(p.device for p in self.params)
        with self.first_pass():
            loss = run_closure(self, closure)               # g at w
        try:
            norm = self.first_step()                        # w -> w + e
            if self.perturbed or local:
                self.in_second_pass = True
                with second_pass(self.model if model is None else model, random_state):
                    run_closure(self, closure)              # g' at w + e
            self._return_to_w()                             # back to w, bit for bit
        finally:
            self.in_second_pass = False
            self.restore()
        if local:
            norm = grad_norm(self.params)                   # of g', which is equal on all ranks
        return loss, norm is None or bool(norm.isfinite())

    def _check_closures(self, closure) -> list:
        self._refuse_if_perturbed("step(closure)")
        closures = list(closure) if isinstance(closure, Sequence) else [closure]
        name = type(self).__name__
        if len(closures) != 1 and not (closures and self.takes_micro_batches):
            raise ValueError(f"{name} can't step from {len(closures)} closures: pass a single one")
        if self.first_pass is not nullcontext and not self.takes_first_pass:
            raise ValueError(f"{name} needs the same first gradient on all ranks: leave first_pass unset")
        return closures

    # Subclasses override these.

    def _is_perturbed(self, p: torch.Tensor) -> bool:
        """Return whether `p` belongs to the perturbed parameters."""
        return p not in self.unperturbed

    def _ascent_gradients(self, params: list) -> list:
        """Return the gradients of `params` along which to perturb."""
        return [p.grad for p in params]

    def _perturb(self, lists: dict[tuple, list]) -> torch.Tensor | None:
        """Add rho T^2 g / ||T g|| to the parameters and return ||T g||."""
        if not lists:
            return None
        parts = [ascent_directions(params, self._ascent_gradients(params), eta, foreach=self.foreach)
                 for (*_, eta), params in lists.items()]
        norm = total_norm([norms for _, norms, _ in parts]).cpu()  # the only point where the host waits for the GPU
        if 0 < norm < math.inf:
            sizes = []
            for ((_, _, rho, _), params), (directions, _, norms) in zip(lists.items(), parts, strict=True):
                self._backup.append((params, copy_tensors(params, foreach=self.foreach)))
                sizes.append(self._add_e(params, directions, norms, rho=rho, norm=norm))
            self.radius = total_norm(sizes)
        return norm

    def _add_e(self, params: list, directions: list, norms: list, *, rho: float, norm: torch.Tensor) -> list:
        """Add e to `params`; return a list of norms whose norm is ||e||. norms: those of `directions`."""
        scale = rho / max(norm.item(), self.eps)
        add_(params, directions, scale=scale, foreach=self.foreach)
        return [torch.linalg.vector_norm(torch.stack(list(norms))) * scale]

    def _return_to_w(self):
        """Return to w; a subclass also computes its update from g and g', if the weights were perturbed."""
        self.restore()

    def _base_step(self):
        self.base_optimizer.step()
