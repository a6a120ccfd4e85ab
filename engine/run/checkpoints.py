"""The checkpoints of a run: what they hold, where they are, and which one a call means."""
from contextlib import suppress
from pathlib import Path

import torch

from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger
from utils.version import VERSION

CHECKPOINTS = ("latest_*.pth", "previous*.pth", "best_*.pth")
# Everything that a checkpoint holds: key -> (type, whose state it is). VainF's files have the first five.
KEYS = {
    "cur_itrs": (int, "the trainer's"), "model_state": (dict, "the bare network's"),
    "optimizer_state": (dict, "the optimizer's"), "scheduler_state": (dict, "the schedule's"),
    "best_score": (float, "the trainer's"),
    "cur_epochs": (int, "the trainer's"), "validated": (int, "the trainer's"), "skipped": (int, "the trainer's"),
    "skipped_in_a_row": (int, "the trainer's"), "measured": (dict, "the meter's"),
    "ranks": (list, "each process's: random numbers, BatchNorm statistics"),
    "options": (dict, "the run's"), "seed": (int, "the run's"), "normalization": (dict, "the network's"),
    "class_names": (list, "the data set's"), "train_images": (str, "the data set's"),
    "val_images": (str, "the data set's"), "skipped_images": (dict, "the data set's"),
    "format": (int, "of these keys"), "version": (str, "of this program"), "torch": (str, "torch's version"),
}


def stamp(state: dict) -> dict:
    """Return a training state with what says how to read it; KeyError for a key that is not in KEYS."""
    state = {**state, "format": checkpoint.FORMAT, "version": VERSION, "torch": str(torch.__version__)}
    if unlisted := state.keys() - KEYS.keys():
        raise KeyError(f"not in KEYS: {sorted(unlisted)}")
    return state


def check_types(state: dict):
    """Raise TypeError for a key of another type: the file may be a stranger's."""
    for key, (kind, _) in KEYS.items():
        if key in state and not isinstance(state[key], (int, float) if kind is float else kind):
            raise TypeError(f"{key} is of type {type(state[key]).__name__}")


def path_of(folder: Path, kind: str, *, model: str, dataset: str, output_stride: int) -> Path:
    """Return where the `kind` (latest or best) checkpoint is, named as VainF names it."""
    return folder / f"{kind}_{model}_{dataset}_os{output_stride}.pth"


def find(folder: Path, kind: str, named: dict) -> Path:
    """Return the only `kind` checkpoint of the folder that --model and --dataset, where given in `named`, allow."""
    found = _matching(folder, kind, named)
    if not found:
        others = ", ".join(sorted(path.name for pattern in CHECKPOINTS for path in folder.glob(pattern)))
        raise UserError(f"no {_pattern(kind, named)} in {folder}{f' (only {others})' if others else ''}: train first, "
                        "or name weights with --ckpt or another run with --exp_name")
    if len(found) > 1:
        raise UserError(f"several checkpoints in {folder} ({', '.join(path.name for path in found)}): "
                        "name one with --ckpt")
    return found[0]


def load_best(folder: Path, named: dict) -> tuple[Path, dict]:
    """Return best_* and what it holds."""
    path = find(folder, "best", named)
    try:
        return path, checkpoint.load(path)
    except UserError as problem:
        if others := _matching(folder, "latest", named):
            raise UserError(f"{problem}; to test the run's last state give --ckpt {others[0]}") from None
        raise


def load_latest(folder: Path, named: dict) -> tuple[Path, dict, tuple[Path, Path] | None]:
    """Return latest_* and what it holds, and None.

    Where latest_* is damaged or missing: the latest state that can be continued, with a warning, and the pair (that
    file, the latest_* that it replaces).
    """
    latest = _expected_latest(folder, named)
    try:
        return latest, _training_state(latest), None
    except UserError as error:
        problem = error
    best = latest.with_name("best_" + latest.name.removeprefix("latest_"))
    found = []
    for path in (*checkpoint.earlier(latest), best):
        with suppress(UserError):
            found.append((path, _training_state(path)))
    if not found:
        raise UserError(f"{problem}; nor can any other checkpoint of this run be continued")
    path, loaded = max(found, key=lambda one: _iteration(one[1]))  # the first of equal ones: a previous one, not best_*
    logger.warning("Warning: %s. Continuing with %s, of iteration %s (docs/resume.md#checkpoints)", problem,
                   path, _iteration(loaded))
    return path, loaded, (path, latest)


def _training_state(path: Path) -> dict:
    loaded = checkpoint.load(path)
    if "optimizer_state" not in loaded:
        raise UserError(f"{path} holds weights but no training state")
    return loaded


def _iteration(loaded: dict) -> int:
    """Return the iteration; -1 where a stranger's file holds something else."""
    return loaded["cur_itrs"] if isinstance(loaded.get("cur_itrs"), int) else -1


def _expected_latest(folder: Path, named: dict) -> Path:
    """Return where latest_* is, or should be where only earlier checkpoints are left."""
    others = _matching(folder, "previous*", named) or _matching(folder, "best", named)
    if _matching(folder, "latest", named) or not others:
        return find(folder, "latest", named)
    return others[0].with_name("latest_" + others[0].name.partition("_")[2])


def _matching(folder: Path, kind: str, named: dict) -> list[Path]:
    return sorted(folder.glob(_pattern(kind, named)))


def _pattern(kind: str, named: dict) -> str:
    model, dataset = (named.get(name, "*") for name in ("model", "dataset"))
    return f"{kind}_{model}_{dataset}_os*.pth".replace("*_*_os*", "*")
