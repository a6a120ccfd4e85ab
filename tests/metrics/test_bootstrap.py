"""Intervals of differences against every resample enumerated, scipy, and groups whose true difference is known."""
import itertools

import numpy as np
import pytest
from scipy import stats

from metrics import bootstrap, compare, pooled_means, scores


def draw_counts(seed, *, runs=3, images=3, classes=3):
    """Draw intersection, union [R, N, S] and pixels; some classes are in few images."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (images, classes)) * (rng.random((images, classes)) < 0.7)
    intersection = rng.integers(0, pixels + 1, (runs, images, classes))
    return intersection, pixels + rng.integers(0, 20, intersection.shape), pixels


@pytest.mark.parametrize("seed", range(5))
def test_means_are_those_of_the_scores(seed):
    intersection, union, pixels = draw_counts(seed)
    expected = [scores(one, whole, pixels) for one, whole in zip(intersection, union, strict=True)]
    assert pooled_means(intersection, union) == pytest.approx([each["Mean IoU"] for each in expected], rel=1e-12)
    whole = np.broadcast_to(pixels.sum(-1, keepdims=True), (3, 3, 1))
    assert pooled_means(intersection.sum(-1, keepdims=True), whole) == pytest.approx(
        [each["Overall Acc"] for each in expected], rel=1e-12)


def enumerate_resamples(one, other, *, paired):
    """Return the difference of every equally likely resample of 3 runs and 3 images."""
    def mean(group, runs, images):
        found = []
        for run in runs:
            inside, whole = (counts[run][list(images)].sum(0) for counts in group)
            found.append(np.mean(inside[whole > 0] / whole[whole > 0]))
        return np.mean(found)

    draws = list(itertools.product(range(3), repeat=3))
    pairs = [(runs, runs) for runs in draws] if paired else list(itertools.product(draws, draws))
    return [mean(one, mine, images) - mean(other, theirs, images) for images in draws for mine, theirs in pairs]


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_every_resample(seed, monkeypatch):
    one, other = (draw_counts(2 * seed + k)[:2] for k in range(2))
    found = compare(one, other, resamples=100_000)
    every = enumerate_resamples(one, other, paired=True)
    for level, value in zip((0.025, 0.975), found.bootstrap, strict=True):
        # By chance a quantile of the draws is one of slightly another level; 6 standard errors are 0.003.
        below, above = np.quantile(every, [level - 0.003, level + 0.003], method="inverted_cdf")
        assert below - 1e-9 <= value <= above + 1e-9
    assert found.mean == pytest.approx(pooled_means(*one).mean() - pooled_means(*other).mean())


def test_groups_of_other_sizes_are_not_paired():
    one, other = draw_counts(1)[:2], draw_counts(2, runs=4)[:2]
    found = compare(one, other)
    assert found.t is None and found.bootstrap[0] < found.mean < found.bootstrap[1]
    same = compare(one, one)
    assert same.mean == 0 and same.bootstrap == (0, 0), "pairs of equal runs don't differ"
    wider = compare(one, tuple(np.concatenate([counts, counts[:1]]) for counts in one))
    assert wider.bootstrap[0] < 0 < wider.bootstrap[1]


@pytest.mark.parametrize("size", [2, 3, 5, 11])
def test_t_interval_is_scipys(size):
    values = np.random.default_rng(size).normal(size=size)
    expected = stats.t.interval(0.95, size - 1, loc=values.mean(), scale=stats.sem(values))
    assert bootstrap.t_interval(values) == pytest.approx(expected, rel=1e-3)
    assert bootstrap.t_interval(values[:1]) is None


def test_a_difference_of_all_runs_on_all_images_is_sure():
    """10 of 100 pixels more in every run and image: the interval is that one value."""
    intersection = np.random.default_rng(3).integers(10, 80, (5, 8, 1))
    pixels = np.full_like(intersection, 100)
    found = compare((intersection + 10, pixels), (intersection, pixels))
    assert [found.mean, *found.bootstrap, *found.t] == pytest.approx([0.1] * 5)
