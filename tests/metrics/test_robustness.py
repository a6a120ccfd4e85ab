"""Worst cases against all selections, scores against StreamSegMetrics and scikit-learn, hand-worked cases."""
import itertools
import json
import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from metrics import StreamSegMetrics, greedy_selection, lower_bound, scores, worst_case


def maps(seed, *, members=3, images=4, classes=4, size=30):
    """Draw labels [N, size] and predictions [K, N, size] with void pixels, absent classes and 1 image in 6 void."""
    rng = np.random.RandomState(seed)
    present = rng.permutation(classes)[: rng.randint(1, classes + 1)]  # other classes are only predicted
    labels = present[rng.randint(0, rng.randint(1, len(present) + 1, (images, 1)), (images, size))]
    hit = rng.rand(members, images, size) < rng.rand(members, images, 1)
    preds = np.where(hit, labels, rng.randint(0, rng.randint(1, classes + 1), hit.shape))
    labels[rng.rand(images, size) < 0.1] = 255
    labels[1:][rng.rand(images - 1) < 1 / 6] = 255
    return labels, preds


def count(labels, preds, classes):
    """Return intersection, union [K, N, S] and pixels [N, S], computed per class."""
    valid = labels != 255
    true, predicted = ([x == s for s in range(classes)] for x in (labels, preds))
    intersection = np.stack([(t & p).sum(-1) for t, p in zip(true, predicted, strict=True)], axis=-1)
    union = np.stack([((t | p) & valid).sum(-1) for t, p in zip(true, predicted, strict=True)], axis=-1)
    return intersection, union, np.stack([t.sum(-1) for t in true], axis=-1)


def mean_iou(intersection, union):
    """Compute the mean IoU of totals [S] in plain Python."""
    ious = [i / u for i, u in zip(intersection.tolist(), union.tolist(), strict=True) if u]
    return sum(ious) / len(ious) if ious else math.nan


def selected(array, selection):
    return np.stack([array[k, i] for i, k in enumerate(selection)])  # [N, S]


def all_selections(intersection, union, pixels):
    """Return Overall Acc, pooled mean IoU and Image IoU of each of the K^N selections, [3, K^N]."""
    results = []
    for selection in itertools.product(range(len(intersection)), repeat=len(pixels)):
        i, u = selected(intersection, selection), selected(union, selection)
        own = [mean_iou(*image) for image in zip(i, u, strict=True) if image[1].any()]
        results.append((i.sum() / pixels.sum(), mean_iou(i.sum(0), u.sum(0)), sum(own) / len(own)))
    return np.array(results).T


def descend(intersection, union, start):
    """Run the greedy search from one start with plain loops; return the selection and its mean IoU."""
    selection, moved = [start] * intersection.shape[1], True

    def value(choice):
        return mean_iou(selected(intersection, choice).sum(0), selected(union, choice).sum(0))

    while moved:
        moved = False
        for i in range(len(selection)):
            tries = [[*selection[:i], k, *selection[i + 1 :]] for k in range(len(intersection))]
            best = min(tries, key=value)
            if value(best) < value(selection) - 1e-13:
                selection, moved = best, True
    return selection, value(selection)


SIZES = [
    {"members": 3, "images": 4, "classes": 4, "size": 30},
    {"members": 3, "images": 5, "classes": 6, "size": 12},
    {"members": 2, "images": 7, "classes": 6, "size": 6},
]


@pytest.mark.parametrize("sizes", SIZES)
def test_agrees_with_every_selection_enumerated(sizes):
    exact, wide, absent, never_labelled, void, cases = 0, 0, 0, 0, 0, 60
    for seed in range(cases):
        intersection, union, pixels = count(*maps(seed, **sizes), sizes["classes"])
        results = worst_case(intersection, union, pixels)
        accuracies, ious, image_ious = all_selections(intersection, union, pixels)
        assert results["Overall Acc"] == pytest.approx(accuracies.min(), rel=1e-12)
        assert results["Image IoU"] == pytest.approx(image_ious.min(), rel=1e-12)
        assert results["Mean IoU lower"] <= ious.min() + 1e-12
        assert results["Mean IoU"] >= ious.min() - 1e-12
        members = [scores(i, u, pixels)["Mean IoU"] for i, u in zip(intersection, union, strict=True)]
        assert results["Mean IoU"] <= min(members)
        exact += results["Mean IoU"] <= ious.min() + 1e-12
        wide += results["Mean IoU"] < min(members) - 1e-3
        absent += (union.sum((0, 1)) == 0).any()
        never_labelled += ((union.sum((0, 1)) > 0) & (pixels.sum(0) == 0)).any()
        void += (pixels.sum(1) == 0).any()
    assert exact >= 0.98 * cases  # measured over more seeds: all, all and 298 of 300
    assert min(wide, absent, never_labelled, void) >= 10  # enough hard cases


