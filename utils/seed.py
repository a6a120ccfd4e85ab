"""Random seeds of everything that draws."""
import random
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int):
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state(devices: list[torch.device]) -> dict:
    """Where the streams of torch, NumPy and Python are, and those of the GPUs `devices`: tensors and plain values."""
    numpy = np.random.get_state(legacy=False)
    words = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(device) for device in devices],
        "numpy": {**numpy, "state": {**numpy["state"], "key": words}},
        "python": {"version": version, "words": torch.tensor(internal), "gauss": gauss},
    }


def set_rng_state(state: dict, devices: list[torch.device]):
    """Go on where rng_state() was; GPUs of another number than then keep their streams."""
    torch.set_rng_state(state["torch"])
    numpy, python = state["numpy"], state["python"]
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].numpy()}})
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if len(devices) == len(state["cuda"]):
        for device, stream in zip(devices, state["cuda"], strict=True):
            torch.cuda.set_rng_state(stream, device)


@contextmanager
def drawing_from(*parts):
    """Python, NumPy and torch (the CPU's) draw a stream that depends on `parts` alone; then they go on as before."""
    earlier = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = _seed_of(parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(earlier[0])
        np.random.set_state(earlier[1])
        torch.set_rng_state(earlier[2])


def generator_for(*parts) -> torch.Generator:
    """A CPU generator that depends on `parts` alone, e.g. (seed, image index): the same on every machine and device."""
    return torch.Generator().manual_seed(_seed_of(parts))


def _seed_of(parts) -> int:
    # random.Random of a string hashes it with SHA-512: neighbouring parts give unrelated streams.
    return random.Random("/".join(str(part) for part in parts)).getrandbits(63)
