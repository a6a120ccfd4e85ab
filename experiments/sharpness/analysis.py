"""Means, differences and intervals of methods, from records alone."""
from statistics import mean, stdev

import numpy as np
from scipy import optimize, stats

from engine.records.naming import finds_radius
from engine.records.radii import describe_radii
from engine.records.rows import choose_counts
from engine.records.store import Record
from metrics import Difference, compare, pooled_means
from metrics.bootstrap import CONFIDENCE

BASELINE, ADVERSARIAL = "sgd", "at_"
LEAST_FREEDOM = 4  # degrees of freedom below which no interval at equal clean scores is given
CLEAN = ("none", None, 0.0, 0)  # the key of the clean record


def key_of(settings: dict) -> tuple:
    """Return what tells the attacks of the experiment apart: (attack, norm, eps, steps)."""
    return settings["attack"], settings["norm"], round(settings["eps"], 12), settings["steps"]


def worst_of(records: list[Record], names: list[str]) -> tuple[float, float]:
    """Return (aAcc, mIoU) in percent where the adversary chooses one of these records for each image, as in a union."""
    miou, accuracy = choose_counts(records, names)
    return tuple(100 * pooled_means(*(counts[None] for counts in each)).item() for each in (accuracy, miou))


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


def detectable(differences: list[np.ndarray], *, power: float = 0.8) -> tuple[float, int] | None:
    """Return the smallest true mean difference whose 95 % t interval leaves out 0 with this probability, and the
    degrees of freedom of the spread that it rests on.

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

    return float(optimize.brentq(lack, 0, 30) * spread / seeds ** 0.5), freedom


def spread_factors(freedom: int) -> tuple[float, float]:
    """Return between which multiples of a standard deviation of so many degrees of freedom the true one is (95 %)."""
    return tuple(float((freedom / stats.chi2.ppf(level, freedom)) ** 0.5)
                 for level in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2))


def adjust(scores: dict[str, list[tuple[float, float]]]) -> tuple[float | None, dict[str, tuple]]:
    """Return (slope, {method: (difference to the baseline, low, high)}) of attacked scores where clean ones are equal.

    scores: {method: [(clean, attacked) of each network]}. The attacked score is taken as linear in the clean one, with
    one slope for all methods, fitted within methods (analysis of covariance; Montgomery, "Design and Analysis of
    Experiments", chapter 15). low and high are the 95 % t interval of that fit, over the networks alone; None with
    fewer than LEAST_FREEDOM degrees of freedom. All are None where clean scores don't differ within any method.
    """
    arrays = {method: np.array(pairs) for method, pairs in scores.items()}
    centred = np.concatenate([pairs - pairs.mean(0) for pairs in arrays.values()])
    spread = (centred[:, 0] ** 2).sum()
    others = [method for method in arrays if method != BASELINE]
    if not spread:
        return None, dict.fromkeys(others, (None, None, None))
    slope = (centred[:, 0] * centred[:, 1]).sum() / spread
    freedom = len(centred) - len(arrays) - 1
    variance = ((centred[:, 1] - slope * centred[:, 0]) ** 2).sum() / max(freedom, 1)
    found = {}
    for method in others:
        clean, attacked = arrays[method].mean(0) - arrays[BASELINE].mean(0)
        value = float(attacked - slope * clean)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, max(freedom, 1)) * (
            variance * (1 / len(arrays[method]) + 1 / len(arrays[BASELINE]) + clean ** 2 / spread)) ** 0.5
        found[method] = (value, value - half, value + half) if freedom >= LEAST_FREEDOM else (value, None, None)
    return float(slope), found


def median_radius(records: dict[tuple, Record]) -> float | None:
    """Return the median over images of the smallest radius, in grey levels; None if unmeasured or not found."""
    record = records.get(("min_radius",))
    found = record and describe_radii(record, record.names)["median"]
    return None if found is None else 255 * found
