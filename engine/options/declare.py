"""What a row of FLAGS says about a flag, and the words for what gives a flag an effect. Nothing here imports torch."""
import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.options.types import plain_text
from utils import launch

# What a call does. predict.py has one mode, main.py the others.
TRAIN, TEST, VERIFY, REPORT, PREDICT = "train", "test", "verify", "report", "predict"
# Who keeps an option: a checkpoint keeps those of its run; a test forgets those of "test" unless they are given; a
# command that continues a run repeats those of "call"; "once" is done when the call starts and never repeated.
SCOPES = ("run", "test", "call", "once")
SAM_FAMILY = ("SAM", "LookSAM", "GSAM", "FriendlySAM")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Need:
    """What gives a flag an effect: is_met(options), and the remedy where it is not met."""

    is_met: Callable
    remedy: Callable[..., str]


@dataclass(frozen=True)
class Flag:
    """One flag. kind: bool for a switch (--x, --no-x), else text -> value. many: takes several values.

    modes: the modes in which it has an effect. Options of training have one in a test too: they say in results.json how
    the network was trained, and VainF's test command gives some. needs: what else it takes to have one; the first unmet
    one is reported. fixed: a continued run can't change it.
    """

    name: str
    kind: Callable
    default: object
    help: str
    modes: tuple[str, ...] = (TRAIN, TEST, VERIFY)
    scope: str = "run"
    needs: tuple[Need, ...] = ()
    choices: tuple = ()
    many: bool = False
    metavar: str | None = None
    fixed: bool = False
    group: str = ""

    @property
    def bounds(self) -> str:
        """The bounds of a number in words, "" without any."""
        return getattr(self.kind, "bounds", "")

    def read(self, text: str):
        """Return one typed value; ValueError says what is wrong with it."""
        if not self.choices:
            return self.kind(text)
        if text not in map(str, self.choices):
            raise ValueError(f"invalid choice: {text!r} (choose from {', '.join(map(str, self.choices))})")
        return self.kind(text)

    def check(self, value):
        """Return a value from a file, if the flag could have it; ValueError else."""
        if value is None and self.default is None:
            return value
        if self.many:
            if not isinstance(value, list | tuple) or not value:
                raise ValueError("it is not a list of values")
            return tuple(map(self._check_one, value))
        return self._check_one(value)

    def unmet(self, options) -> str:
        """Return why the flag has no effect beside these options, "" where it has one."""
        return next((need.remedy(options) for need in self.needs if not need.is_met(options)), "")

    def _check_one(self, value):
        numbers = (int, float) if hasattr(self.kind, "low") else ()
        kinds = (bool,) if self.kind is bool else numbers or tuple({type(choice) for choice in self.choices or [""]})
        if type(value) not in kinds:
            raise ValueError(f"it is of type {type(value).__name__}")
        if self.choices and value not in self.choices:
            raise ValueError(f"choose from {', '.join(map(str, self.choices))}")
        if isinstance(value, str):
            plain_text(value)
        return value if self.kind is bool or self.choices else self.kind(str(value))


@cache
def names_in(file: str, variable: str) -> tuple:
    """Return the keys of a dict literal, or the elements of a tuple, assigned to `variable` in a source file of ours.

    The registries import torch; reading their source keeps --help and errors fast, and a registry the only list.
    """
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(name, "id", "") == variable for name in node.targets):
            values = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            return tuple(map(ast.literal_eval, values))
    raise LookupError(f"{file} assigns no dict or tuple to {variable}")


def optimizer(*names: str) -> Need:
    """Return the need for one of these values of --optimizer."""
    return Need(lambda options: options.optimizer in names,
                lambda options: f"for --optimizer {' or '.join(names)}, this run has {options.optimizer}")


def climbs(options) -> bool:
    """Return whether the optimizer perturbs the weights."""
    return options.optimizer in SAM_FAMILY or bool(options.awp_gamma)


def given(condition: Callable, remedy: str) -> Need:
    """Return the need for a condition on the options, with a fixed remedy."""
    return Need(condition, lambda _: remedy)


def torchrun() -> Need:
    """Return the need for several processes."""
    return given(lambda _: launch.launched(), "for several processes: start them with torchrun")


def attack_with(setting: str) -> Need:
    """Return the need for an attack that has this setting."""
    def able() -> list[str]:
        from attacks import ATTACKS, takes  # here: reading the flags takes no torch

        return [name for name in ATTACKS if takes(name, setting)]

    return Need(lambda options: bool({*able()} & {*options.attack}),
                lambda _: f"for {', '.join(able())}: add one with --attack")


def attacks_of(options) -> list[str]:
    """Return the names that --attack gives, each once, without none."""
    return [name for name in dict.fromkeys(options.attack) if name != "none"]


def dataset_with(option: str) -> Need:
    """Return the need for a data set that takes this option."""
    def takers() -> dict:
        from datasets import DATASETS  # here: reading the flags takes no torch

        return {name: option in inspect.signature(cls).parameters for name, cls in DATASETS.items()}

    return Need(lambda options: takers()[options.dataset], lambda options: "for --dataset " + " or ".join(
        name for name, able in takers().items() if able) + f", this run has {options.dataset}")
