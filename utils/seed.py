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
