"""What a line of a record file is. Files may be a stranger's: whatever else it holds is a ValueError, or no JSON."""
import re

from utils.strict_json import canonical, is_shallow
from utils.text import escape_unprintable

FORMAT = 1  # to be raised when an attack or a count changes, so that old lines are not taken for new ones
COUNTS = ("intersection", "union", "pixels")  # a list of one int per class each
NUMBERS = ("radius", "loss", "forwards", "backwards")
MOST = 2**53  # beyond it floats skip whole numbers
WORD = re.compile(r"[\w.+-]{1,80}")  # names of attacks, losses and norms: they become names of files


def check_header(header) -> dict:
    """The header; ValueError where it is none."""
    kinds = {"attack": dict, "subject": dict, "class_names": list}
    if not isinstance(header, dict) or any(not isinstance(header.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"no header with {', '.join(kinds)}")
    if header.get("format") != FORMAT:
        raise ValueError(f"format {str(header.get('format'))[:20]}, this program knows {FORMAT}")
    names = header["class_names"]
    if not names or any(not isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("class_names are no different words")
    _check_settings(header["attack"], classes=len(names))
    if not is_shallow(header):  # whoever writes or compares it shall not run out of stack
        raise ValueError("nested too deep")
    canonical(header)  # ValueError for 1e999, which is JSON and infinite
    return header


def _check_settings(settings: dict, *, classes: int):
    """ValueError unless this is what attacked, as far as reports read it."""
    target = settings.get("target")
    is_word = {key: isinstance(settings.get(key), str) and WORD.fullmatch(settings[key])
               for key in ("attack", "norm", "attack_loss")}
    clean = settings.get("attack") == "none"
    sound = {
        "attack": is_word["attack"], "norm": is_word["norm"] or (clean and settings.get("norm") is None),
        "attack_loss": is_word["attack_loss"] or settings.get("attack_loss") is None,
        "eps": _is_number(settings.get("eps")),
        "step_size": settings.get("step_size") is None or _is_number(settings["step_size"]),
        "steps": settings.get("steps") is None or _is_count(settings["steps"]),
        "restarts": _is_count(settings.get("restarts", 1)),
        "target": target is None or (_is_count(target) and target < classes) or (
            isinstance(target, str) and WORD.fullmatch(target.replace(" ", "-"))),
    }
    if odd := [key for key, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"no settings of an attack: {', '.join(odd)}")


def _is_number(value, *, low: float = 0) -> bool:
    return type(value) in (int, float) and low <= value <= MOST


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value <= MOST


def check_line(line, *, classes: int) -> dict:
    """The line, its radius and loss as floats; ValueError where it is none of one image over so many classes."""
    if not isinstance(line, dict) or not isinstance(line.get("image"), str):
        raise ValueError("no line of an image")
    image = escape_unprintable(line["image"], keep="")
    for key in COUNTS:
        counts = line.get(key)
        if not isinstance(counts, list) or len(counts) != classes or not all(map(_is_count, counts)):
            raise ValueError(f"{key} of {image} is no list of {classes} ints")
    for key in NUMBERS:
        if not _is_number(line.get(key), low=-MOST):
            raise ValueError(f"{key} of {image} is no number")
    if not _is_number(line.get("at_target", 0)):
        raise ValueError(f"at_target of {image} is no number")
    return {**line, "radius": float(line["radius"]), "loss": float(line["loss"])}
