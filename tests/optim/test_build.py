"""The registries: every name builds, and an unknown one is told the known."""
import pytest
import torch
from torch import nn

from optim import LOSSES, OPTIMIZERS, SAM, SCHEDULERS, build_loss, build_optimizer, build_scheduler
from utils.errors import UserError

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "SAM": SAM}


def make_groups():
    return [{"params": [nn.Parameter(torch.ones(2))], "lr": 0.1}, {"params": [nn.Parameter(torch.ones(2))]}]


def test_the_names_are_those_of_the_command_line():
    assert OPTIMIZERS.keys() == CLASSES.keys()
    assert SCHEDULERS.keys() == {"poly", "step"}
    assert LOSSES.keys() == {"cross_entropy", "focal_loss"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_build_optimizer(name):
    groups = make_groups()
    optimizer = build_optimizer(name, groups, lr=1.0, weight_decay=0.5)
    assert type(optimizer) is CLASSES[name]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["params"] for group in optimizer.param_groups] == [group["params"] for group in groups]
    assert groups[1].keys() == {"params"}
    if name != "adam":
        assert optimizer.defaults["momentum"] == 0.9


def test_build_sam():
    model = nn.BatchNorm2d(2)
    optimizer = build_optimizer("SAM", make_groups(), lr=1.0, weight_decay=0.0, momentum=0.5, rho=0.3, adaptive=True,
                                start_step=4, model=model)
    assert type(optimizer.base_optimizer) is torch.optim.SGD
    assert [optimizer.defaults[key] for key in ("momentum", "rho", "adaptive")] == [0.5, 0.3, True]
    assert (optimizer.start_step, optimizer.model) == (4, model)
    assert build_optimizer("SAM", make_groups(), lr=1.0, weight_decay=0.0).defaults["rho"] == 0.02


@pytest.mark.parametrize(("build", "known"), [
    (lambda: build_optimizer("sam", make_groups(), lr=1.0, weight_decay=0.0), OPTIMIZERS),
    (lambda: build_scheduler("cosine", None, total_itrs=1), SCHEDULERS),
    (lambda: build_loss("dice"), LOSSES),
], ids=["optimizer", "scheduler", "loss"])
def test_an_unknown_name_is_told_the_known_ones(build, known):
    with pytest.raises(UserError, match=", ".join(known)):
        build()
