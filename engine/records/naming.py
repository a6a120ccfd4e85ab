"""Names of an attack for people and for files."""
import math
from fractions import Fraction

LONGEST = 120  # of an attack's name in the names of files


def name_attack(settings: dict) -> str:
    """Return an attack's name for people: none, pgd, apgd-mce, red-apgd-mce (with red-eps), pgd-to-3 (targeted).

    That of a transferred attack ends with the networks that its images were made on: pgd from sgd+adam.
    """
    name, loss = settings["attack"], settings.get("attack_loss")
    name = f"red-{name}" if settings.get("red_eps") else name
    parts = [loss] if loss not in (None, name, "ce", "margin") else []
    target = settings.get("target")
    parts += ["bf16"] if settings.get("amp") or settings.get("attack_amp") else []
    return "-".join([name, *parts, *([] if target is None else ["to", str(target).replace(" ", "-")])]) + (
        f" from {sources}" if (sources := name_sources(settings)) else "")


def name_sources(settings: dict) -> str:
    """Return the names of the networks that the images were made on, "" for those made on the one that is scored."""
    return "+".join(source["name"] for source in settings.get("transfer_from") or ())


def finds_radius(settings: dict) -> bool:
    """Return whether the attack gives each image a radius of its own, so that its scores belong to no eps."""
    return "min_radius_share" in settings


def format_radius(settings: dict) -> str:
    """Return eps as text: for linf 4/255 if it is a multiple of a grey level (of a quarter below 8), else a decimal."""
    eps = settings["eps"]
    levels = Fraction(eps * 255).limit_denominator(4 if eps * 255 < 8 else 1)
    if settings["norm"] == "linf" and eps and math.isclose(levels, eps * 255, rel_tol=1e-9):
        return f"{float(levels):g}/255"
    return f"{eps:g}"


def make_label(settings: dict) -> str:
    """Return a result's name for file names: clean, or pgd_linf_4-255_10steps."""
    if settings["attack"] == "none":
        return "clean-bf16" if settings.get("amp") else "clean"
    parts = [_fit_file_name(name_attack(settings)), settings["norm"], format_radius(settings).replace("/", "-")]
    parts += [f"{settings['steps']}steps"] if settings.get("steps") else []
    parts += [f"{settings['restarts']}restarts"] if settings.get("restarts", 1) > 1 else []
    return "_".join(parts)


def _fit_file_name(name: str) -> str:
    """Return the name without blanks, cut where several long names of networks are in it."""
    return name.replace(" ", "-")[:LONGEST]


def make_title(settings: dict | None) -> str:
    """Return a progress bar's title: the attack and its radius, or clean for None."""
    if settings is None or settings["attack"] == "none":
        return "clean"
    radius = "" if finds_radius(settings) else f" {format_radius(settings)}"
    return f"{name_attack(settings)} {settings['norm']}{radius}"
