"""The types of flags: text -> value, or a ValueError that names the bounds and the remedy."""
import math
import re
import unicodedata
from fractions import Fraction
from pathlib import Path

from engine.options.declare import SAM_FAMILY
from utils.label_pairs import PAIRS, to_pairs

LARGEST = 10**18  # int64 holds it, and float32 holds the product of two
LARGEST_EXPONENT = 400  # float64 ends at 1e308; the digits of 1e999999999 would fill the memory
NAME_BYTES, PATH_BYTES = 255, 4095  # the limits of a file system
NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, surrogates (bytes that are not UTF-8), line breaks


def compute_step_size(alpha: str, eps: float) -> float:
    """Return --alpha as a number for this eps: `eps/4` is relative, `1/255` and `0.01` are absolute."""
    if alpha.startswith("eps"):
        return eps / float(parse_fraction(alpha[4:] or "1"))
    return float(parse_fraction(alpha))


def parse_fraction(text: str) -> Fraction:
    """Return 4/255, 0.5/255, 0.01, 1e-4 or 30e3 exactly. Raises ValueError, TypeError or ZeroDivisionError."""
    if any(abs(int(exponent)) > LARGEST_EXPONENT for exponent in re.findall(r"[eE]([+-]?[\d_]+)", text)):
        raise ValueError(f"{text}: exponent too large (limit {LARGEST_EXPONENT})")
    numerator, *denominator = text.split("/")
    return Fraction(numerator) / Fraction(*denominator or "1")  # several slashes: TypeError, as Fraction("1", "2")


class number:  # noqa: N801, it reads like a type: number(int, low=1)
    """A number, such as 4/255, 30e3 or 30000, within bounds that errors and --help name."""

    def __init__(self, kind, *, low=-math.inf, high=math.inf, above=-math.inf):
        self.kind, self.low, self.high, self.above = kind, low, high, above

    @property
    def bounds(self) -> str:
        """Return the bounds in words: 1 or more, 0 to 1, above 0."""
        if self.above > -math.inf:
            return f"above {self.above}" + (f", at most {self.high}" if self.high < math.inf else "")
        if self.low > -math.inf:
            return f"{self.low} or more" if self.high == math.inf else f"{self.low} to {self.high}"
        return f"at most {self.high}" if self.high < math.inf else ""

    def __call__(self, text: str):
        """Return the number that `text` stands for."""
        try:
            value = parse_fraction(text)
        except (ValueError, TypeError, ZeroDivisionError):
            raise ValueError(f"{text!r} is not a number (write 0.01, 1e-4, 30e3 or 4/255)") from None
        if self.kind is int and value.denominator != 1:
            raise ValueError(f"{text} is not a whole number")
        if not self._holds(value):
            raise ValueError(f"{text} is out of bounds: {self.bounds}")
        if abs(value) > LARGEST:
            raise ValueError(f"{text} is out of bounds: at most {float(LARGEST):g}")
        if not self._holds(self.kind(value)):  # 1e-400 is above 0, but the nearest float is 0
            raise ValueError(f"{text} is out of bounds once rounded to a float: {self.bounds}")
        return self.kind(value)

    def _holds(self, value) -> bool:
        return self.low <= value <= self.high and value > self.above


def share_of_eps(text: str) -> str:
    """Return --alpha unchanged; see compute_step_size()."""
    if re.fullmatch(r"eps(/[\d.]+)?|[\d./e+-]+", text):
        try:
            if 0 < compute_step_size(text, 1.0) <= LARGEST:
                return text
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            pass  # reported below
    raise ValueError(f"{text!r}: write a share of eps such as eps/4, or a number above 0 such as 1/255")


share_of_eps.bounds = "above 0"


def plain_text(text: str) -> str:
    """Return a path, name or choice that is safe in a file system, a log and a terminal."""
    if not text:
        raise ValueError("'' is empty: give a value, or leave the flag out")
    if any(unicodedata.category(character) in NOT_TEXT for character in text):
        raise ValueError(f"{text!r} contains control characters or line breaks")
    if len(text.encode()) > PATH_BYTES or any(len(name.encode()) > NAME_BYTES for name in text.split("/")):
        raise ValueError(f"'{text[:20]}...' is too long: a name has at most {NAME_BYTES} bytes, a path {PATH_BYTES}")
    return text


def function_in_file(text: str) -> str:
    """Return a --model of the user's own, path/to/file.py:function."""
    path, _, function = plain_text(text).rpartition(":")
    if not (path.endswith(".py") and function.isidentifier()):
        raise ValueError("path/to/file.py:function")
    return text


def run_name(text: str) -> str:
    """Return --exp_name, a folder below --output_dir."""
    path = Path(plain_text(text))
    if not path.parts or path.is_absolute() or any(part == ".." or part != part.strip() for part in path.parts):
        raise ValueError(f"{text!r}: give a name for a folder in --output_dir, without spaces at its ends")
    return text


def shard(text: str) -> str:
    """Return --shard: 1/4."""
    found = re.fullmatch(r"0*([1-9][0-9]{0,5})/0*([1-9][0-9]{0,5})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(f"{text!r}: give the number of a share and of all shares, such as 1/4 to 4/4")
    return f"{found[1]}/{found[2]}"


def device_name(text: str) -> str:
    """Return --device: auto, cpu, cuda, cuda:1 or mps."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,9})?", text):
        raise ValueError(f"{text!r}: give auto, cpu, cuda, a GPU such as cuda:1, or mps")
    return text


def gpu_ids(text: str) -> str:
    """Return --gpu_id: 0 or 0,1,2,3."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise ValueError(f"{text!r}: give GPU numbers, such as 0 or 0,1,2,3")
    numbers = [int(part) for part in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{text!r} names a GPU twice")
    return ",".join(map(str, numbers))


def target(text: str) -> int | str:
    """Return --target_class: a class number, or the path of a label map."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if not Path(plain_text(text)).is_file():
        raise ValueError(f"{text!r}: give a class number, or an image file of class numbers")
    return text


def label_map(text: str) -> str:
    """Return --label_map as from:to,from:to; `text` may also be the path of a file with lines `from to`."""
    return to_pairs(text if PAIRS.fullmatch(text) else plain_text(text))


def find_base_optimizer(optimizer: str, base_optimizer: str) -> str:
    """Return sgd, adam or adamw, the optimizer that takes the steps, within SAM or alone."""
    return base_optimizer if optimizer in SAM_FAMILY else optimizer


def find_start_itr(given: float, total_itrs: int) -> int:
    """Return the iteration of a start flag, whose values below 1 are a share of total_itrs."""
    return round(given * total_itrs) if 0 < given < 1 else int(given)
