"""Checks of a record file's lines, which may come from a stranger: anything invalid is a ValueError."""
import re

from engine.records.naming import finds_radius
from utils.strict_json import canonical, is_shallow
from utils.text import escape_unprintable

FORMAT = 1  # raise it when an attack or a count changes, so that old lines are not mistaken for new ones
COUNTS = ("intersection", "union", "pixels")  # a list of one int per class each
NUMBERS = ("radius", "loss", "forwards", "backwards")
LARGEST = 2**53  # beyond it floats skip whole numbers
WORD = re.compile(r"[\w.+-]{1,80}")  # names of attacks, losses and norms, which become file names


def check_header(header) -> dict:
    """Return the header; raise ValueError if it is invalid."""
    kinds = {"attack": dict, "subject": dict, "class_names": list}
    if not isinstance(header, dict) or any(not isinstance(header.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"not a header with {', '.join(kinds)}")
    if header.get("format") != FORMAT:
        raise ValueError(f"format is {str(header.get('format'))[:20]}, this program reads {FORMAT}")
    names = header["class_names"]
    if not names or any(not isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("class_names must be distinct strings")
    _check_settings(header["attack"], classes=len(names))
    if not is_shallow(header):  # writing or comparing it would exhaust the stack
        raise ValueError("nested too deeply")
    canonical(header)  # ValueError for 1e999, which is valid JSON but infinite
    return header


def _check_settings(settings: dict, *, classes: int):
    """Raise ValueError unless the settings that reports read are valid."""
    target = settings.get("target")
    is_word = {key: isinstance(settings.get(key), str) and WORD.fullmatch(settings[key])
               for key in ("attack", "norm", "attack_loss")}
    clean = settings.get("attack") == "none"
    valid = {
        "attack": is_word["attack"], "norm": is_word["norm"] or (clean and settings.get("norm") is None),
        "attack_loss": is_word["attack_loss"] or settings.get("attack_loss") is None,
        "eps": _is_number(settings.get("eps")),
        "step_size": settings.get("step_size") is None or _is_number(settings["step_size"]),
        "steps": settings.get("steps") is None or _is_count(settings["steps"]),
        "restarts": _is_count(settings.get("restarts", 1)),
        "transfer_from": settings.get("transfer_from") is None or _are_sources(settings["transfer_from"]),
        "target": target is None or (_is_count(target) and target < classes) or (
            isinstance(target, str) and WORD.fullmatch(target.replace(" ", "-"))),
    }
    if finds_radius(settings):
        valid["a radius of each image"] = not clean and _is_number(settings["min_radius_share"]) and _is_count(
            settings.get("steps"))
    if invalid := [key for key, is_valid in valid.items() if not is_valid]:
        raise ValueError(f"invalid attack settings: {', '.join(invalid)}")


def _are_sources(value) -> bool:
    return isinstance(value, list) and all(isinstance(source, dict) and isinstance(source.get("name"), str)
                                           and WORD.fullmatch(source["name"]) for source in value)


def _is_number(value, *, low: float = 0) -> bool:
    return type(value) in (int, float) and low <= value <= LARGEST


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _are_counts(value, classes: int) -> bool:
    return isinstance(value, list) and len(value) == classes and all(map(_is_count, value))


def _are_candidates(value, pixels: list[int]) -> bool:
    return isinstance(value, dict) and all(isinstance(counts, dict) and all(
        _are_counts(counts.get(key), len(pixels)) for key in COUNTS[:2]) and _are_possible(*(
            counts[key] for key in COUNTS[:2]), pixels) for counts in value.values())


def _are_possible(intersection: list[int], union: list[int], pixels: list[int]) -> bool:
    return all(one <= whole <= both for one, both, whole in zip(intersection, union, pixels, strict=True))


def check_line(line, *, classes: int) -> dict:
    """Return the line, radius and loss as floats; raise ValueError if it is invalid for this number of classes."""
    if not isinstance(line, dict) or not isinstance(line.get("image"), str):
        raise ValueError("not an image's line")
    image = escape_unprintable(line["image"], keep="")
    for key in COUNTS:
        counts = line.get(key)
        if not _are_counts(counts, classes):
            raise ValueError(f"{key} of {image} is not a list of {classes} ints")
    for key in NUMBERS:
        if not _is_number(line.get(key), low=-LARGEST):
            raise ValueError(f"{key} of {image} is not a number")
    if not _are_candidates(line.get("candidates", {}), line["pixels"]):
        raise ValueError(f"candidates of {image} is not a dict with intersection and union of {classes} classes each")
    if not _is_number(line.get("at_target", 0)):
        raise ValueError(f"at_target of {image} is not a number")
    return {**line, "radius": float(line["radius"]), "loss": float(line["loss"])}
