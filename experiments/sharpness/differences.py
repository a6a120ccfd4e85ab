"""The tables of differences between methods, computed from the records alone."""
import numpy as np

from experiments.sharpness import analysis
from experiments.sharpness.analysis import ADVERSARIAL, BASELINE, CLEAN
from experiments.sharpness.tables import NAMES, drop_empty, list_attacks, start_columns
from utils.text import format_markdown


def format_differences(methods: dict, attacks: dict[tuple, str], interval: str, *, baseline: str = BASELINE) -> str:
    """Return a table of the differences to a method, clean and under each attack, with "bootstrap" or "t" intervals."""
    if baseline not in methods:
        return "-"
    others = {name: seeds for name, seeds in methods.items() if name != baseline}
    columns = start_columns(others)
    for key, title in {CLEAN: "clean, all images", **attacks}.items():
        found = [analysis.difference(seeds, methods[baseline], key) for seeds in others.values()]
        columns[title] = ["-" if each is None else  # one pair of networks has no interval: the unit is the network
                          _format_difference(each.mean, each.t and getattr(each, interval)) for each in found]
    return drop_empty(columns)


def format_adjusted(methods: dict) -> str:
    """Return a table of the differences that are left at equal clean mIoU, without adversarial training."""
    plain = {name: seeds for name, seeds in methods.items() if not name.startswith(ADVERSARIAL)}
    others = [name for name in plain if name != BASELINE]
    columns = {"trained with": [*(NAMES[name] for name in others), "(slope)"]}
    for key, title in list_attacks(plain).items():
        if all(key in records for seeds in plain.values() for records in seeds.values()):
            slope, found = analysis.adjust({
                name: [analysis.pair(records, key) for records in seeds.values()] for name, seeds in plain.items()})
            cells = ["-" if value is None else
                     _format_difference(value / 100, None if low is None else (low / 100, high / 100))
                     for value, low, high in found.values()]
            columns[title] = [*cells, "-" if slope is None else f"{slope:+.2f}"]
    return format_markdown(columns)


def format_detectable(methods: dict, attacks: dict[tuple, str]) -> str:
    """Return a table of the smallest difference that the design finds, by the spread of differences within methods.

    Adversarial training is left out: its spread is another.
    """
    columns = {"": ["points", "the true spread may be", "networks of a method", "degrees of freedom"]}
    for key, title in {CLEAN: "clean, all images", **attacks}.items():
        pairs = [analysis.paired_scores(seeds, methods[BASELINE], key) for name, seeds in methods.items()
                 if name != BASELINE and not name.startswith(ADVERSARIAL)]
        used = [np.subtract(*each) for each in pairs if len(each[0]) > 1]
        if found := analysis.detectable(used):
            low, high = analysis.spread_factors(found[1])
            columns[title] = [f"{found[0]:.1f}", f"{low:.2f} to {high:.1f} times", str(min(map(len, used))),
                              str(found[1])]
    return format_markdown(columns)


def _format_difference(value: float, interval: tuple[float, float] | None) -> str:
    """Return a difference of shares as points, such as "+1.0 (-0.5 to +2.5)"."""
    return f"{100 * value:+.1f}" + ("" if interval is None else
                                    f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})")
