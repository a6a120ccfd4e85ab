"""Attacks on segmentation networks: [0, 1] images and labels in, adversarial images out.

A new attack is one short file and one entry in ATTACKS; a new loss is one entry in attacks.losses.LOSSES.
"""
import inspect

from attacks.apgd import APGD
from attacks.base import Attack, Outcome
from attacks.cospgd import CosPGD
from attacks.ensemble import ENSEMBLE_LOSSES, SEA, SEA_LOSSES, Ensemble, SixLosses
from attacks.fgsm import FGSM
from attacks.losses import LOSSES, class_weights
from attacks.noise import Noise, SignNoise, UniformNoise
from attacks.norms import NORMS
from attacks.pgd import PGD
from attacks.segpgd import SegPGD
from attacks.square import Square

ATTACKS = {"fgsm": FGSM, "pgd": PGD, "segpgd": SegPGD, "cospgd": CosPGD, "apgd": APGD, "sea": SEA,
           "ensemble": SixLosses, "square": Square, "noise": Noise}

__all__ = ["APGD", "ATTACKS", "ENSEMBLE_LOSSES", "FGSM", "LOSSES", "NORMS", "PGD", "SEA", "SEA_LOSSES", "Attack",
           "CosPGD", "Ensemble", "Noise", "Outcome", "SegPGD", "SignNoise", "SixLosses", "Square", "UniformNoise",
           "build_attack", "class_weights"]


def build_attack(name: str, **settings) -> Attack:
    """The attack called `name`, given those of `settings` (eps, norm, steps, step_size, seed, ...) that it takes.

    A setting that is None is left at the attack's own default. Raises ValueError for an unknown name and for settings
    out of bounds, and for a target that the attack can't have.
    """
    if name not in ATTACKS:
        raise ValueError(f"attack {name!r}: known are {', '.join(ATTACKS)}")
    taken = inspect.signature(ATTACKS[name]).parameters
    if settings.get("target") is not None and "target" not in taken:
        raise ValueError(f"{name} can't be driven to a target")
    return ATTACKS[name](**{key: value for key, value in settings.items() if key in taken and value is not None})
