"""Compare a checkpoint with the run that continues it: classes, images, the best score."""
from pathlib import Path

from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger

# Errors of loading a state that doesn't fit.
MISFITS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)


def compare_data(described: dict, state: dict, *, source: str) -> bool:
    """Return whether the validation images are the checkpoint's; log changed images, raise UserError for other classes.

    described: this run's class_names, train_images and val_images, which VainF's checkpoints lack.
    """
    changed = {name for name in ("class_names", "train_images", "val_images")
               if name in state and name in described and state[name] != described[name]}
    if "class_names" in changed:
        names = state["class_names"]
        shown = ", ".join(map(str, names))[:100] if isinstance(names, list) else type(names).__name__
        raise UserError(f"{source} was trained for other classes ({shown}): to start a new run from its weights leave "
                        "out --continue_training (docs/resume.md#what-may-change)")
    if "train_images" in changed:
        logger.warning("Training images changed: batches will differ from an uninterrupted run "
                       "(docs/resume.md#what-may-change)")
    if "val_images" in changed:
        logger.warning("Validation images changed: the best score so far is dropped, as scores don't compare "
                       "(docs/resume.md#what-may-change)")
    return "val_images" not in changed


def read_best_score(path: Path) -> float | None:
    """Return the score in best_*, even of a later iteration than the continued state; None if missing or damaged."""
    score = None
    if distributed.is_main() and path.exists():
        try:
            score = float(checkpoint.load(path)["best_score"])
        except (UserError, *MISFITS) as problem:
            logger.warning("Warning: can't continue with %s (%s). The next validation writes a new one", path, problem)
            checkpoint.put_aside(path)
    return distributed.broadcast_object(score)
