"""The training loop on a toy network: what it updates, validates, saves and restores."""
import os
import signal
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.run.interrupts import Stopped
from engine.training.meter import Progress
from engine.training.step import TrainingStep
from engine.training.trainer import Trainer
from network import NormalizedModel
from optim import WeightAverage, build_loss, build_optimizer, build_scheduler
from utils import checkpoint
from utils.dashboards import Dashboard
from utils.errors import UserError
from utils.logging import start_log, stop_log

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    return TensorDataset(images, torch.randint(0, 3, (6, 8, 8), generator=generator))


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


class InOrder:
    """Batches of two in order, without end, from any iteration on."""

    batch_size = 2

    def __init__(self, data):
        self.batches = list(DataLoader(data, batch_size=2))

    def __len__(self):
        return len(self.batches)

    def iterate_from(self, itr):
        return (self.batches[k % len(self)] for k in count(itr))


def trainer_of(tmp_path, data, optimizer="sgd", *, scores=(), lr=0.1, total=6, ema=None, **settings):
    """A trainer on a conv-BN-conv network; `scores` are the mIoUs that its validations find."""
    torch.manual_seed(1)
    model = NormalizedModel(network(), *IMAGENET)
    if optimizer == "SAM":
        settings["model"] = model
    optimizer = build_optimizer(optimizer, [{"params": model.parameters(), "lr": lr}], lr=lr, weight_decay=1e-4,
                                **settings)
    found = iter(scores)
    return Trainer(
        model, TrainingStep(model, model, optimizer=optimizer, criterion=build_loss("cross_entropy"),
                            average=WeightAverage(model.model, ema)), InOrder(data),
        scheduler=build_scheduler("poly", optimizer, total_itrs=total), progress=Progress(Dashboard(), class_names=[]),
        validate=lambda _: {"Mean IoU": next(found, 0.5)}, described={"options": {}},
        paths={kind: tmp_path / f"{kind}.pth" for kind in ("latest", "best")})


def test_three_sgd_steps_are_those_of_a_plain_loop(tmp_path, data):
    trainer = trainer_of(tmp_path, data)
    torch.manual_seed(1)
    model = network()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    momentum = [torch.zeros_like(p) for p in model.parameters()]
    images, labels = data.tensors
    for itr in range(3):
        part = slice(2 * itr, 2 * itr + 2)
        model.zero_grad()
        nn.CrossEntropyLoss(ignore_index=255)(model((images[part] - mean) / std), labels[part]).backward()
        with torch.no_grad():
            for p, m in zip(model.parameters(), momentum, strict=True):
                m.mul_(0.9).add_(p.grad + 1e-4 * p)
                p.sub_(0.1 * (1 - itr / 6) ** 0.9 * m)
    trainer.train(3, print_interval=10, val_interval=10)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(trainer.model.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_validates_at_intervals_and_at_the_end_and_keeps_the_best(tmp_path, data):
    trainer = trainer_of(tmp_path, data, scores=[0.4, 0.2, 0.3])
    trainer.train(5, print_interval=10, val_interval=2)
    latest, best = (checkpoint.load(tmp_path / f"{kind}.pth") for kind in ("latest", "best"))
    assert (latest["cur_itrs"], latest["best_score"]) == (5, 0.4)
    assert (best["cur_itrs"], best["best_score"]) == (2, 0.4)


def test_latest_is_written_after_the_validation_whose_score_it_carries(tmp_path, data):
    trainer = trainer_of(tmp_path, data, scores=[0.7])
    trainer.train(1, print_interval=10, val_interval=1)
    assert checkpoint.load(tmp_path / "latest.pth")["best_score"] == 0.7


def test_checkpoint_holds_vainfs_keys_and_the_bare_networks(tmp_path, data):
    trainer = trainer_of(tmp_path, data)
    trainer.train(1, print_interval=1, val_interval=1)
    saved = checkpoint.load(tmp_path / "latest.pth")
    assert {"cur_itrs", "model_state", "optimizer_state", "scheduler_state", "best_score"} <= set(saved)
    assert set(saved["model_state"]) == set(trainer.model.model.state_dict())
    assert not any("mean" in key.split(".")[0] for key in saved["model_state"])


def test_the_average_is_validated_and_saved_and_the_trained_weights_go_on(tmp_path, data):
    plain = trainer_of(tmp_path / "plain", data)
    averaged = trainer_of(tmp_path / "averaged", data, ema=0.5)
    seen = []
    averaged.validate = lambda trainer: seen.append(
        {key: value.clone() for key, value in trainer.model.model.state_dict().items()}) or {"Mean IoU": 0.5}
    steps = [{key: value.clone() for key, value in plain.model.model.state_dict().items()}]
    for trainer in (plain, averaged):
        trainer.paths["latest"].parent.mkdir()
    for itr in range(1, 5):
        plain.train(itr, print_interval=10, val_interval=10)
        steps.append({key: value.clone() for key, value in plain.model.model.state_dict().items()})
    averaged.train(4, print_interval=10, val_interval=4)
    expected = steps[0]
    for itr, state in enumerate(steps[1:], 1):
        share = min(0.5, (1 + itr) / (10 + itr))
        expected = {key: share * expected[key] + (1 - share) * value for key, value in state.items()}
    latest, best = (checkpoint.load(averaged.paths[kind]) for kind in ("latest", "best"))
    for key, value in steps[-1].items():
        assert torch.equal(latest["trained_state"][key], value) and torch.equal(best["trained_state"][key], value)
        assert torch.equal(averaged.model.model.state_dict()[key], value)
        assert torch.equal(latest["model_state"][key], seen[0][key])
        assert torch.equal(best["model_state"][key], seen[0][key])
        if value.is_floating_point():
            torch.testing.assert_close(seen[0][key], expected[key], rtol=1e-5, atol=1e-6)
    averaged.load_best()
    assert all(torch.equal(value, seen[0][key]) for key, value in averaged.model.model.state_dict().items())


def test_a_step_of_trades_is_that_of_a_plain_loop(data):
    """Zhang et al., equation 5: the loss of the images plus beta times the divergence of the attacked ones."""
    images, labels = data.tensors[0][:4].double(), data.tensors[1][:4]
    torch.manual_seed(1)
    model = NormalizedModel(network(), *IMAGENET).double()
    torch.manual_seed(1)
    other = NormalizedModel(network(), *IMAGENET).double()
    step = TrainingStep(model, model, optimizer=torch.optim.SGD(model.parameters(), 0.1), trades_beta=3.0,
                        criterion=build_loss("cross_entropy"), attack=lambda _, images, labels: 1 - images)
    loss = step(images, labels)["Loss"]
    clean, attacked = other(images), other(1 - images)
    own = nn.functional.cross_entropy(clean, labels)
    far = nn.functional.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="none").sum(1).mean()
    (own + 3 * far).backward()
    assert loss.item() == pytest.approx((own + 3 * far).item(), rel=1e-9)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", [0.0, float("nan")])
