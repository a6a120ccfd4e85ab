"""The registries: every name builds; the error for an unknown name lists the known ones."""
import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import optim
from optim import (
    AWP,
    BASE_OPTIMIZERS,
    GSAM,
    LOSSES,
    OPTIMIZERS,
    SAM,
    SCHEDULERS,
    FriendlySAM,
    LookSAM,
    build_loss,
    build_optimizer,
    build_scheduler,
)
from utils.errors import UserError

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "SAM": SAM, "LookSAM": LookSAM,
           "GSAM": GSAM, "FriendlySAM": FriendlySAM, "AWP": AWP}


def make_groups():
    return [{"params": [nn.Parameter(torch.ones(2))], "lr": 0.1}, {"params": [nn.Parameter(torch.ones(2))]}]


@pytest.mark.parametrize("name", ["OPTIMIZERS", "BASE_OPTIMIZERS", "SCHEDULERS", "LOSSES"])
def test_the_names_can_be_read_without_importing_torch(name):
    """Each registry is a literal, so that a parser of flags needs only the source."""
    tree = ast.parse(Path(optim.__file__).read_text(encoding="utf-8"))
    literal, = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == name)
    names = literal.keys if isinstance(literal, ast.Dict) else literal.elts
    assert [ast.literal_eval(each) for each in names] == list(getattr(optim, name))


def test_the_names_are_those_of_the_command_line():
    assert OPTIMIZERS == CLASSES
    assert BASE_OPTIMIZERS == ("sgd", "adam", "adamw")
    assert SCHEDULERS.keys() == {"poly", "step", "cosine"}
    assert LOSSES.keys() == {"cross_entropy", "focal_loss", "ohem", "dice", "lovasz"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_build_optimizer(name):
    groups = make_groups()
    optimizer = build_optimizer(name, groups, lr=1.0, weight_decay=0.5)
    assert type(optimizer) is CLASSES[name]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["params"] for group in optimizer.param_groups] == [group["params"] for group in groups]
    assert groups[1].keys() == {"params"}
    if name in BASE_OPTIMIZERS:
        assert optimizer.defaults.keys().isdisjoint({"rho", "sam_step"})
    if not name.startswith("adam"):
        assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize(("name", "own"), [
    ("SAM", {"rho": 0.3, "adaptive": True, "eta": 0.01, "start_step": 4, "interval": 3}),
    ("LookSAM", {"rho": 0.3, "alpha": 0.5, "start_step": 4}),
    ("GSAM", {"rho": 0.3, "alpha": 0.5, "interval": 2}),
    ("FriendlySAM", {"rho": 0.3, "sigma": 0.5, "decay": 0.6}),
    ("AWP", {"gamma": 0.3, "start_step": 4}),
])
def test_sam_methods_get_their_own_keywords(name, own):
    model = nn.BatchNorm2d(2)
    groups = make_groups()
    optimizer = build_optimizer(name, groups, lr=1.0, weight_decay=0.0, momentum=0.5, model=model,
                                unperturbed=groups[0]["params"], **own)
    assert type(optimizer.base_optimizer) is torch.optim.SGD
    assert optimizer.model is model
    assert optimizer.unperturbed == set(groups[0]["params"])
    in_groups = {"rho": 0.3, "momentum": 0.5} | {key: own[key] for key in ("adaptive", "eta") if key in own}
    for key, value in in_groups.items():
        assert optimizer.param_groups[1][key] == value
    for key in own.keys() - in_groups.keys() - {"gamma"}:
        assert getattr(optimizer, key) == own[key]


def test_sam_can_wrap_adam_which_takes_no_momentum():
    optimizer = build_optimizer("GSAM", make_groups(), lr=1.0, weight_decay=0.5, base_optimizer="adam")
    assert type(optimizer.base_optimizer) is torch.optim.Adam
    assert optimizer.param_groups[1]["weight_decay"] == 0.5


@pytest.mark.parametrize("name", BASE_OPTIMIZERS)
def test_a_plain_optimizer_rejects_keywords_of_sam(name):
    for keywords in ({"rho": 0.1}, {"foreach": False}):  # torch's own would accept the second
        with pytest.raises(TypeError, match=f"{name} does not accept {next(iter(keywords))}"):
            build_optimizer(name, make_groups(), lr=1.0, weight_decay=0.0, **keywords)


@pytest.mark.parametrize("name", ["SGD", "SAM"])
def test_the_error_for_an_unknown_base_lists_the_known_ones(name):
    with pytest.raises(UserError, match="sgd, adam, adamw$"):
        build_optimizer("SAM", make_groups(), lr=1.0, weight_decay=0.0, base_optimizer=name)


@pytest.mark.parametrize(("build", "known"), [
    (lambda: build_optimizer("sam", make_groups(), lr=1.0, weight_decay=0.0), OPTIMIZERS),
    (lambda: build_scheduler("exp", None, total_itrs=1), SCHEDULERS),
    (lambda: build_loss("hinge"), LOSSES),
], ids=["optimizer", "scheduler", "loss"])
def test_the_error_for_an_unknown_name_lists_the_known_ones(build, known):
    with pytest.raises(UserError, match=", ".join(known)):
        build()
