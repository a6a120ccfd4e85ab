"""StreamSegMetrics on random labels, against scikit-learn."""
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from metrics import StreamSegMetrics

settings.register_profile("scores", deadline=None, derandomize=True, database=None, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow])
often = settings(settings.get_profile("scores"))
SCORES = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU")


@st.composite
def labelled(draw):
    """(n_classes, trues, preds), int64 [B, H, W]: few or many classes, labels outside the classes, void images."""
    n_classes = draw(st.integers(1, 30))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    present = rng.permutation(n_classes)[:draw(st.integers(1, n_classes))]
    outside = draw(st.lists(st.sampled_from([-1, -7, n_classes, n_classes + 1, 254, 255, 2**40]), max_size=3))
    odd = [label for label in outside if not 0 <= label < n_classes]
    trues = rng.choice([*present, *odd], shape)
    preds = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.5, 0.9])), trues, rng.choice(n_classes, shape))
    counted = (trues >= 0) & (trues < n_classes)
    return n_classes, trues, np.where(counted, preds, rng.integers(-300, 300, shape))  # arbitrary at void pixels


def streamed(n_classes, *batches):
    metrics = StreamSegMetrics(n_classes)
    for trues, preds in batches:
        metrics.update(trues, preds)
    return metrics


def same(one: float, other: float) -> bool:
    return math.isnan(one) and math.isnan(other) or one == pytest.approx(other, rel=1e-12)


@given(labelled())
@often
def test_all_scores_are_scikit_learns(sample):
    n_classes, trues, preds = sample
    metrics = streamed(n_classes, *zip(trues, preds, strict=True))
    counted = (trues >= 0) & (trues < n_classes)
    y, z = trues[counted], preds[counted]
    if not len(y):
        assert metrics.confusion_matrix.sum() == 0
        assert all(math.isnan(metrics.get_results()[score]) for score in SCORES)
        return
    with warnings.catch_warnings():  # scikit-learn warns about a single class
        warnings.simplefilter("ignore", UserWarning)
        expected = confusion_matrix(y, z, labels=range(n_classes))
    assert metrics.confusion_matrix.tolist() == expected.tolist()
    results, seen = metrics.get_results(), np.union1d(y, z)
    iou = dict(zip(seen, jaccard_score(y, z, labels=seen, average=None, zero_division=0), strict=True))
    assert list(results["Class IoU"]) == list(range(n_classes))
    for c, value in results["Class IoU"].items():
        assert same(value, iou.get(c, math.nan))  # none for a class neither labelled nor predicted
    assert same(results["Mean IoU"], np.mean(list(iou.values())))
    assert same(results["Overall Acc"], accuracy_score(y, z))
    assert same(results["Mean Acc"], recall_score(y, z, labels=np.unique(y), average="macro", zero_division=0))
    assert same(results["FreqW Acc"], jaccard_score(y, z, labels=np.unique(y), average="weighted", zero_division=0))
    assert all(0 <= results[score] <= 1 for score in SCORES)


@given(labelled(), st.randoms(use_true_random=False))
@often
def test_neither_order_nor_batches_nor_types_nor_strides_matter(sample, random):
    n_classes, trues, preds = sample
    whole = streamed(n_classes, (trues, preds)).confusion_matrix
    order = list(range(len(trues)))
    random.shuffle(order)
    cut = random.randint(0, len(order))
    parts = [order[:cut], order[cut:]]
    assert torch.equal(whole, streamed(n_classes, *((trues[part], preds[part]) for part in parts)).confusion_matrix)
    tensors = [(torch.from_numpy(trues), preds), (trues, torch.from_numpy(preds)), (trues[:, ::-1], preds[:, ::-1]),
               (trues.transpose(0, 2, 1), preds.transpose(0, 2, 1)), (torch.from_numpy(trues), torch.from_numpy(preds))]
    for pair in tensors:
        assert torch.equal(whole, streamed(n_classes, pair).confusion_matrix)
    pixels = np.asarray(order * 3) % trues[0].size  # any pixels in any order, as one image of one row
    once = [array[0].reshape(1, -1)[:, pixels] for array in (trues, preds)]
    single = ([array[:, k] for array in once] for k in range(len(pixels)))
    assert torch.equal(streamed(n_classes, once).confusion_matrix, streamed(n_classes, *single).confusion_matrix)


@given(labelled())
@often
def test_renumbering_the_classes_keeps_the_scores(sample):
    n_classes, trues, preds = sample
    names = np.random.default_rng(n_classes).permutation(n_classes)
    counted = (trues >= 0) & (trues < n_classes)
    renamed = [np.where(counted, names[array.clip(0, n_classes - 1)], 255 + 2**20) for array in (trues, preds)]
    one, other = streamed(n_classes, (trues, preds)).get_results(), streamed(n_classes, renamed).get_results()
    assert all(same(one[score], other[score]) for score in SCORES)
    assert all(same(one["Class IoU"][c], other["Class IoU"][names[c]]) for c in range(n_classes))


@given(labelled(), st.sampled_from([-1, -2, 0, 1, 100]))
@often
def test_a_counted_prediction_outside_the_classes_raises_and_counts_nothing(sample, beyond):
    n_classes, trues, preds = sample
    metrics = streamed(n_classes, (trues, preds))
    before = metrics.confusion_matrix.clone()
    wrong = beyond if beyond < 0 else n_classes + beyond
    bad = preds.copy()
    bad.flat[0] = wrong
    if 0 <= trues.flat[0] < n_classes:
        with pytest.raises(ValueError, match=rf"a prediction is outside \[0, {n_classes}\)"):
            metrics.update(trues, bad)
    else:
        metrics.update(trues, bad)
        before = 2 * before
    assert torch.equal(metrics.confusion_matrix, before)
