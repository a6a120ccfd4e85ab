"""Means, differences and intervals of methods, from records alone."""
from statistics import mean, stdev

import numpy as np
from scipy import optimize, stats

from engine.records.naming import finds_radius
from engine.records.radii import describe_radii
from engine.records.rows import choose_counts
from engine.records.store import Record
from metrics import Difference, compare, pooled_means
from metrics.bootstrap import CONFIDENCE, RESAMPLES

BASELINE, ADVERSARIAL = "sgd", "at_"
CLEAN = ("none", None, 0.0, 0)  # the key of the clean record


def key_of(settings: dict) -> tuple:
    """Return what tells the attacks of the experiment apart: (attack, norm, eps, steps)."""
    return settings["attack"], settings["norm"], round(settings["eps"], 12), settings["steps"]


def count(record: Record, names: list[str] | None = None) -> dict:
    """Return {"mIoU": (intersection, union) [N, S], "aAcc": (correct, labelled) [N, 1]} of some or all its images."""
    return dict(zip(("mIoU", "aAcc"), choose_counts([record], names or record.names), strict=True))


def score(record: Record, what: str = "mIoU", *, names: list[str] | None = None) -> float:
    """Return a record's mIoU or aAcc over some or all its images, in percent."""
    return 100 * pooled_means(*(counts[None] for counts in count(record, names)[what])).item()


def score_corruptions(records: dict[tuple, Record]) -> float | None:
    """Return the mean mIoU over the corruptions of a network, in percent; None if unmeasured."""
    scores = [score(record) for key, record in records.items() if key[1:2] == ("severity",)]
    return mean(scores) if scores else None


def pair(records: dict[tuple, Record], key: tuple, what: str = "mIoU") -> tuple[float, float]:
    """Return a network's clean score and that under an attack, both over the images that were attacked."""
    return score(records[CLEAN], what, names=records[key].names), score(records[key], what)


def group_by_method(records: dict[str, list[Record]]) -> dict[str, dict[int, dict]]:
    """Return {method: {seed: {key: record}}} from {network: records}; min_radius has the key ("min_radius",)."""
    found = {}
    for name, of_network in records.items():
        method, _, seed = name.rpartition("-")
        found.setdefault(method, {})[int(seed)] = {
            ("min_radius",) if finds_radius(record.settings) else key_of(record.settings): record
            for record in of_network}
    return found


def list_radii(networks: list[dict], attack: str, norm: str = "linf") -> list[tuple]:
    """Return the keys of an attack that all networks have, by eps, with the number of steps that most radii have."""
    keys = [key for key in set.intersection(*map(set, networks)) if key[:2] == (attack, norm)]
    steps = [key[3] for key in keys]
    usual = max(sorted({*steps}), key=steps.count, default=None)
    return sorted((key for key in keys if key[3] == usual), key=lambda key: key[2])


def list_convergence(methods: dict) -> list[tuple[str, float, list[tuple[int, float]]]]:
    """Return (method, eps, [(steps, mIoU)]) of each first network that race attacked with several numbers of steps."""
    found = []
    for name, seeds in methods.items():
        races = {key: record for key, record in seeds.get(1, {}).items() if key[:2] == ("race", "linf")}
        for eps in sorted({key[2] for key in races}):
            curve = sorted((key[3], score(record)) for key, record in races.items() if key[2] == eps)
            if len(curve) > 1:
                found.append((name, eps, curve))
    return found


def summarize(values: list[float]) -> dict:
    """Return mean and sample standard deviation, None of one value."""
    return {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None, "networks": len(values)}


def difference(method: dict[int, dict], baseline: dict[int, dict], key: tuple, what: str = "mIoU") -> Difference | None:
    """Return the method's score under an attack minus the baseline's, over the seeds that both have, in shares of 1.

    None if no seed has both.
    """
    if not (seeds := _common_seeds(method, baseline, key)):
        return None
    groups = [[count(of_method[seed][key])[what] for seed in seeds] for of_method in (method, baseline)]
    return compare(*(tuple(map(np.stack, zip(*group, strict=True))) for group in groups))


def paired_scores(method: dict[int, dict], baseline: dict[int, dict], key: tuple) -> tuple[list[float], list[float]]:
    """Return the mIoU in percent of both methods' networks, by the seeds that both have."""
    return tuple([score(of_method[seed][key]) for seed in _common_seeds(method, baseline, key)]
                 for of_method in (method, baseline))


def _common_seeds(method: dict[int, dict], baseline: dict[int, dict], key: tuple) -> list[int]:
    return [seed for seed in sorted({*method} & {*baseline}) if key in method[seed] and key in baseline[seed]]


def detectable(differences: list[np.ndarray], *, power: float = 0.8) -> float | None:
    """Return the smallest true mean difference whose 95 % t interval leaves out 0 with this probability.

    differences: of each method, one for each seed; their variance within methods is pooled, and the number of seeds is
    that of the smallest method. None without two differences of a method. (Noncentral t; Cohen, "Statistical Power
    Analysis for the Behavioral Sciences", 1988, chapter 2.)
    """
    if not differences:
        return None
    freedom = sum(len(each) - 1 for each in differences)
    spread = (sum(((each - each.mean()) ** 2).sum() for each in differences) / freedom) ** 0.5
    seeds = min(map(len, differences))
    limit = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)

    def lack(shift: float) -> float:
        return power - stats.nct.sf(limit, seeds - 1, shift)  # an interval on the wrong side of 0 doesn't count

    return float(optimize.brentq(lack, 0, 30) * spread / seeds ** 0.5)


def difference_at_equal_clean(scores: dict[str, list[tuple[float, float]]], *, seed: int = 1) -> dict[str, tuple]:
    """Return {method: (difference to the baseline, low, high)} of attacked scores where clean ones are equal.

    scores: {method: [(clean, attacked) of each network]}. The attacked score is taken as linear in the clean one, with
    one slope for all methods, fitted within methods (analysis of covariance). The interval is a 95 % bootstrap over
    the networks of each method; low and high are None if the method or the baseline has a single network.
    """
    draws = np.random.default_rng(seed)
    arrays = {method: np.array(pairs) for method, pairs in scores.items()}
    resampled = [_adjust({method: pairs[draws.integers(len(pairs), size=len(pairs))]
                          for method, pairs in arrays.items()}) for _ in range(RESAMPLES)]
    found = _adjust(arrays)
    levels = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    single = {method for method, pairs in arrays.items() if min(len(pairs), len(arrays[BASELINE])) < 2}
    return {method: (value, *((None, None) if method in single else
                              np.quantile([each[method] for each in resampled], levels).tolist()))
            for method, value in found.items() if method != BASELINE}


def _adjust(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    centred = np.concatenate([pairs - pairs.mean(0) for pairs in arrays.values()])
    spread = (centred[:, 0] ** 2).sum()
    slope = (centred[:, 0] * centred[:, 1]).sum() / spread if spread else 0.0
    levels = {method: (pairs[:, 1] - slope * pairs[:, 0]).mean() for method, pairs in arrays.items()}
    return {method: float(level - levels[BASELINE]) for method, level in levels.items()}


def median_radius(records: dict[tuple, Record]) -> float | None:
    """Return the median over images of the smallest radius, in grey levels; None if unmeasured or not found."""
    record = records.get(("min_radius",))
    found = record and describe_radii(record, record.names)["median"]
    return None if found is None else 255 * found
