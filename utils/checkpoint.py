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
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{path} can't be read as a checkpoint (damaged, or holds more than weights): {cause}"
        raise UserError(message) from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint: expected a dict of weights")
    if "best_score" in checkpoint:
        checkpoint["best_score"] = float(checkpoint["best_score"])
    return checkpoint


def model_state(checkpoint: dict) -> dict:
    """The weights in `checkpoint`: its `model_state`, or the whole of it where it is a bare state dict."""
    return checkpoint.get("model_state", checkpoint)
