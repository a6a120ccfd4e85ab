"""Conditions under which a flag has an effect."""
import inspect
from collections.abc import Callable

from engine.options.declare import Need, list_attacks
from utils import launch
from utils.user_code import is_code


def optimizer(*names: str) -> Need:
    """Return the condition that --optimizer is one of these."""
    return Need(lambda options: options.optimizer in names,
                lambda options: f"for --optimizer {' or '.join(names)}, this run has {options.optimizer}")


def given(condition: Callable, remedy: str) -> Need:
    """Return a condition on the options with a fixed remedy."""
    return Need(condition, lambda _: remedy)


def named_model() -> Need:
    """Return the condition that --model is one of this program's networks."""
    return Need(lambda options: not is_code(options.model),
                lambda options: f"for the networks of this program: leave it out for {options.model}, your own "
                                "(docs/python.md#any-network-on-the-command-line)")


def torchrun() -> Need:
    """Return the condition that torchrun started this process."""
    return given(lambda _: launch.launched(), "for several processes: start them with torchrun")


def attack_with(setting: str, *, or_none: bool = False) -> Need:
    """Return the condition that an attack takes this setting; or_none: or that no attack is given."""
    def list_takers() -> list[str]:
        from attacks import ATTACKS, takes  # here, so that reading the flags doesn't import torch

        return [name for name in ATTACKS if takes(name, setting)]

    return Need(lambda options: bool({*list_takers()} & {*options.attack}) or or_none and not list_attacks(options),
                lambda _: f"for {', '.join(list_takers())}: add one with --attack (docs/attacks.md#options)")


def dataset_with(option: str) -> Need:
    """Return the condition that the data set takes this option."""
    def find_takers() -> dict:
        from datasets import DATASETS  # here, so that reading the flags doesn't import torch

        return {name: option in inspect.signature(cls).parameters for name, cls in DATASETS.items()}

    return Need(lambda options: find_takers()[options.dataset], lambda options: "for --dataset " + " or ".join(
        name for name, takes_it in find_takers().items() if takes_it) + f", this run has {options.dataset}")
