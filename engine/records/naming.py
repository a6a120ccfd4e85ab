"""One attack as people and files call it."""
import math
from fractions import Fraction


def attack_name(settings: dict) -> str:
    """An attack as people call it: none, pgd, apgd-mce, red-eps apgd as red-apgd-mce, with a target pgd-to-3."""
    name, loss = settings["attack"], settings.get("attack_loss")
    name = f"red-{name}" if settings.get("red_eps") else name
    parts = [loss] if loss not in (None, name, "ce", "margin") else []
    target = settings.get("target")
    parts += ["bf16"] if settings.get("amp") or settings.get("attack_amp") else []
    return "-".join([name, *parts, *([] if target is None else ["to", str(target).replace(" ", "-")])])


def radius(settings: dict) -> str:
    """A row's eps as people write it: for linf 4/255 where it is a number of grey levels (below 8, of quarters)."""
    eps = settings["eps"]
    levels = Fraction(eps * 255).limit_denominator(4 if eps * 255 < 8 else 1)
    if settings["norm"] == "linf" and eps and math.isclose(levels, eps * 255, rel_tol=1e-9):
        return f"{float(levels):g}/255"
    return f"{eps:g}"


def label(settings: dict) -> str:
    """A result's name in file names: clean, or pgd_linf_4-255_10steps."""
    if settings["attack"] == "none":
        return "clean-bf16" if settings.get("amp") else "clean"
    parts = [attack_name(settings), settings["norm"], radius(settings).replace("/", "-")]
    parts += [f"{settings['steps']}steps"] if settings.get("steps") else []
    parts += [f"{settings['restarts']}restarts"] if settings.get("restarts", 1) > 1 else []
    return "_".join(parts)


def title_of(settings: dict | None) -> str:
    """Return an attack and its radius, for a progress bar; None is clean."""
    if settings is None or settings["attack"] == "none":
        return "clean"
    return f"{attack_name(settings)} {settings['norm']} {radius(settings)}"
