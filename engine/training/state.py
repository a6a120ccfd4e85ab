"""The parts of a training state that their owners can't restore alone: optimizer, schedule, each process's own."""
from pathlib import Path

import torch
from torch import nn

from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger
from utils.seed import get_rng_state, set_rng_state

# What loading a state of another form raises.
MISFITS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)


class RankState:
    """What differs from process to process: random numbers and, without --sync_bn, BatchNorm's statistics."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device

    def state_dict(self) -> dict:
        """Return this process's random state, and its buffers where there are several processes."""
        several = distributed.world_size() > 1
        return {"rng": get_rng_state(self._devices()),
                "buffers": [buffer.cpu() for buffer in self.model.buffers()] if several else []}

    def load_state_dict(self, own: dict):
        """Restore what state_dict() returned."""
        set_rng_state(own["rng"], self._devices())
        with torch.no_grad():
            for buffer, saved in zip(self.model.buffers(), own["buffers"], strict=bool(own["buffers"])):
                buffer.copy_(saved)

    def load_from(self, ranks: list[dict]):
        """Restore this process's part of what all processes saved; another number of processes restores nothing."""
        if len(ranks) == distributed.world_size():
            self.load_state_dict(ranks[distributed.rank()])
            return
        saver = f"{len(ranks)} processes" if ranks else "a program that doesn't save it"
        logger.info("Random state not restored: saved by %s", saver)

    def _devices(self) -> list[torch.device]:
        """Return the GPUs whose random numbers this process draws: its own, or all that DataParallel uses."""
        if self.device.type != "cuda":
            return []
        alone = distributed.world_size() == 1
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if alone else [self.device]


def load_optimizer(optimizer, state: dict):
    """Load the state; settings of its groups (lr, rho, ...) stay as they are. Raises ValueError for other shapes."""
    settings = [{key: value for key, value in group.items() if key not in ("params", "sam_step")}
                for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, now in zip(optimizer.param_groups, settings, strict=True):
        group.update(now)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {list(value.shape)}")


def set_sam_step(optimizer, itr: int):
    """Set SAM's count of steps to the iteration, which also counts skipped iterations and those that SGD made."""
    for group in optimizer.param_groups:
        if "sam_step" in group:
            group["sam_step"] = itr


def load_schedule(scheduler, cur_itrs: int):
    """Put a schedule at an iteration.

    VainF saved its schedule one step behind, so the iteration decides. Nothing else is taken from a file: it would set
    any attribute, even methods.
    """
    scheduler.load_state_dict({"last_epoch": cur_itrs, "base_lrs": scheduler.base_lrs, "_step_count": cur_itrs + 1})


def compare_data(described: dict, state: dict, *, source: str) -> bool:
    """Return whether the validation images are those of the checkpoint's run; VainF's checkpoints don't tell.

    described: this run's class_names, train_images and val_images. Raises UserError for other classes.
    """
    changed = {name for name in ("class_names", "train_images", "val_images")
               if name in state and name in described and state[name] != described[name]}
    if "class_names" in changed:
        names = state["class_names"]
        shown = ", ".join(map(str, names))[:100] if isinstance(names, list) else type(names).__name__
        raise UserError(f"{source} was trained for other classes ({shown}): to start a new run from its weights leave "
                        "out --continue_training")
    if "train_images" in changed:
        logger.warning("Training images changed: batches will differ from an uninterrupted run")
    if "val_images" in changed:
        logger.warning("Validation images changed: scores don't compare, so the best score starts anew")
    return "val_images" not in changed


def read_best_score(path: Path) -> float | None:
    """Return the score in best_*, which may be of a later iteration than the state that continues; None without one.

    A damaged file is renamed, and the next validation makes another.
    """
    score = None
    if distributed.is_main() and path.exists():
        try:
            score = float(checkpoint.load(path)["best_score"])
        except (UserError, *MISFITS) as problem:
            logger.warning("Warning: can't continue with %s (%s). The next validation makes a new one", path, problem)
            checkpoint.put_aside(path)
    return distributed.broadcast_object(score)
