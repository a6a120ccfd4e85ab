"""PolyLR against its formula, also past the end and after a resume with another length."""
import math

import pytest
import torch
from torch import nn

from optim import SAM, PolyLR, build_scheduler, load_schedule
from utils.errors import UserError


def make_optimizer(*lrs):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs], lr=0.1)


def walk(scheduler, steps):
    """Return the learning rates of the next iterations, one tuple per iteration."""
    out = []
    for _ in range(steps):
        out.append(tuple(group["lr"] for group in scheduler.optimizer.param_groups))
        scheduler.optimizer.step()
        scheduler.step()
    return out


def formula(lr, itr, total, power=0.9, min_lr=1e-6):
    return max(lr * (1 - min(itr, total) / total) ** power, min_lr)


@pytest.mark.parametrize("build", [
    lambda optimizer: PolyLR(optimizer, 10),
    lambda optimizer: build_scheduler("poly", optimizer, total_itrs=10),
], ids=["class", "factory"])
def test_poly_is_the_formula_in_each_group_and_stays_at_min_lr_past_the_end(build):
    lrs = walk(build(make_optimizer(0.01, 0.001)), 15)
    assert lrs == [(formula(0.01, itr, 10), formula(0.001, itr, 10)) for itr in range(15)]
    assert lrs[10:] == [(1e-6, 1e-6)] * 5


def test_poly_keeps_the_positional_order_of_vainf():
    optimizer = make_optimizer(0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    scheduler = PolyLR(optimizer, 10, 2.0, 3, 1e-3)
    assert walk(scheduler, 2) == [(pytest.approx(0.1 * 0.6**2),), (pytest.approx(0.1 * 0.5**2),)]


@pytest.mark.parametrize("total", [10, 20, 4])
def test_poly_resumed_follows_the_new_length(total):
    first = PolyLR(make_optimizer(0.01), 10)
    walk(first, 5)
    resumed = PolyLR(make_optimizer(0.01), total)
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    resumed.load_state_dict(first.state_dict())
    assert resumed.get_last_lr() == [formula(0.01, 5, total)]
    assert walk(resumed, 8) == [(formula(0.01, itr, total),) for itr in range(5, 13)]


@pytest.mark.parametrize("total", [0, -1])
def test_poly_rejects_a_length_that_is_not_positive(total):
    with pytest.raises(UserError, match=str(total)):
        build_scheduler("poly", make_optimizer(0.01), total_itrs=total)


def test_step_divides_by_ten():
    lrs = walk(build_scheduler("step", make_optimizer(1.0), total_itrs=99, step_size=3), 7)
    assert [lr for lr, in lrs] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_step_is_a_tenth_after_ten_thousand_iterations_unless_told_otherwise():
    assert build_scheduler("step", make_optimizer(1.0), total_itrs=99).step_size == 10000


def test_a_schedule_accepts_sam():
    optimizer = SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1)
    assert walk(build_scheduler("poly", optimizer, total_itrs=4), 3) == [(formula(0.1, itr, 4),) for itr in range(3)]


def test_a_base_rate_below_the_minimum_is_not_raised_to_it():
    """A backbone with learning rate 0 stays frozen."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.0}, {"params": weights[1:], "lr": 1e-8}], lr=0.1)
    scheduler = PolyLR(optimizer, 10)
    assert scheduler.get_last_lr() == [0.0, 1e-8]


def test_cosine_falls_to_zero_and_stays_there():
    lrs = walk(build_scheduler("cosine", make_optimizer(0.2, 0.02), total_itrs=8), 10)
    expected = [[lr * (1 + math.cos(math.pi * min(itr, 8) / 8)) / 2 for lr in (0.2, 0.02)] for itr in range(10)]
    assert lrs == [pytest.approx(tuple(each), abs=1e-15) for each in expected]
    assert lrs[4] == pytest.approx((0.1, 0.01)) and lrs[8] == lrs[9] == pytest.approx((0, 0), abs=1e-15)


@pytest.mark.parametrize("name", ["poly", "cosine", "step"])
def test_warm_up_multiplies_the_curve(name):
    plain = walk(build_scheduler(name, make_optimizer(0.2, 0.02), total_itrs=10, step_size=4), 10)
    warm = walk(build_scheduler(name, make_optimizer(0.2, 0.02), total_itrs=10, step_size=4, warmup_itrs=3), 10)
    factors = [1 / 4, 2 / 4, 3 / 4, *[1] * 7]
    for factor, one, other in zip(factors, warm, plain, strict=True):
        assert one == pytest.approx([factor * lr for lr in other])


def test_a_run_resumed_within_its_warm_up_goes_on():
    whole = build_scheduler("poly", make_optimizer(0.1), total_itrs=10, warmup_itrs=5)
    lrs = walk(whole, 8)
    again = build_scheduler("poly", make_optimizer(0.1), total_itrs=10, warmup_itrs=5)
    load_schedule(again, 3)
    assert walk(again, 5) == lrs[3:]
    assert all(isinstance(value, int | float | list | str | bool | None) for value in whole.state_dict().values())
