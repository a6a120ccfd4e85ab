"""Attacks on segmentation networks: [0, 1] images and labels in, adversarial images out.

A new attack is one short file and one entry in ATTACKS.
"""
import inspect

from attacks.base import Attack
from attacks.fgsm import FGSM
from attacks.norms import NORMS
from attacks.pgd import PGD

ATTACKS = {"fgsm": FGSM, "pgd": PGD}

__all__ = ["ATTACKS", "FGSM", "NORMS", "PGD", "Attack", "build_attack"]


def build_attack(name: str, **settings) -> Attack:
    """The attack called `name`, given those of `settings` (eps, norm, steps, step_size, seed, ...) that it takes."""
    if name not in ATTACKS:
        raise ValueError(f"attack {name!r}: known are {', '.join(ATTACKS)}")
    taken = inspect.signature(ATTACKS[name]).parameters
    return ATTACKS[name](**{key: value for key, value in settings.items() if key in taken})