def test_a_score_of_zero_or_nan_still_leaves_a_best(tmp_path, data, score):
    trainer_of(tmp_path, data, scores=[score]).train(1, print_interval=1, val_interval=1)
    assert checkpoint.load(tmp_path / "best.pth")["best_score"] == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "SAM"])
def test_three_and_three_resumed_are_six(tmp_path, data, optimizer):
    whole = trainer_of(tmp_path, data, optimizer)
    whole.train(6, print_interval=10, val_interval=10)
    trainer_of(tmp_path, data, optimizer).train(3, print_interval=10, val_interval=10)
    state = checkpoint.load(tmp_path / "latest.pth")
    resumed = trainer_of(tmp_path, data, optimizer)
    resumed.model.model.load_state_dict(state["model_state"])
    resumed.load_state_dict(state, source="latest.pth")
    assert resumed.cur_itrs == 3
    resumed.train(6, print_interval=10, val_interval=10)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def test_a_resumed_run_follows_the_options_of_now(tmp_path, data):
    trainer_of(tmp_path, data, "SAM", rho=0.02).train(3, print_interval=10, val_interval=10)
    resumed = trainer_of(tmp_path, data, "SAM", lr=0.4, rho=0.07, total=12)
    resumed.load_state_dict(checkpoint.load(tmp_path / "latest.pth"), source="latest.pth")
    (group,) = resumed.optimizer.param_groups
    assert group["rho"] == 0.07 and group["sam_step"] == 3
    assert group["lr"] == pytest.approx(0.4 * (1 - 3 / 12) ** 0.9, rel=1e-12)


def test_resuming_a_finished_run_trains_no_more(tmp_path, data):
    trainer_of(tmp_path, data).train(6, print_interval=10, val_interval=10)
    resumed = trainer_of(tmp_path, data)
    resumed.load_state_dict(checkpoint.load(tmp_path / "latest.pth"), source="latest.pth")
    before = {key: value.clone() for key, value in resumed.model.state_dict().items()}
    resumed.train(6, print_interval=10, val_interval=10)
    assert all(torch.equal(value, before[key]) for key, value in resumed.model.state_dict().items())


def test_the_state_of_another_number_of_groups_is_refused(tmp_path, data):
    trainer_of(tmp_path, data, "sgd").train(1, print_interval=10, val_interval=10)
    state = checkpoint.load(tmp_path / "latest.pth")
    state["optimizer_state"]["param_groups"] = []
    with pytest.raises(UserError, match="latest.pth doesn't fit this --optimizer"):
        trainer_of(tmp_path, data, "sgd").load_state_dict(state, source="latest.pth")


