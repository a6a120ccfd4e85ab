"""An optimizer that wraps another one: groups, state and checkpoints of SAM and the methods derived from it."""
import torch
from torch.optim import Optimizer

from optim.ascent import restore_
from optim.groups import check_group, complete_group, drop_old_weights


class Wrapper(Optimizer):
    """An optimizer with the groups and state of `base_optimizer`, which may perturb the weights for a while.

    base_optimizer: gets `own` as additional defaults of its parameter groups. copied: the attributes that a copy has.
    memory: {parameter: tensor}, a method's state from step to step, saved under `memory_name`. (Inside the base
    optimizer's state, Adam would take it for its own, already initialised state.)
    """

    copied: tuple[str, ...] = ("base_optimizer", "foreach", "memory", "_backup")
    memory_name: str | None = None

    def __init__(self, base_optimizer: Optimizer, own: dict, *, foreach: bool):
        base_optimizer.defaults.update(own)
        for group in base_optimizer.param_groups:
            complete_group(group, own)
        # Not Optimizer.__init__, which would create a second `state` and `param_groups`.
        super().__setstate__({"base_optimizer": base_optimizer, "foreach": foreach, "memory": {}, "_backup": []})

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
        """The base optimizer's defaults, including the wrapper's."""
        return self.base_optimizer.defaults

    @property
    def params(self) -> list:
        """All parameters, in the order of a state dict's indices."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def sam_step(self) -> int:
        """The number of calls of step()."""
        return self.param_groups[0]["sam_step"]

    @property
    def perturbed(self) -> bool:
        """Whether the weights are at w + e."""
        return bool(self._backup)

    @torch.no_grad()
    def restore(self):
        """Return from w + e to w, bit for bit; do nothing at w. With a GradScaler, call it before unscale_."""
        for params, saved in self._backup:
            restore_(params, saved, foreach=self.foreach)
        self._backup = []

    def add_param_group(self, param_group: dict):
        """Add a parameter group; it may have its own rho, adaptive and eta."""
        check_group({**self.defaults, **param_group})
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict:
        """Return the base optimizer's state dict; its groups contain rho, adaptive, eta and sam_step (calls of step).

        A memory that is not empty is stored under `memory_name`, by parameter index like the state. Raises RuntimeError
        while the weights are perturbed: weights saved now would be wrong.
        """
        self._refuse_if_perturbed("state_dict()")
        state_dict = self.base_optimizer.state_dict()
        if self.memory:
            state_dict[self.memory_name] = {i: self.memory[p] for i, p in enumerate(self.params) if p in self.memory}
        return state_dict

    def load_state_dict(self, state_dict: dict):
        """Load the state of a wrapper or a plain base optimizer; each group keeps its current rho, adaptive and eta."""
        self._refuse_if_perturbed("load_state_dict()")
        own = [{key: group[key] for key in ("rho", "adaptive", "eta")} for group in self.param_groups]
        self.base_optimizer.load_state_dict(drop_old_weights(state_dict))
        for group, before in zip(self.param_groups, own, strict=True):
            complete_group(group, before | {"sam_step": 0})
        saved = state_dict.get(self.memory_name, {})
        self.memory = {p: saved[i].to(p).clone() for i, p in enumerate(self.params) if i in saved}

    def _refuse_if_perturbed(self, what: str):
        if self.perturbed:
            raise RuntimeError(f"{type(self).__name__}: {what} is not possible while the weights are perturbed: "
                               "call second_step() or restore() first")

    def __getstate__(self) -> dict:
        self._refuse_if_perturbed("copying")
        return {key: self.__dict__[key] for key in self.copied}
