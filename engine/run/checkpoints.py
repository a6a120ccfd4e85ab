"""The checkpoints of a run: what they hold, where they are, and which one a call means."""
from contextlib import suppress
from pathlib import Path

import torch

from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger
from utils.user_code import is_code, make_label
from utils.version import VERSION

CHECKPOINTS = ("latest_*.pth", "previous*.pth", "best_*.pth")
# All keys of a checkpoint: key -> (type, whose state it is). VainF's files have the first five.
KEYS = {
    "cur_itrs": (int, "the trainer's"), "model_state": (dict, "the bare network's"),
    "optimizer_state": (dict, "the optimizer's"), "scheduler_state": (dict, "the schedule's"),
    "best_score": (float, "the trainer's"),
    "cur_epochs": (int, "the trainer's"), "validated": (int, "the trainer's"), "skipped": (int, "the trainer's"),
    "skipped_in_a_row": (int, "the trainer's"), "measured": (dict, "the meter's"),
    "ranks": (list, "each process's: random numbers, BatchNorm statistics"),
    "options": (dict, "the run's"), "seed": (int, "the run's"), "normalization": (dict, "the network's"),
    "class_names": (list, "the data set's"), "class_colours": (list, "the data set's"),
    "val_names": (list, "the data set's"), "train_images": (str, "the data set's"),
    "val_images": (str, "the data set's"), "skipped_images": (dict, "the data set's"),
    "class_pixels": (list, "the data set's"), "class_weights": (list, "the run's"),
    "trained_state": (dict, "the bare network's, where model_state is --ema's average"), "averaged": (int, "--ema's"),
    "format": (int, "of these keys"), "version": (str, "of this program"), "torch": (str, "torch's version"),
}


def stamp(state: dict) -> dict:
    """Return a training state with its format and versions; raise KeyError for a key that is not in KEYS."""
    state = {**state, "format": checkpoint.FORMAT, "version": VERSION, "torch": str(torch.__version__)}
    if unlisted := state.keys() - KEYS.keys():
        raise KeyError(f"not in KEYS: {sorted(unlisted)}")
    return state


def check_types(state: dict):
    """Raise TypeError, ValueError for a value of the wrong type or range: the file may come from a stranger."""
    for key in ("cur_itrs", "averaged"):
        if isinstance(count := state.get(key), int) and not 0 <= count < 2**53:
            raise ValueError(f"{key} is {count}")
    for key, (kind, _) in KEYS.items():
        if key in state and not isinstance(state[key], (int, float) if kind is float else kind):
            raise TypeError(f"{key} is of type {type(state[key]).__name__}")


def make_path(folder: Path, kind: str, *, model: str, dataset: str, output_stride: int | None) -> Path:
    """Return the path of the `kind` (latest or best) checkpoint, named as in VainF's code."""
    stride = "" if output_stride is None else f"_os{output_stride}"  # a network of the user's own has none
    return folder / f"{kind}_{make_label(model)}_{dataset}{stride}.pth"


def find(folder: Path, kind: str, named: dict) -> Path:
    """Return the `kind` checkpoint in the folder, of `named`'s model and dataset; UserError unless exactly one."""
    found = _find_matching(folder, kind, named)
    if not found:
        others = ", ".join(sorted(path.name for pattern in CHECKPOINTS for path in folder.glob(pattern)))
        raise UserError(f"no {_make_pattern(kind, named)} in {folder}{f' (only {others})' if others else ''}: train "
                        "first, or name weights with --ckpt or another run with --exp_name")
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
        if others := _find_matching(folder, "latest", named):
            raise UserError(f"{problem}; to test the run's last state give --ckpt {others[0]}") from None
        raise


def load_latest(folder: Path, named: dict) -> tuple[Path, dict, tuple[Path, Path] | None]:
    """Return (path, content, None) of latest_*.

    If latest_* is damaged or missing: warn and return (path, content, (path, path of latest_*)) of the latest other
    checkpoint that can be continued.
    """
    latest = _expect_latest(folder, named)
    try:
        return latest, _load_training_state(latest), None
    except UserError as error:
        problem = error
    best = latest.with_name("best_" + latest.name.removeprefix("latest_"))
    found = []
    for path in (*checkpoint.earlier(latest), best):
        with suppress(UserError):
            found.append((path, _load_training_state(path)))
    if not found:
        raise UserError(f"{problem}; this run has no other checkpoint that can be continued")
    path, loaded = max(found, key=lambda one: _read_iteration(one[1]))  # of equal ones the first: previous*, not best_*
    logger.warning("Warning: %s. Continuing with %s, of iteration %s (docs/resume.md#checkpoints)", problem,
                   path, _read_iteration(loaded))
    return path, loaded, (path, latest)


def _load_training_state(path: Path) -> dict:
    loaded = checkpoint.load(path)
    if "optimizer_state" not in loaded:
        raise UserError(f"{path} holds weights but no training state")
    return loaded


def _read_iteration(loaded: dict) -> int:
    """Return the iteration, -1 if the file holds something else."""
    return loaded["cur_itrs"] if isinstance(loaded.get("cur_itrs"), int) else -1


def _expect_latest(folder: Path, named: dict) -> Path:
    """Return the path of latest_*, also if only earlier checkpoints exist."""
    others = _find_matching(folder, "previous*", named) or _find_matching(folder, "best", named)
    if _find_matching(folder, "latest", named) or not others:
        return find(folder, "latest", named)
    return others[0].with_name("latest_" + others[0].name.partition("_")[2])


def _find_matching(folder: Path, kind: str, named: dict) -> list[Path]:
    patterns = _make_pattern(kind, named), _make_pattern(kind, named).replace("_os*.pth", ".pth")
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _make_pattern(kind: str, named: dict) -> str:
    model, dataset = (named.get(name, "*") for name in ("model", "dataset"))
    stride = "" if is_code(model) else "_os*"
    return f"{kind}_{make_label(model)}_{dataset}{stride}.pth".replace("*_*_os*", "*")