def test_sam_on_top_of_an_sgd_checkpoint_counts_the_iterations_that_sgd_made(tmp_path, data):
    trainer_of(tmp_path, data, "sgd").train(3, print_interval=10, val_interval=10)
    sam = trainer_of(tmp_path, data, "SAM", rho=0.1, start_step=4)
    sam.load_state_dict(checkpoint.load(tmp_path / "latest.pth"), source="latest.pth")
    perturbed = []
    sam.training_step.criterion = lambda logits, _: perturbed.append(sam.optimizer.perturbed) or logits.std()
    sam.train(5, print_interval=10, val_interval=10)
    assert perturbed == [False, False, True]  # iteration 3 is plain, 4 is SAM's


def test_weights_that_are_not_finite_are_never_saved(tmp_path, data):
    trainer_of(tmp_path, data).train(1, print_interval=10, val_interval=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FloatingPointError, match="diverged at iteration 2: the weights are not finite; .*"
                       "last good .*best.pth, of iteration 1: .*lower --lr"):
        trainer_of(tmp_path, data, lr=float("inf")).train(6, print_interval=10, val_interval=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Poisoned(InOrder):
    """Some iterations' images hold a NaN."""

    def __init__(self, data, itrs):
        super().__init__(data)
        self.itrs = itrs

    def iterate_from(self, itr):
        for k, (images, labels) in zip(count(itr), super().iterate_from(itr), strict=False):
            yield (images * float("nan") if k in self.itrs else images), labels


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "SAM"])
def test_an_iteration_that_is_not_finite_is_skipped_counted_and_leaves_no_trace(tmp_path, data, optimizer, capsys):
    start_log()
    trainer = trainer_of(tmp_path, data, optimizer, ema=0.5)
    trainer.loader = Poisoned(data, {1, 3, 4})
    trainer.train(6, print_interval=1, val_interval=10)
    stop_log()
    plain = trainer_of(tmp_path, data, optimizer, ema=0.5)
    for itr, (images, labels) in zip(range(6), InOrder(data).iterate_from(0), strict=False):
        if itr in (1, 3, 4):
            plain.scheduler.step()
            for group in plain.optimizer.param_groups:
                group.update({"sam_step": itr + 1} if optimizer == "SAM" else {})
        else:
            plain.step(images, labels)
    for key, value in plain.model.state_dict().items():  # BatchNorm's statistics among them
        assert torch.equal(trainer.model.state_dict()[key], value), key
    assert trainer.average.count == 3  # the three steps that were taken
    assert all(torch.equal(trainer.average.values[name], value) for name, value in plain.average.values.items())
    assert trainer.cur_itrs == 6 and (trainer.skips.count, trainer.skips.in_a_row) == (3, 0)
    out = capsys.readouterr().out
    assert "Iteration 5 skipped: the loss or its gradient is not finite (2 in a row, 3 in total)" in out
    assert "Itrs 4/6, no finite loss" in out


def test_sams_count_is_the_iteration_also_where_an_attack_ended_it_before_it_began(tmp_path, data):
    def attack(*_):
        raise FloatingPointError("not finite")

    trainer = trainer_of(tmp_path, data, "SAM", start_step=2)
    batches = trainer.loader.iterate_from(0)
    trainer.step(*next(batches))
    trainer.training_step.attack = attack
    assert trainer.step(*next(batches)) == {}
    trainer.training_step.attack = None
    assert "Sharpness" in trainer.step(*next(batches))  # the third, which is SAM's


def test_the_count_of_skipped_iterations_goes_on(tmp_path, data):
    trainer = trainer_of(tmp_path, data)
    trainer.loader = Poisoned(data, {1})
    trainer.train(3, print_interval=10, val_interval=10)
    resumed = trainer_of(tmp_path, data)
    resumed.load_state_dict(checkpoint.load(tmp_path / "latest.pth"), source="latest.pth")
    assert resumed.skips.count == 1


def test_a_gradient_alone_that_is_not_finite_is_skipped_too(tmp_path, data):
    trainer = trainer_of(tmp_path, data)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    # its value is 0, its slope infinite
    trainer.training_step.criterion = lambda logits, labels: (logits - logits.detach()).abs().sqrt().sum()
    assert trainer.step(*next(trainer.loader.iterate_from(0))) == {} and trainer.skips.count == 1
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_ten_in_a_row_end_the_run_and_keep_the_last_good_checkpoint(tmp_path, data):
    trainer_of(tmp_path, data).train(2, print_interval=10, val_interval=10)
    before = (tmp_path / "latest.pth").read_bytes()
    trainer = trainer_of(tmp_path, data, total=40)
    trainer.load_state_dict(checkpoint.load(tmp_path / "latest.pth"), source="latest.pth")
    trainer.loader = Poisoned(data, {*range(3, 12), *range(13, 23), 30})
    with pytest.raises(FloatingPointError, match="diverged at iteration 22: 10 iterations in a row were skipped, .*"
                       "best.pth, of iteration 2:"):
        trainer.train(40, print_interval=50, val_interval=50)
    assert trainer.skips.count == 19 and (tmp_path / "latest.pth").read_bytes() == before


