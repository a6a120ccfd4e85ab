"""evaluate(): the same numbers as a loop written out, whatever the batches."""
from contextlib import nullcontext

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.utils.data import DataLoader, TensorDataset

from attacks import FGSM, PGD, SEA, Noise, Square
from engine.evaluation import evaluate as evaluating
from engine.evaluation.evaluate import announce, describe_cost, evaluate
from metrics import StreamSegMetrics
from utils.text import format_time


@pytest.fixture
def pictures():
    """7 images with labels and their indices, in float64."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(7, 3, 12, 10, generator=generator).double()
    labels = torch.randint(0, 4, (7, 12, 10), generator=generator)
    labels[:, 0] = 255
    return TensorDataset(images, labels, torch.arange(7))


def score(model, data, attack=None, *, batch_size=2, order=None, **options):
    data = data if order is None else torch.utils.data.Subset(data, order)
    return evaluate(model, DataLoader(data, batch_size), StreamSegMetrics(4), attack, **options)


def test_clean_is_argmax_and_scikit_learn(toy, pictures):
    toy.double()
    images, labels, _ = pictures.tensors
    preds, valid = toy(images).argmax(1), labels != 255
    expected = jaccard_score(labels[valid], preds[valid], average="macro")
    assert score(toy, pictures)["Mean IoU"] == pytest.approx(expected, rel=1e-12)


def test_attacked_is_the_score_of_the_attacks_images(toy, pictures):
    toy.double()
    images, labels, _ = pictures.tensors
    attack = PGD(eps=0.05, steps=3, seed=4)
    preds = toy(attack(toy, images, labels, image_ids=range(7))).argmax(1)
    valid = labels != 255
    expected = jaccard_score(labels[valid], preds[valid], average="macro")
    assert score(toy, pictures, attack)["Mean IoU"] == pytest.approx(expected, rel=1e-12)
    assert expected < score(toy, pictures)["Mean IoU"]


@pytest.mark.parametrize("attack", [None, FGSM(eps=0.03), PGD(eps=0.03, steps=3), PGD(eps=0.5, steps=3, norm="l2")])
def test_batch_size_and_order_change_nothing(toy, pictures, attack):
    toy.double()
    reference = StreamSegMetrics(4)
    evaluate(toy, DataLoader(pictures, 7), reference, attack)
    for batch_size, order in [(1, None), (3, None), (2, [6, 2, 0, 5, 1, 3, 4])]:
        metrics = StreamSegMetrics(4)
        data = pictures if order is None else torch.utils.data.Subset(pictures, order)
        evaluate(toy, DataLoader(data, batch_size), metrics, attack)
        assert torch.equal(metrics.confusion_matrix, reference.confusion_matrix)


def test_a_loader_without_indices_is_counted(toy, pictures):
    toy.double()
    seen = []
    plain = TensorDataset(*pictures.tensors[:2])
    attack = PGD(eps=0.03, steps=2)
    results = score(toy, plain, attack, batch_size=3, on_batch=lambda scored: seen.append(scored.indices))
    assert seen == [[0, 1, 2], [3, 4, 5], [6]] and results == score(toy, pictures, attack)


def test_model_in_training_mode_is_scored_in_eval_mode_and_left_training(toy, pictures):
    toy.double()
    expected = score(toy, pictures)
    toy.train()
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    assert score(toy, pictures) == expected and all(module.training for module in toy.modules())
    score(toy, pictures, FGSM(eps=0.1))
    assert all(torch.equal(value, before[key]) for key, value in toy.state_dict().items())


def test_metrics_start_anew(toy, pictures):
    toy.double()
    metrics = StreamSegMetrics(4)
    loader = DataLoader(pictures, 3)
    assert evaluate(toy, loader, metrics) == evaluate(toy, loader, metrics)
    assert metrics.confusion_matrix.sum() == 7 * 11 * 10


def test_progress_shows_the_running_miou(toy, pictures, capsys):
    toy.double()
    result = score(toy, pictures, FGSM(eps=0.1))
    err = capsys.readouterr().err
    assert "fgsm linf 0.1" in err and f"mIoU {result['Mean IoU']:.4f}" in err


@pytest.mark.parametrize(("scale", "scored"), [(1e13, True), (1e16, False), (1e29, False), (float("nan"), False)])
def test_logits_of_a_diverged_network_have_no_score(scale, scored):
    """At a learning rate of 3000 they are finite, and argmax finds classes in them."""
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale))

        def forward(self, images):
            return torch.cat([images[:, :2] * 0 + 1, images[:, :1] * 0], dim=1) * self.scale

    loader = DataLoader(TensorDataset(torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)), 2)
    with nullcontext() if scored else pytest.raises(FloatingPointError, match="no score.*beyond 1e.15"):
        assert evaluate(Constant(), loader, StreamSegMetrics(3))["Overall Acc"] == 1


def test_the_cost_of_an_image_is_told():
    pgd, sea = PGD(eps=0.1, steps=7, restarts=2), SEA(eps=0.1, steps=5, class_weights=[1.0])
    assert [describe_cost(attacks) for attacks in ([pgd], [pgd, FGSM(eps=0.1)], [sea], [FGSM(eps=0.1)], [Square(
        eps=0.1, steps=9)], [Noise(eps=0.1)])] == [
            "14 gradients", "15 gradients", "15 gradients", "1 gradient", "no gradients, 9 queries", "no gradients"]


@pytest.mark.parametrize(("batches", "lines"), [
    (5, ["pgd: 10 gradients per image, 9 images", "pgd: about 3 min 20 s for 9 images"]),
    (1, ["pgd: 10 gradients per image, 9 images"]), (0, ["pgd: 10 gradients per image, 9 images"])])
def test_the_time_is_told_once_after_the_first_batch(monkeypatch, batches, lines):
    told, clock = [], iter([100.0, 140.0])
    monkeypatch.setattr(evaluating.logger, "info", lambda text, *values: told.append(text % values))
    monkeypatch.setattr(evaluating.time, "monotonic", lambda: next(clock))
    seen = announce([*range(batches)], [PGD(eps=0.1)], "pgd", 9)
    for number in range(batches):
        assert next(seen) == number and len(told) == min(number + 1, 2)
    assert list(seen) == [] and told == lines


def test_clean_images_cost_nothing_to_tell(monkeypatch):
    monkeypatch.setattr(evaluating.logger, "info", lambda *_: pytest.fail("told"))
    assert list(announce([1, 2], [None], "clean", 9)) == [1, 2]


def test_times():
    assert [format_time(seconds) for seconds in (0.2, 59.4, 59.6, 200, 3599.6, 7500)] == [
        "1 s", "59 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "2 h 5 min"]
