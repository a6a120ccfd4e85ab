"""Checkpoints: dicts of tensors and plain Python values, written whole or not at all, read without running code.

Keys are VainF's (cur_itrs, model_state, optimizer_state, scheduler_state, best_score) and more; `model_state` holds the
bare network's keys, without the wrapper's `module.`.
"""
import os
import pickle
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError

# What VainF's and SAM_AT's own files need besides tensors: their best_score is a numpy.float64. The scalar's function
# moved between numpy 1 and 2 (numpy.core -> numpy._core), and a file names the one it was written with.
_SCALAR = np._core.multiarray.scalar
_ALLOWED = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]

# What torch.load raises on files that are torn, foreign or malicious.
BROKEN = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)


def save(path, checkpoint: dict):
    """Write to a temporary file in the same folder, then rename it: `path` is never half a file."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path) -> dict:
    """Read a checkpoint or a bare state dict onto the CPU; `weights_only`, with the few names that older files need.

    Raises UserError where there is no such file, or where it is no checkpoint or holds anything but data.
    """
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}: check the path given to --ckpt")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        raise UserError(f"{path} can't be read as a checkpoint ({type(error).__name__}): it is damaged, or holds more "
                        "than tensors and plain values, such as a whole pickled model, which could run code") from None
    if not isinstance(checkpoint, dict) or not isinstance(model_state(checkpoint), dict):
        raise UserError(f"{path} is no checkpoint: expected a dict of weights, or one that holds it as model_state")
    if isinstance(checkpoint.get("best_score"), np.generic):
        checkpoint["best_score"] = float(checkpoint["best_score"])
    return checkpoint


def model_state(checkpoint: dict) -> dict:
    """The weights in `checkpoint`: its `model_state` (others write `state_dict` or `model`), else the whole of it."""
    for key in ("model_state", "state_dict", "model"):
        if key in checkpoint:
            return checkpoint[key]
    return checkpoint
