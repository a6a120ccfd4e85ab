"""StreamSegMetrics against scikit-learn and a hand-worked case."""
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from metrics import StreamSegMetrics


@pytest.fixture
def pixels():
    rng = np.random.RandomState(0)
    trues, preds = rng.randint(0, 5, (6, 20, 30)), rng.randint(0, 5, (6, 20, 30))
    preds = np.where(rng.rand(*trues.shape) < 0.6, trues, preds)
    trues[:, :3] = 255
    return trues, preds


def test_two_by_two_by_hand():
    metrics = StreamSegMetrics(2)
    metrics.update(np.array([[0, 0], [1, 255]]), np.array([[0, 1], [1, 1]]))
    results = metrics.get_results()
    assert results["Overall Acc"] == pytest.approx(2 / 3)
    assert results["Mean Acc"] == pytest.approx((1 / 2 + 1) / 2)
    assert results["Class IoU"] == {0: pytest.approx(1 / 2), 1: pytest.approx(1 / 2)}
    assert results["Mean IoU"] == pytest.approx(1 / 2)
    assert results["FreqW Acc"] == pytest.approx(2 / 3 * 1 / 2 + 1 / 3 * 1 / 2)


def test_agrees_with_scikit_learn(pixels):
    trues, preds = pixels
    metrics = StreamSegMetrics(5)
    metrics.update(trues, preds)
    results, valid = metrics.get_results(), trues != 255
    y, z = trues[valid], preds[valid]
    assert (metrics.confusion_matrix.numpy() == confusion_matrix(y, z, labels=range(5))).all()
    iou = jaccard_score(y, z, average=None)
    assert results["Overall Acc"] == pytest.approx(accuracy_score(y, z), rel=1e-12)
    assert results["Mean Acc"] == pytest.approx(recall_score(y, z, average="macro"), rel=1e-12)
    assert list(results["Class IoU"].values()) == pytest.approx(list(iou), rel=1e-12)
    assert results["Mean IoU"] == pytest.approx(iou.mean(), rel=1e-12)
    assert results["FreqW Acc"] == pytest.approx(jaccard_score(y, z, average="weighted"), rel=1e-12)


def test_streaming_equals_all_at_once_for_arrays_tensors_images_and_batches(pixels):
    trues, preds = pixels
    whole, parts = StreamSegMetrics(5), StreamSegMetrics(5)
    whole.update(trues, preds)
    parts.update(trues[:3], preds[:3])
    parts.update(torch.as_tensor(trues[3:5]), torch.as_tensor(preds[3:5]))
    parts.update(torch.as_tensor(trues[5]), preds[5].astype(np.uint8))
    assert torch.equal(whole.confusion_matrix, parts.confusion_matrix)
    parts.reset()
    assert parts.confusion_matrix.sum() == 0


def test_arrays_of_any_integer_type_and_stride_are_counted(pixels):
    trues, preds = pixels
    expected, metrics = StreamSegMetrics(5), StreamSegMetrics(5)
    expected.update(trues, preds)
    metrics.update(trues[:, ::-1].astype(np.uint16), preds[:, ::-1])
    assert torch.equal(metrics.confusion_matrix, expected.confusion_matrix)


def test_an_absent_class_is_nan_and_left_out_without_a_warning():
    metrics = StreamSegMetrics(4)
    metrics.update(np.array([0, 0, 1]), np.array([0, 2, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = metrics.get_results()
    assert math.isnan(results["Class IoU"][3]) and results["Class IoU"][2] == 0  # 2 is predicted, 3 nowhere
    assert results["Mean IoU"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert results["Mean Acc"] == pytest.approx((1 / 2 + 1) / 2)
    *scores, remark = StreamSegMetrics.to_str(results).strip().splitlines()
    assert [line.partition(":")[0] for line in scores] == ["Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU"]
    assert remark.startswith("Mean IoU is over 3 of 4 classes")


def test_labels_outside_the_classes_are_not_counted():
    metrics = StreamSegMetrics(2)
    metrics.update(np.array([-1, 2, 254, 255, 1]), np.array([0, 0, 1, 1, 1]))
    assert metrics.confusion_matrix.tolist() == [[0, 0], [0, 1]]


def test_no_counted_pixel_gives_nan_not_zero():
    metrics = StreamSegMetrics(2)
    metrics.update(np.full((4, 4), 255), np.zeros((4, 4), dtype=int))
    results = metrics.get_results()
    assert all(math.isnan(results[name]) for name in ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU"))


def test_a_counted_prediction_outside_the_classes_is_an_error():
    metrics = StreamSegMetrics(2)
    metrics.update(np.array([255]), np.array([9]))
    for pred in (2, -1):
        with pytest.raises(ValueError, match="outside"):
            metrics.update(np.array([0]), np.array([pred]))
    with pytest.raises(ValueError, match="shape"):
        metrics.update(np.zeros((2, 2), dtype=int), np.zeros((2, 3), dtype=int))
    assert metrics.confusion_matrix.sum() == 0


def test_counts_stay_exact_past_float_precision():
    metrics = StreamSegMetrics(2)
    metrics.confusion_matrix[0, 0] = 2**53
    metrics.update(np.array([0]), np.array([0]))
    assert metrics.confusion_matrix[0, 0] == 2**53 + 1


def test_to_str_has_one_line_per_score():
    text = StreamSegMetrics.to_str({"Overall Acc": 0.5, "Mean IoU": 0.25, "Class IoU": {0: 0.25}})
    assert text == "\nOverall Acc: 0.500000\nMean IoU: 0.250000\n"
