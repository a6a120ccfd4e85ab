"""Seed, save and restore the random number generators of Python, NumPy and torch."""
import random
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int):
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_rng_state(devices: list[torch.device]) -> dict:
    """Return the generator states of torch, NumPy, Python and the GPUs `devices` as tensors and plain values.

    GPUs are CUDA's, or one of Apple's (mps).
    """
    numpy = np.random.get_state(legacy=False)
    words = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    version, internal, gauss = random.getstate()
    gpus = {devices[0].type: [get_gpu_state(device) for device in devices]} if devices else {}
    return {
        "torch": torch.get_rng_state(), "cuda": [], **gpus,
        "numpy": {**numpy, "state": {**numpy["state"], "key": words}},
        "python": {"version": version, "words": torch.tensor(internal), "gauss": gauss},
    }


def set_rng_state(state: dict, devices: list[torch.device]):
    """Restore what get_rng_state() returned; GPU states are skipped if the number of GPUs has changed."""
    torch.set_rng_state(state["torch"])
    numpy, python = state["numpy"], state["python"]
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].numpy()}})
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    saved = state.get(devices[0].type, []) if devices else []
    if len(devices) == len(saved):
        for device, gpu_state in zip(devices, saved, strict=True):
            set_gpu_state(gpu_state, device)


def get_gpu_state(device: torch.device) -> torch.Tensor:
    """Return the state of a GPU's generator."""
    return torch.mps.get_rng_state() if device.type == "mps" else torch.cuda.get_rng_state(device)


def set_gpu_state(state: torch.Tensor, device: torch.device):
    """Restore the state of a GPU's generator."""
    torch.mps.set_rng_state(state) if device.type == "mps" else torch.cuda.set_rng_state(state, device)


@contextmanager
def seeded_by(*parts):
    """Seed Python, NumPy and torch (CPU) from `parts` alone for the block; then restore their states."""
    earlier = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = _derive_seed(parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(earlier[0])
        np.random.set_state(earlier[1])
        torch.set_rng_state(earlier[2])


def make_generator(*parts) -> torch.Generator:
    """Return a CPU generator seeded from `parts` alone, e.g. (seed, image index); it is the same on every machine."""
    return torch.Generator().manual_seed(_derive_seed(parts))


def _derive_seed(parts) -> int:
    # random.Random hashes a string with SHA-512, so that similar parts give unrelated seeds.
    return random.Random("/".join(str(part) for part in parts)).getrandbits(63)
