"""Random seeds of everything that draws."""
import random

import numpy as np
import torch


def seed_everything(seed: int):
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generator_for(*parts) -> torch.Generator:
    """A CPU generator that depends on `parts` alone, e.g. (seed, image index): the same on every machine and device.

    `random.Random` of a string hashes it with SHA-512, so neighbouring parts give unrelated streams.
    """
    seed = random.Random("/".join(str(part) for part in parts)).getrandbits(63)
    return torch.Generator().manual_seed(seed)
