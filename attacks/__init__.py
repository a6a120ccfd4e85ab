"""Attacks on segmentation networks: [0, 1] images and labels in, adversarial images out.

To add an attack, write one short file and one entry in ATTACKS; to add a loss, one entry in attacks.losses.LOSSES.
"""
import inspect

from attacks.apgd import APGD
from attacks.base import Attack, Outcome
from attacks.corruption import CORRUPTIONS, SEVERITIES, Corruption
from attacks.cospgd import CosPGD
from attacks.ensemble import ENSEMBLE_LOSSES, SEA, SEA_LOSSES, AllLosses, Ensemble
from attacks.fgsm import FGSM
from attacks.losses import LOSSES, class_weights
from attacks.min_radius import MinRadius
from attacks.networks import Networks, join
from attacks.noise import Noise, SignNoise, UniformNoise
from attacks.norms import NORMS
from attacks.pgd import PGD
from attacks.race import Race
from attacks.segpgd import SegPGD
from attacks.square import Square
from attacks.trades import TradesPGD

ATTACKS = {"fgsm": FGSM, "pgd": PGD, "segpgd": SegPGD, "cospgd": CosPGD, "apgd": APGD, "sea": SEA,
           "ensemble": AllLosses, "race": Race, "min_radius": MinRadius, "square": Square, "noise": Noise}

__all__ = ["APGD", "ATTACKS", "CORRUPTIONS", "ENSEMBLE_LOSSES", "FGSM", "LOSSES", "NORMS", "PGD", "SEA", "SEA_LOSSES",
           "SEVERITIES", "AllLosses", "Attack", "Corruption", "CosPGD", "Ensemble", "Networks", "Noise", "Outcome",
           "SegPGD", "SignNoise", "Square", "TradesPGD", "UniformNoise", "build_attack", "class_weights", "join",
           "takes"]


def build_attack(name: str, **settings) -> Attack:
    """Build the attack `name` from those of `settings` (eps, norm, steps, step_size, seed, ...) that it accepts.

    A setting that is None keeps the attack's own default. Raises ValueError for an unknown name, for a setting out of
    bounds, and for a target where the attack has no targeted form.
    """
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}: choose from {', '.join(ATTACKS)}")
    accepted = inspect.signature(ATTACKS[name]).parameters
    if settings.get("target") is not None and "target" not in accepted:
        raise ValueError(f"{name} has no targeted form: leave the target out")
    return ATTACKS[name](**{key: value for key, value in settings.items() if key in accepted and value is not None})


def takes(name: str, setting: str) -> bool:
    """Return whether the attack called `name` has this setting; the loss of segpgd and cospgd is fixed."""
    if setting == "attack_loss" and ATTACKS[name].default_loss != "ce":
        return False
    return setting in inspect.signature(ATTACKS[name]).parameters
