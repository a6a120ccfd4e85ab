"""The type of a row of FLAGS, modes, scopes and the conditions of an effect. Nothing here imports torch at first."""
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from utils import launch
from utils.user_code import is_code

# Modes: what a call does. predict.py and export.py have one each, main.py the others; about: --list and --version.
TRAIN, TEST, VERIFY, REPORT, ABOUT = "train", "test", "verify", "report", "about"
PREDICT, EXPORT = "predict", "export"
# Mode -> (what it does, how a user asks for it).
MODES = {TRAIN: ("a training", "training"), TEST: ("--test_only trains nothing", "--test_only"),
         VERIFY: ("--verify trains nothing and runs attacks of its own", "--verify"),
         REPORT: ("--report only reads records", "--report"),
         ABOUT: ("--list and --version only print", "--list or --version"),
         PREDICT: ("predict.py only segments images", "predict.py"),
         EXPORT: ("export.py only writes a network to a file", "export.py")}
SCORING, ATTACKING, SEGMENTING = (TRAIN, TEST), (TRAIN, TEST, PREDICT), (TRAIN, TEST, VERIFY, PREDICT)
WITH_NETWORK, WITHOUT_DATA = (*SEGMENTING, EXPORT), (PREDICT, EXPORT)
OWN_MODES = {"predict.py": PREDICT, "export.py": EXPORT}
# How long an option applies. run, test: saved in the checkpoint (but a test ignores saved "test" options); call: to be
# repeated by a command that continues the run; once: has its effect when the call starts and is never repeated.
SCOPES = ("run", "test", "call", "once")
SAM_FAMILY = ("SAM", "LookSAM", "GSAM", "FriendlySAM")


@dataclass(frozen=True)
class Need:
    """A condition for a flag's effect: is_met(options), and the remedy if it is not met."""

    is_met: Callable
    remedy: Callable[..., str]


@dataclass(frozen=True)
class Flag:
    """One flag. kind: bool for a switch (--x, --no-x), else text -> value. many: takes several values.

    otherwise: the type of values beside `choices`, whose error says how they look. bare: it may stand without a
    value, and is True then.
    modes: those in which it has an effect. Options of training have one in a test too: they say in results.json how the
    network was trained, and VainF's test command gives some. needs: further conditions, of which the first unmet one is
    reported. required: what to give, for a flag that its modes can't do without. fixed: a continued run can't change
    it.
    """

    name: str
    kind: Callable
    default: object
    help: str
    modes: tuple[str, ...] = (TRAIN, TEST, VERIFY)
    scope: str = "run"
    needs: tuple[Need, ...] = ()
    required: str = ""
    choices: tuple = ()
    otherwise: Callable | None = None
    many: bool = False
    bare: bool = False
    metavar: str | None = None
    fixed: bool = False
    group: str = ""

    @property
    def is_for_main(self) -> bool:
        """Return whether main.py has a use for it."""
        return not {*self.modes} <= {*OWN_MODES.values()}

    @property
    def bounds(self) -> str:
        """Return the bounds of a number in words, "" without any."""
        return getattr(self.kind, "bounds", "")

    def read(self, text: str):
        """Return one value from its text; raise ValueError if it is invalid."""
        if self.kind is bool:  # in opts.txt
            if text not in ("True", "False"):
                raise ValueError(f"{text!r}: write True or False")
            return text == "True"
        if self.bare and text == "True":  # in opts.txt; a folder of that name is ./True
            return True
        if self.choices and text not in map(str, self.choices):
            return self._read_other(text)
        return self.kind(text)

    def check(self, value):
        """Return a value from a file; raise ValueError if the flag can't have it."""
        if value is None and self.default is None:
            return value
        if self.many:
            if not isinstance(value, list | tuple) or not value:
                raise ValueError("not a list of values")
            return tuple(map(self._check_one, value))
        return self._check_one(value)

    def unmet(self, options) -> str:
        """Return what the flag needs to have an effect with these options, "" if it has one."""
        return next((need.remedy(options) for need in self.needs if not need.is_met(options)), "")

    def _read_other(self, text: str):
        """Return a value that is not among the choices; raise ValueError if there are none."""
        known = ", ".join(map(str, self.choices))
        try:
            if self.otherwise is not None:
                return self.otherwise(text)
        except ValueError as error:
            known += f", or {error}"
        raise ValueError(f"invalid choice: {text!r} (choose from {known})")

    def _check_one(self, value):
        numbers = (int, float) if hasattr(self.kind, "low") else ()
        kinds = (bool,) if self.kind is bool else numbers or tuple({type(choice) for choice in self.choices or [""]})
        if type(value) not in kinds:
            raise ValueError(f"wrong type {type(value).__name__}")
        if self.choices and value not in self.choices:
            if self.otherwise is not None:
                return self._read_other(value)
            raise ValueError(f"choose from {', '.join(map(str, self.choices))}")
        return value if self.kind is bool or self.choices else self.kind(str(value))


def list_attacks(options) -> list[str]:
    """Return the distinct names in --attack, except none."""
    return [name for name in dict.fromkeys(options.attack) if name != "none"]


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
                lambda _: f"for {', '.join(list_takers())}: choose one with --attack, or leave it out "
                          "(docs/attacks.md#options)")


def dataset_with(option: str) -> Need:
    """Return the condition that the data set takes this option."""
    def find_takers() -> dict:
        from datasets import DATASETS  # here, so that reading the flags doesn't import torch

        return {name: option in inspect.signature(cls).parameters for name, cls in DATASETS.items()}

    return Need(lambda options: find_takers()[options.dataset], lambda options: "for --dataset " + " or ".join(
        name for name, takes_it in find_takers().items() if takes_it) + f", this run has {options.dataset}")
