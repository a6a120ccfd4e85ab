"""Load the state of an optimizer and its schedule from a checkpoint that may be a stranger's."""
import torch


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
