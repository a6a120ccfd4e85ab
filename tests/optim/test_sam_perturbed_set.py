"""Which parameters are perturbed and how far: SAM-ON's filter, per-group rho and `radius`."""
import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from optim import AWP, SAM, norm_parameters

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1}


def test_norm_parameters_are_those_of_every_normalisation_layer():
    model = nn.ModuleDict({
        "conv": nn.Conv2d(4, 4, 1), "batch": nn.BatchNorm2d(4), "sync": nn.SyncBatchNorm(4), "one": nn.BatchNorm1d(4),
        "group": nn.GroupNorm(2, 4), "layer": nn.LayerNorm(4), "instance": nn.InstanceNorm2d(4, affine=True),
        "bare": nn.InstanceNorm2d(4), "still": nn.BatchNorm2d(4, affine=False), "linear": nn.Linear(4, 4),
    })
    norm, others = norm_parameters(model)
    names = {p: name for name, p in model.named_parameters()}
    layers = ["batch", "sync", "one", "group", "layer", "instance"]
    assert [names[p] for p in norm] == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert [names[p] for p in others] == ["conv.weight", "conv.bias", "linear.weight", "linear.bias"]


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("only_norm", [True, False])
def test_unperturbed_parameters_stay_and_the_others_move_by_rho(only_norm, foreach, make_net, batches, make_closure):
    net = make_net().double()
    images, labels = batches[0][0].double(), batches[0][1]
    norm, others = norm_parameters(net)
    moving, still = (norm, others) if only_norm else (others, norm)
    optimizer = SAM(net.parameters(), rho=0.05, model=net, unperturbed=iter(still), foreach=foreach, **SGD)
    before = {p: p.detach().clone() for p in net.parameters()}
    seen = []
    net.register_forward_hook(lambda *_: seen.append({p: p.detach().clone() for p in net.parameters()}))
    optimizer.step(make_closure(net, (images, labels)))
    assert len(seen) == 2
    assert all(torch.equal(seen[1][p], before[p]) for p in still)
    length = np.sqrt(sum(((seen[1][p] - before[p]) ** 2).sum().item() for p in moving))
    assert length == pytest.approx(0.05, rel=1e-12)
    assert optimizer.radius.item() == pytest.approx(0.05, rel=1e-12)
    assert not torch.equal(still[0], before[still[0]])  # the base step changes it nevertheless


def test_the_filter_is_copied_but_not_saved(make_net, batches, make_closure, assert_same):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.5, model=net, unperturbed=norm_parameters(net)[1], **SGD)
    copies = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for twin, copied in copies:
        assert copied.unperturbed == set(norm_parameters(twin)[1])
        torch.manual_seed(0)
        copied.step(make_closure(twin, batches[0]))
    torch.manual_seed(0)
    optimizer.step(make_closure(net, batches[0]))
    for twin, _ in copies:
        assert_same(twin.state_dict(), net.state_dict())
    SAM(net.parameters(), rho=0.5, **SGD).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("kind", "options"), [
    (SAM, {}), (SAM, {"adaptive": True}), (SAM, {"adaptive": True, "eta": 0.1}), (AWP, {}),
])
@pytest.mark.parametrize("filtered", [False, True])
def test_radius_is_the_length_of_e(filtered, kind, options, foreach, bowl):
    """Compared with the distance between the weights, for groups with different rho."""
    groups = [{"params": bowl.params[:1], "rho": 0.7}, {"params": bowl.params[1:]}]
    size = {"gamma": 0.2} if kind is AWP else {"rho": 0.2}
    unperturbed = [bowl.params[0]] if filtered else []
    optimizer = kind(groups, unperturbed=unperturbed, foreach=foreach, **size, **options, **SGD)
    assert optimizer.radius is None
    for t in range(3):
        before = bowl.weights()
        bowl.closure(t)()
        optimizer.first_step()
        assert optimizer.radius.item() == pytest.approx(np.linalg.norm(bowl.weights() - before), rel=1e-10)
        assert optimizer.radius.ndim == 0 and optimizer.radius.dtype == torch.float64
        optimizer.second_step(zero_grad=True)


def test_radius_of_plain_sam_is_rho(make_net, batches, make_closure):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.05, model=net, **SGD)
    optimizer.step(make_closure(net, batches[0]))
    assert optimizer.radius.item() == pytest.approx(0.05, rel=1e-6)
    assert copy.deepcopy(optimizer).radius is None


@pytest.mark.parametrize("last", ["plain", "zero", "infinite", "no closure"])
def test_radius_is_none_after_a_step_that_did_not_perturb(last, bowl):
    optimizer = SAM(bowl.params, rho=0.3, interval=2 if last == "plain" else 1, **SGD)
    optimizer.step(bowl.closure(0))
    assert optimizer.radius is not None
    factor = {"zero": 0.0, "infinite": torch.inf}.get(last, 1.0)

    def scaled():
        bowl.closure(1)()
        for p in bowl.params:
            p.grad.mul_(factor)

    optimizer.step(None if last == "no closure" else scaled)
    assert optimizer.radius is None
