"""How a checkpoint and a new run compare: classes, images, the best score so far."""
from pathlib import Path

from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger

# What loading a state of another form raises.
MISFITS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)


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