@pytest.mark.parametrize("seed", range(8))
def test_greedy_selection_equals_plain_loops_from_every_start(seed):
    intersection, union, _ = count(*maps(1000 + seed, members=4, images=12, classes=6), 6)
    ends = [descend(intersection, union, start) for start in range(4)]
    lowest = min(value for _, value in ends)
    selection, value = greedy_selection(intersection, union)
    assert value == pytest.approx(lowest, rel=1e-12)
    assert selection.tolist() == next(s for s, v in ends if v <= lowest + 1e-12)


def test_other_starts_find_lower_selections_than_the_lowest_member():
    intersection, union, pixels = count(*maps(190, images=5, classes=6, size=12), 6)
    minimum = all_selections(intersection, union, pixels)[1].min()
    alone = [mean_iou(i.sum(0), u.sum(0)) for i, u in zip(intersection, union, strict=True)]
    assert descend(intersection, union, int(np.argmin(alone)))[1] > minimum + 0.04  # .247, not .202
    assert greedy_selection(intersection, union)[1] == pytest.approx(minimum, rel=1e-12)


def test_two_by_two_by_hand():
    labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 1]], [[255, 255], [255, 255]]]).reshape(3, 4)
    right = [[[0, 0], [1, 1]], [[1, 1], [0, 1]], [[0, 1], [0, 1]]]
    wrong = [[[0, 1], [1, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    intersection, union, pixels = count(labels, np.array([right, wrong]).reshape(2, 3, 4), 2)
    assert intersection.tolist() == [[[2, 2], [1, 1], [0, 0]], [[1, 2], [3, 0], [0, 0]]]
    assert union.tolist() == [[[2, 2], [3, 3], [0, 0]], [[2, 3], [4, 1], [0, 0]]]
    results = worst_case(intersection, union, pixels, background=0)
    assert results["selection"] == [1, 0, 0]  # totals 2/5 and 3/6; the others have means .583, .6 and .75
    assert results["Class IoU"] == {0: pytest.approx(2 / 5), 1: pytest.approx(3 / 6)}
    assert results["Mean IoU"] == pytest.approx(9 / 20)
    assert results["Foreground IoU"] == pytest.approx(1 / 2)
    assert results["Mean Acc"] == pytest.approx((2 / 5 + 3 / 3) / 2)
    assert results["FreqW Acc"] == pytest.approx(5 / 8 * 2 / 5 + 3 / 8 * 1 / 2)
    assert results["Mean IoU lower"] == pytest.approx((2 / 6 + 2 / 6) / 2)
    assert results["Overall Acc"] == pytest.approx((3 + 2) / 8)
    assert results["Image IoU"] == pytest.approx((7 / 12 + 1 / 3) / 2)


def test_the_member_with_fewest_right_pixels_need_not_have_the_lowest_iou():
    labels = np.array([[0] * 8 + [1] * 2])
    preds = np.array([[[0] * 5 + [1] * 5], [[0] * 10]])  # 7 right and IoUs 5/8, 2/5; 8 right and IoUs 8/10, 0
    results = worst_case(*count(labels, preds, 2))
    assert results["selection"] == [1]
    assert results["Overall Acc"] == pytest.approx(0.7)
    assert results["Mean IoU"] == results["Image IoU"] == pytest.approx(0.4)


def test_a_class_that_only_some_members_predict_counts_in_the_lower_bound():
    labels, preds = np.array([[0, 0, 0, 0]]), np.array([[[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    intersection, union, _ = count(labels, preds, 3)
    assert lower_bound(intersection, union) == pytest.approx((3 / 4 + 0) / 2)  # not 3/4, nor over all 3 classes
    assert greedy_selection(intersection, union)[1] == pytest.approx((3 / 4 + 0) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_stream_seg_metrics(seed):
    labels, preds = maps(seed, members=1, classes=11, size=200)
    stream = StreamSegMetrics(11)
    stream.update(labels, preds[0])
    intersection, union, pixels = count(labels, preds, 11)
    results = scores(intersection[0], union[0], pixels)
    image_iou = results.pop("Image IoU")
    np.testing.assert_equal(results, stream.get_results())  # bit for bit, including nan
    valid = [(y[y != 255], z[y != 255]) for y, z in zip(labels, preds[0], strict=True) if (y != 255).any()]
    assert image_iou == pytest.approx(np.mean([jaccard_score(y, z, average="macro") for y, z in valid]), rel=1e-12)


def test_scores_agree_with_scikit_learn():
    labels, preds = maps(3, members=1, classes=5, size=400)
    y, z = labels[labels != 255], preds[0][labels != 255]
    intersection, union, pixels = count(labels, preds, 5)
    results = scores(intersection[0], union[0], pixels, background=int(y[0]))
    assert results["Overall Acc"] == pytest.approx(accuracy_score(y, z), rel=1e-12)
    assert results["Mean IoU"] == pytest.approx(jaccard_score(y, z, average="macro"), rel=1e-12)
    assert results["FreqW Acc"] == pytest.approx(jaccard_score(y, z, average="weighted"), rel=1e-12)
    foreground = jaccard_score(y, z, labels=sorted({*y, *z} - {y[0]}), average="macro")
    assert results["Foreground IoU"] == pytest.approx(foreground, rel=1e-12) != results["Mean IoU"]


def test_another_member_never_raises_an_exact_score_and_a_copy_changes_nothing():
    fell = {"Overall Acc": 0, "Image IoU": 0, "Mean IoU lower": 0}
    for seed in range(30):
        intersection, union, pixels = count(*maps(seed, members=4), 4)
        few, more = worst_case(intersection[:3], union[:3], pixels), worst_case(intersection, union, pixels)
        for name in fell:
            assert more[name] <= few[name] + 1e-12
            fell[name] += more[name] < few[name] - 1e-12
        copied = [np.concatenate([array, array[:1]]) for array in (intersection, union)]
        np.testing.assert_equal(worst_case(*copied, pixels), more)
    assert min(fell.values()) >= 10


def test_one_member_is_its_own_worst_case():
    intersection, union, pixels = count(*maps(0, members=1), 4)
    own = scores(intersection[0], union[0], pixels, background=1)
    worst = worst_case(intersection, union, pixels, background=1)
    assert worst.pop("selection") == [0, 0, 0, 0]
    assert worst.pop("Mean IoU lower") == own["Mean IoU"]
    np.testing.assert_equal(worst, own)


def test_no_labelled_pixel_gives_nan_without_a_warning():
    nothing = np.zeros((2, 3, 4), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = worst_case(nothing, nothing, nothing[0], background=0)
    assert results.pop("selection") == [0, 0, 0]
    assert all(math.isnan(value) for value in results.pop("Class IoU").values())
    assert len(results) == 7 and all(math.isnan(value) for value in results.values())


def test_an_undefined_score_is_never_selected():
    union = np.array([[[0, 0], [0, 0]], [[4, 0], [0, 0]]])  # void pixels counted for one member only
    results = worst_case(0 * union, union, 0 * union[0])
    assert results["selection"] == [1, 0]
    assert results["Mean IoU"] == results["Image IoU"] == results["Mean IoU lower"] == 0


def test_counts_of_any_integer_type_do_not_overflow_and_are_not_changed():
    counts = count(*maps(5), 4)
    small = [array.astype(np.uint8) for array in counts]
    expected = worst_case(*(array * 2**40 for array in counts))
    np.testing.assert_equal(worst_case(*small), expected)
    assert all((a == b).all() for a, b in zip(small, counts, strict=True))


def test_results_are_plain_values():
    results = worst_case(*count(*maps(0), 4), background=0)
    assert json.loads(json.dumps(results))["selection"] == results["selection"]
    assert set(results) == {
        "Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Mean IoU lower", "Class IoU", "Image IoU",
        "Foreground IoU", "selection",
    }


@pytest.mark.parametrize(("change", "message"), [
    (lambda i, u, p: (i[0], u, p), r"intersection has shape \[4, 4\]: expected \[members, images, classes\]"),
    (lambda i, u, p: (i, u[:2], p), r"union has shape \[2, 4, 4\]"),
    (lambda i, u, p: (i, u, p[:, :3]), r"pixels has shape \[4, 3\]"),
    (lambda i, u, p: (i[:0], u[:0], p), "no members"),
    (lambda i, u, p: (i[:, :0], u[:, :0], p[:0]), "no images"),
    (lambda i, u, p: (i[..., :0], u[..., :0], p[:, :0]), "no classes"),
    (lambda i, u, p: (i / 1, u, p), "intersection must hold integers, got float64"),
    (lambda i, u, p: (i - 99, u, p), r"intersection is negative at index \[0, 0, 0\]"),
    (lambda i, u, p: (i, u, -1 - p), "pixels is negative"),
    (lambda i, u, p: (u + np.eye(4, dtype=int)[3], u, p), r"intersection exceeds union at index \[0, 0, 3\]"),
    (lambda i, u, p: (i, u, 0 * p), "intersection exceeds pixels"),
    (lambda i, u, p: (i, u, p + 99), "pixels exceeds union"),
])
def test_invalid_counts_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        worst_case(*change(*count(*maps(0), 4)))


def test_invalid_arguments_of_the_other_functions_are_errors():
    intersection, union, pixels = count(*maps(0), 4)
    for function in (greedy_selection, lower_bound):
        with pytest.raises(ValueError, match="intersection exceeds union"):
            function(union + 1, union)
        with pytest.raises(ValueError, match="no members"):
            function(intersection[:0], union[:0])
    with pytest.raises(ValueError, match=r"\[images, classes\]"):
        scores(intersection, union, pixels)
    for background in (-1, 4):
        with pytest.raises(ValueError, match=f"background {background}: must be a class, 0 to 3"):
            scores(intersection[0], union[0], pixels, background=background)
