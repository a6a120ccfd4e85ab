"""Learning-rate schedules, stepped once per iteration."""
import math

from torch.optim.lr_scheduler import LRScheduler

from utils.errors import UserError


class Curve(LRScheduler):
    """A learning rate that depends only on the base rate, the constructor's settings and the iteration.

    settings: the names of those settings. load_state_dict keeps the constructor's values rather than the checkpoint's,
    so that a run resumed with other settings follows the new curve from there on. warmup_itrs: in so many first
    iterations the curve is multiplied by (itr + 1) / (warmup_itrs + 1).
    """

    settings: tuple[str, ...] = ()

    def __init__(self, optimizer, last_epoch: int = -1):
        self.warmup_itrs = 0
        super().__init__(optimizer, last_epoch)

    def compute(self) -> list[float]:
        """Return the curve's learning rate of each parameter group at iteration `last_epoch`, without a warm-up."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """Return the learning rate of each parameter group at iteration `last_epoch`."""
        share = min((self.last_epoch + 1) / (self.warmup_itrs + 1), 1.0)
        return [share * lr for lr in self.compute()]

    def warm_up(self, itrs: int):
        """Warm up in the first `itrs` iterations."""
        self.warmup_itrs = itrs
        self._set(self.get_lr())

    def load_state_dict(self, state_dict: dict):
        """Continue at the iteration of `state_dict`, on the curve of the constructor's settings."""
        super().load_state_dict({**state_dict, **{key: getattr(self, key) for key in ("warmup_itrs", *self.settings)}})
        self._set(self.get_lr())

    def _set(self, lrs: list[float]):
        self._last_lr = lrs
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr


class PolyLR(Curve):
    """Lowers the learning rate as max(base_lr * (1 - itr / max_iters) ** power, min_lr), and holds it after max_iters.

    max_iters, last_epoch: iterations. Raises UserError unless max_iters is positive.
    Source: Chen et al., "DeepLab", TPAMI 2018, section 4.1 (the "poly" policy).
    """

    settings = ("max_iters", "power", "min_lr")

    def __init__(self, optimizer, max_iters: int, power: float = 0.9, last_epoch: int = -1, min_lr: float = 1e-6):
        if not max_iters > 0:
            raise UserError(f"the poly schedule needs a positive number of iterations, got {max_iters}")
        self.max_iters = max_iters
        self.power = power
        self.min_lr = min_lr
        super().__init__(optimizer, last_epoch)

    def compute(self) -> list[float]:
        """Return the learning rate of each parameter group at iteration `last_epoch`."""
        left = max(1 - self.last_epoch / self.max_iters, 0.0)  # a negative base would make the power complex
        # A base rate below min_lr, such as 0 for frozen parameters, isn't raised to it.
        return [max(base_lr * left**self.power, min(base_lr, self.min_lr)) for base_lr in self.base_lrs]


class StepLR(Curve):
    """Multiplies the learning rate by `gamma` every `step_size` iterations."""

    settings = ("step_size", "gamma")

    def __init__(self, optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def compute(self) -> list[float]:
        """Return the learning rate of each parameter group at iteration `last_epoch`."""
        return [base_lr * self.gamma ** (self.last_epoch // self.step_size) for base_lr in self.base_lrs]


class CosineLR(Curve):
    """Lowers the learning rate to 0 as base_lr (1 + cos(pi itr / max_iters)) / 2, and holds it after max_iters.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.
    """

    settings = ("max_iters",)

    def __init__(self, optimizer, max_iters: int, last_epoch: int = -1):
        self.max_iters = max_iters
        super().__init__(optimizer, last_epoch)

    def compute(self) -> list[float]:
        """Return the learning rate of each parameter group at iteration `last_epoch`."""
        share = min(self.last_epoch / self.max_iters, 1.0)
        return [base_lr * (1 + math.cos(math.pi * share)) / 2 for base_lr in self.base_lrs]


def build_poly(optimizer, *, total_itrs: int, step_size: int) -> PolyLR:  # noqa: ARG001
    """Build VainF's default schedule: power 0.9, minimum 1e-6."""
    return PolyLR(optimizer, total_itrs)


def build_cosine(optimizer, *, total_itrs: int, step_size: int) -> CosineLR:  # noqa: ARG001
    """Build the schedule that falls to 0 along half a cosine."""
    return CosineLR(optimizer, total_itrs)


def build_step(optimizer, *, total_itrs: int, step_size: int) -> StepLR:  # noqa: ARG001
    """Build the schedule that divides the learning rate by 10 every `step_size` iterations."""
    return StepLR(optimizer, step_size, gamma=0.1)
