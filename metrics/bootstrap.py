"""How sure a difference between two groups of trained networks is: bootstrap and t intervals.

Sizes: R runs (trained networks) of a group, N images, the same for all, S classes.
"""
from dataclasses import dataclass

import numpy as np

RESAMPLES, CONFIDENCE = 10_000, 0.95
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom (any table of it).
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Difference:
    """Mean of one group minus mean of the other, and its 95 % intervals (low, high); `t` is None if undefined.

    bootstrap: percentiles over resampled runs and images. t: over runs alone, by Student's t, which is right for few
    runs if their scores are normally distributed; with 3 runs the bootstrap is too narrow.
    """

    mean: float
    bootstrap: tuple[float, float]
    t: tuple[float, float] | None


def pooled_means(intersection, union, weights=None) -> np.ndarray:
    """Return the mean over classes of pooled intersection / union, for each run: [R], or [B, R] with weights [B, N].

    intersection, union: [R, N, S]. Classes without a union are left out. weights: how often each image counts. With the
    correct and the labelled pixels of all classes together (S = 1) this is the pixel accuracy.
    """
    counted = [np.einsum("bn,rns->brs", np.atleast_2d(_ones_unless(weights, intersection)), counts, optimize=True)
               for counts in (np.asarray(intersection, float), np.asarray(union, float))]
    iou = counted[0] / np.maximum(counted[1], 1)
    defined = (counted[1] > 0).sum(-1)
    means = np.divide(iou.sum(-1), defined, out=np.full(defined.shape, np.nan), where=defined > 0)
    return means if weights is not None else means[0]


def compare(one: tuple, other: tuple, *, resamples: int = RESAMPLES, seed: int = 1) -> Difference:
    """Return the difference between two groups of runs, (intersection, union) [R, N, S] each, on the same N images.

    Groups of one size are paired by place, as runs of one seed; a resample draws the same pairs for both. Each resample
    draws runs and images, both with replacement, and images for all runs together, as all are scored on the same ones.
    """
    scores = [pooled_means(*group) for group in (one, other)]
    sizes, images = [len(values) for values in scores], np.shape(one[0])[1]
    draws = np.random.default_rng(seed)
    weights = draws.multinomial(images, np.full(images, 1 / images), size=resamples)
    runs = [draws.integers(size, size=(resamples, size)) for size in sizes]
    if paired := sizes[0] == sizes[1]:
        runs[1] = runs[0]  # the same pairs
    means = [np.take_along_axis(pooled_means(*group, weights), drawn, 1).mean(1)
             for group, drawn in zip((one, other), runs, strict=True)]
    low, high = np.quantile(means[0] - means[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(scores[0].mean() - scores[1].mean()), (float(low), float(high)),
                      t_interval(scores[0] - scores[1]) if paired else None)


def t_interval(values) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of these values, [R]; None for one value or more than 11."""
    values = np.asarray(values, float)
    if not 2 <= len(values) <= len(T_QUANTILES) + 1:
        return None
    half = T_QUANTILES[len(values) - 2] * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def _ones_unless(weights, intersection) -> np.ndarray:
    return np.ones(np.shape(intersection)[1]) if weights is None else np.asarray(weights, float)
