"""Means, differences and intervals of methods, from records alone."""
from statistics import mean, stdev

import numpy as np

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


def score_corruptions(records: dict[tuple, Record]) -> float:
    """Return the mean mIoU over the corruptions of a network, in percent."""
    return mean(score(record) for key, record in records.items() if key[1:2] == ("severity",))


def pair(records: dict[tuple, Record], key: tuple) -> tuple[float, float]:
    """Return a network's clean mIoU and that under an attack, both over the images that were attacked."""
    return score(records[CLEAN], names=records[key].names), score(records[key])


def group_by_method(records: dict[str, list[Record]]) -> dict[str, dict[int, dict]]:
    """Return {method: {seed: {key: record}}} from {network: records}; min_radius has the key ("min_radius",)."""
    found = {}
    for name, of_network in records.items():
        method, _, seed = name.rpartition("-")
        found.setdefault(method, {})[int(seed)] = {
            ("min_radius",) if finds_radius(record.settings) else key_of(record.settings): record
            for record in of_network}
    return found


def list_radii(networks: list[dict], attack: str) -> list[tuple]:
    """Return the keys of an attack's linf radii that all networks have, by eps, with the steps that most radii have."""
    keys = [key for key in set.intersection(*map(set, networks)) if key[:2] == (attack, "linf")]
    steps = [key[3] for key in keys]
    return sorted((key for key in keys if key[3] == max(sorted({*steps}), key=steps.count)), key=lambda key: key[2])


def summarize(values: list[float]) -> dict:
    """Return mean and sample standard deviation, None of one value."""
    return {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None, "networks": len(values)}


def difference(method: dict[int, dict], baseline: dict[int, dict], key: tuple, what: str = "mIoU") -> Difference:
    """Return the method's score under an attack minus the baseline's, over the seeds that both have, in shares of 1."""
    seeds = sorted({*method} & {*baseline})
    groups = [[count(of_method[seed][key])[what] for seed in seeds] for of_method in (method, baseline)]
    return compare(*(tuple(map(np.stack, zip(*group, strict=True))) for group in groups))


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


def median_radius(record: Record) -> float | None:
    """Return the median over images of the smallest radius, in grey levels; None if that image has none."""
    found = describe_radii(record, record.names)["median"]
    return None if found is None else 255 * found
