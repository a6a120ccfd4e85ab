"""Types of flags: what is typed, as a value, or an argparse error that names bounds and remedy."""
import argparse
import math
import re
from fractions import Fraction
from pathlib import Path


def step_size(alpha: str, eps: float) -> float:
    """--alpha as a number for this eps: `eps/4` is relative, `1/255` or `0.01` absolute."""
    if alpha.startswith("eps"):
        return eps / float(Fraction(alpha[4:] or 1))
    return float(fraction(alpha))


def fraction(text: str) -> Fraction:
    """4/255, 0.5/255, 0.01, 1e-4, 30e3 exactly. Raises ValueError, TypeError or ZeroDivisionError else."""
    numerator, *denominator = text.split("/")
    return Fraction(numerator) / Fraction(*denominator or "1")  # of more than one: a TypeError, as Fraction("1", "2")


def number(kind, *, low=-math.inf, high=math.inf, above=-math.inf):
    """A flag's type: a number (4/255, 30e3 and 30000 are numbers) within bounds that the error names."""
    def parse(text: str):
        try:
            value = fraction(text)
            float(value)  # 1e400 is none
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            raise argparse.ArgumentTypeError(f"{text!r} is no number (write 0.01, 1e-4, 30e3 or 4/255)") from None
        if kind is int and value.denominator != 1:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number")
        if not (low <= value <= high and value > above):
            bounds = f"above {above}" if above > -math.inf else f"{low} or more"
            bounds += f", at most {high}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text} is out of bounds: {bounds}")
        return kind(value)
    return parse


def share_of_eps(text: str) -> str:
    """--alpha: kept as typed, see step_size."""
    if re.fullmatch(r"eps(/[\d.]+)?|[\d./e-]+", text):
        try:
            if step_size(text, 1.0) > 0:
                return text
        except (ValueError, TypeError, ZeroDivisionError):
            pass  # said below
    raise argparse.ArgumentTypeError(f"{text!r}: write a share of eps such as eps/4, or a number above 0 such as 1/255")


def run_name(text: str) -> str:
    """--exp_name: a folder below another one."""
    if not text or Path(text).is_absolute() or ".." in Path(text).parts:
        raise argparse.ArgumentTypeError(f"{text!r}: a name for a folder in --output_dir")
    return text


def target(text: str) -> int | str:
    """--target_class: a class number, or the path of a label map."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: a class number, or an image file of class numbers")
    return text