@pytest.mark.parametrize(("scale", "skipped"), [(1e14, False), (1e16, True), (float("nan"), True)])
def test_a_loss_beyond_any_that_works_is_skipped(tmp_path, data, scale, skipped):
    trainer = trainer_of(tmp_path, data)
    trainer.training_step.criterion = lambda logits, _: logits.mean() * 0 + scale
    assert (trainer.step(*next(trainer.loader.iterate_from(0))) == {}) == skipped


@pytest.mark.parametrize("validated", [False, True])
def test_a_validation_that_finds_a_diverged_network_ends_the_run_and_scores_nothing(tmp_path, data, validated):
    trainer = trainer_of(tmp_path, data)
    good, validate = trainer.validate, lambda _: (_ for _ in ()).throw(FloatingPointError("no score"))
    trainer.validate = lambda it: (good if validated and it.cur_itrs == 2 else validate)(it)
    last = "best.pth, of iteration 2" if validated else "no checkpoint of this run has passed a validation"
    with pytest.raises(FloatingPointError, match=f"^diverged at iteration {4 if validated else 2}: no score; .*{last}"):
        trainer.train(6, print_interval=10, val_interval=2)
    latest = checkpoint.load(tmp_path / "latest.pth")
    assert latest["validated"] == (2 if validated else 0) and (tmp_path / "best.pth").exists() == validated
    with pytest.raises(FloatingPointError, match="diverged"):  # nor when it is continued
        resumed = trainer_of(tmp_path, data)
        resumed.validate = validate
        resumed.load_state_dict(latest, source="latest.pth")
        resumed.train(6, print_interval=10, val_interval=2)


def test_a_line_has_the_means_since_the_line_before(tmp_path, data, capsys):
    start_log()
    trainer = trainer_of(tmp_path, data, "SAM", rho=0.05)
    seen = []
    step = trainer.step
    trainer.step = lambda *args: seen.append(step(*args)) or seen[-1]
    trainer.train(5, print_interval=2, val_interval=10)
    stop_log()
    lines = [line for line in capsys.readouterr().out.splitlines() if "Itrs" in line]
    assert [line.split(", Loss")[0] for line in lines] == ["Epoch 1, Itrs 2/5", "Epoch 2, Itrs 4/5"]
    for number, line in enumerate(lines):
        loss, norm, radius, sharpness = (
            np.mean([step[name].item() for step in seen[2 * number:2 * number + 2]])
            for name in ("Loss", "Gradient norm", "Perturbation", "Sharpness"))
        assert f"Loss={loss:f}, |g|={norm:.3g}, |e|={radius:.3g}, L(w+e)-L(w)={sharpness:.3g}, lr=" in line
        assert radius == pytest.approx(0.05, rel=1e-5) and "images/s, ETA 0:00:0" in line and line.endswith(" GiB")


def test_sam_trains_through_the_same_loop_and_moves_batchnorm_once_a_step(tmp_path, data):
    trainer = trainer_of(tmp_path, data, "SAM", rho=0.05)
    trainer.train(3, print_interval=10, val_interval=10)
    assert trainer.model.model[1].num_batches_tracked == 3


def test_an_all_void_batch_costs_nothing_and_breaks_nothing(tmp_path, data):
    trainer = trainer_of(tmp_path, data)
    loss = trainer.step(data.tensors[0][:2], torch.full((2, 8, 8), 255))["Loss"]
    assert loss == 0 and all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_ctrl_c_inside_a_step_waits_for_its_end_then_saves(tmp_path, data):
    trainer = trainer_of(tmp_path, data, "SAM", rho=0.5)
    calls = []

    def criterion(logits, labels):
        calls.append(trainer.optimizer.perturbed)
        if len(calls) == 4:  # the second pass of the second step, at w + e
            os.kill(os.getpid(), signal.SIGINT)
        return build_loss("cross_entropy")(logits, labels)

    trainer.training_step.criterion = criterion
    with pytest.raises(Stopped):
        trainer.train(6, print_interval=10, val_interval=10)
    saved = checkpoint.load(tmp_path / "latest.pth")
    assert calls == [False, True, False, True] and saved["cur_itrs"] == 2
    (tmp_path / "reference").mkdir()
    reference = trainer_of(tmp_path / "reference", data, "SAM", rho=0.5)
    reference.train(2, print_interval=10, val_interval=10)
    for key, value in reference.model.model.state_dict().items():
        assert torch.equal(saved["model_state"][key], value)
