"""What a training run leaves in a checkpoint and takes up again: all that its next iteration depends on."""
import torch

from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger
from utils.seed import rng_state, set_rng_state
from utils.version import VERSION

# What a state of another form raises.
MISFIT = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)


def capture(trainer) -> dict:
    """The state of a Trainer: tensors and plain values, the same on all ranks but for "ranks", which rank 0 has.

    All ranks call it.
    """
    return {
        "format": checkpoint.FORMAT, "version": VERSION, "torch": str(torch.__version__),
        "cur_itrs": trainer.cur_itrs, "cur_epochs": trainer.cur_epochs, "best_score": trainer.best_score,
        "validated": trainer.validated, "skipped": trainer.skipped, "skipped_in_a_row": trainer.skipped_in_a_row,
        "model_state": trainer.model.model.state_dict(), "optimizer_state": trainer.optimizer.state_dict(),
        "scheduler_state": trainer.scheduler.state_dict(), "measured": trainer.meter.values_so_far(),
        "ranks": distributed.gather(_of_this_rank(trainer)), **trainer.described,
    }


def _of_this_rank(trainer) -> dict:
    """What differs from process to process: random numbers and, without --sync_bn, BatchNorm's statistics."""
    several = distributed.world_size() > 1
    return {"rng": rng_state(_devices(trainer)),
            "buffers": [buffer.cpu() for buffer in trainer.model.buffers()] if several else []}


def _devices(trainer) -> list[torch.device]:
    """The GPUs whose random numbers this process draws: its own, or all that DataParallel shares the batch over."""
    device = trainer.update.device
    if device.type != "cuda":
        return []
    alone = distributed.world_size() == 1
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if alone else [device]


def take_up(trainer, state: dict, *, source: str):
    """Put the training state of a checkpoint, whose weights are loaded already, into a new Trainer.

    What belongs to the options (learning rates, rho, the schedule's length) stays as this call has it. Raises
    UserError, which names `source`, for the state of another kind of training or other classes.
    """
    if _differs(trainer, state, "class_names"):
        raise UserError(f"{source} was trained for other classes ({_shown(state['class_names'])}): to start a new run "
                        "from its weights leave out --continue_training")
    if _differs(trainer, state, "train_images"):
        logger.warning("The training images are others than before: batches are not those of a run that never stopped")
    if others := _differs(trainer, state, "val_images"):
        logger.warning("The validation images are others than before: scores don't compare, the best begins anew")
    try:
        trainer.cur_itrs, trainer.skipped = int(state["cur_itrs"]), int(state.get("skipped", 0))
        trainer.skipped_in_a_row = int(state.get("skipped_in_a_row", 0))
        trainer.validated = int(state.get("validated", trainer.cur_itrs))  # older ones were written after validations
        if trainer.cur_itrs < 0:
            raise ValueError(f"iteration {trainer.cur_itrs}")
        best = _score_of_best(trainer)
        if best is not None and not others:  # else the best of this folder is still to come
            trainer.best_score = best
        _take_up_optimizer(trainer, state)
        trainer.meter.go_on_from(state.get("measured", {}))
        _take_up_rank(trainer, state.get("ranks", []))
    except MISFIT as error:
        raise UserError(f"the training state in {source} doesn't fit this --optimizer, or is damaged "
                        f"({type(error).__name__}: {error})") from None


def _differs(trainer, state: dict, name: str) -> bool:
    """Whether the checkpoint is of other images or classes; those of VainF don't say."""
    return name in state and name in trainer.described and state[name] != trainer.described[name]


def _score_of_best(trainer) -> float | None:
    """The score in best_*, which may be of a later iteration than what is gone on with; None where there is none.

    A damaged one is put aside, for the next validation to make another.
    """
    score = None
    if distributed.is_main() and trainer.paths["best"].exists():
        try:
            score = float(checkpoint.load(trainer.paths["best"])["best_score"])
        except (UserError, *MISFIT) as problem:
            logger.warning("Warning: %s can't be gone on with (%s). The next validation makes a new one",
                           trainer.paths["best"], problem)
            checkpoint.put_aside(trainer.paths["best"])
    return distributed.from_main(score)


def _take_up_optimizer(trainer, state: dict):
    settings = [{key: value for key, value in group.items() if key not in ("params", "sam_step")}
                for group in trainer.optimizer.param_groups]
    base_lrs = trainer.scheduler.base_lrs
    trainer.optimizer.load_state_dict(state["optimizer_state"])
    for group, now in zip(trainer.optimizer.param_groups, settings, strict=True):
        group.update(now)  # lr, rho and the like are those of this call's options
    trainer.count(trainer.cur_itrs)
    # VainF saved its schedule one step behind; the iteration says where it stands.
    # All else in it is the constructor's, and must not be a file's: it would set any attribute, methods too.
    trainer.scheduler.load_state_dict({"last_epoch": trainer.cur_itrs, "base_lrs": base_lrs,
                                       "_step_count": trainer.cur_itrs + 1})
    for parameter, values in trainer.optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {list(value.shape)}")


def _take_up_rank(trainer, ranks: list[dict]):
    """This process's random numbers and statistics; what another number of processes left fits none of them."""
    if len(ranks) != distributed.world_size():
        logger.info("Dropout and random starts draw anew: the checkpoint is of %s",
                    f"{len(ranks)} processes" if ranks else "a program that doesn't keep their state")
        return
    own = ranks[distributed.rank()]
    set_rng_state(own["rng"], _devices(trainer))
    with torch.no_grad():
        for buffer, saved in zip(trainer.model.buffers(), own["buffers"], strict=bool(own["buffers"])):
            buffer.copy_(saved)


def _shown(names) -> str:
    return ", ".join(map(str, names))[:100] if isinstance(names, list) else type(names).__name__
