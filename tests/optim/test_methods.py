"""SAM and every method derived from it: properties 10, 12 and 17-19 of notes/sam.md."""
import copy
import pickle

import pytest
import torch

from optim import AWP, GSAM, SAM, FriendlySAM, LookSAM

METHODS = {
    "SAM": (SAM, {"rho": 0.1, "interval": 3}), "LookSAM": (LookSAM, {"rho": 0.1, "interval": 3}),
    "GSAM": (GSAM, {"rho": 0.1, "alpha": 0.3}), "FriendlySAM": (FriendlySAM, {"rho": 0.1, "sigma": 0.8}),
    "AWP": (AWP, {"gamma": 0.05}),
}
MEMORIES = {"LookSAM": "looksam_direction", "FriendlySAM": "friendly_mean"}
BASES = {
    "sgd": {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"base_optimizer": torch.optim.Adam, "lr": 0.01},
}
every_method = pytest.mark.parametrize("name", METHODS)
every_base = pytest.mark.parametrize("base", BASES)


@pytest.fixture
def build():
    """A function that builds a method over two groups of a network."""

    def make(name, net, base="sgd", **options):
        kind, own = METHODS[name]
        groups = [{"params": [*net.head.parameters()]}, {"params": [*net.conv.parameters(), *net.norm.parameters()]}]
        return kind(groups, model=net, **own, **options, **BASES[base])

    return make


@every_base
@every_method
def test_17_a_resumed_run_equals_an_uninterrupted_one(
    name, base, build, make_net, batches, train, assert_same, through_a_file
):
    whole = make_net()
    optimizer = build(name, whole, base, start_step=1, unperturbed=[whole.head.weight])
    train(whole, optimizer, batches[:10])
    first = make_net()
    optimizer = build(name, first, base, start_step=1, unperturbed=[first.head.weight])
    train(first, optimizer, batches[:6])  # for LookSAM, stop in the middle of an interval
    saved = through_a_file([first.state_dict(), optimizer.state_dict(), torch.get_rng_state()])
    second = make_net(seed=99)
    optimizer = build(name, second, base, start_step=1, unperturbed=[second.head.weight])
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    train(second, optimizer, batches[6:10])
    assert_same(second.state_dict(), whole.state_dict())


@every_base
@every_method
def test_18_a_memory_is_saved_under_its_own_key_unless_empty(name, base, build, make_net, batches, train):
    net = make_net()
    optimizer = build(name, net, base)
    assert optimizer.state_dict().keys() == {"state", "param_groups"}
    train(net, optimizer, batches[:2])
    state = optimizer.state_dict()
    assert state.keys() - {"state", "param_groups"} == ({MEMORIES[name]} if name in MEMORIES else set())
    assert len({frozenset(entry) for entry in state["state"].values()}) == 1
    assert not any("direction" in key or "mean" in key for entry in state["state"].values() for key in entry)
    if name in MEMORIES:
        assert {i: value.shape for i, value in state[MEMORIES[name]].items()} == {
            i: p.shape for i, p in enumerate([*net.head.parameters(), *net.conv.parameters(), *net.norm.parameters()])}


@pytest.mark.parametrize("other", METHODS)
@every_method
def test_18_checkpoints_of_all_methods_and_of_the_base_interchange(name, other, build, make_net, batches, train):
    net = make_net()
    optimizer, second = build(name, net), build(other, net)
    train(net, optimizer, batches[:2])
    second.load_state_dict(optimizer.state_dict())
    assert bool(second.memory) == (name == other and name in MEMORIES)
    for p in net.parameters():
        assert torch.equal(second.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"])
        if second.memory:
            assert torch.equal(second.memory[p], optimizer.memory[p])
            assert second.memory[p] is not optimizer.memory[p]
    torch.optim.SGD([{"params": group["params"]} for group in optimizer.param_groups], lr=0.1).load_state_dict(
        optimizer.state_dict())
    train(net, second, batches[2:3])


def test_17_a_memory_comes_back_in_the_type_of_its_parameter(build, make_net, batches, train):
    net, wide = make_net(), make_net().double()
    optimizer, loaded = build("FriendlySAM", net), build("FriendlySAM", wide)
    train(net, optimizer, batches[:2])
    loaded.load_state_dict(optimizer.state_dict())
    assert {loaded.memory[p].dtype for p in wide.parameters()} == {torch.float64}


@every_base
@every_method
def test_19_copies_continue_training_like_the_original(name, base, build, make_net, batches, train, assert_same):
    net = make_net()
    optimizer = build(name, net, base, unperturbed=[net.conv.bias])
    train(net, optimizer, batches[:2])
    pairs = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer))), (net, optimizer)]
    for each in pairs:
        assert each[1].model is each[0]
        assert each[1].unperturbed == {each[0].conv.bias}
        assert each[1].memory.keys() <= set(each[0].parameters())
        torch.manual_seed(1)
        train(*each, batches[2:6])
    assert not torch.equal(net.conv.weight, make_net().conv.weight)
    for each in pairs[:2]:
        assert_same(each[0].state_dict(), net.state_dict())


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@every_base
@every_method
def test_10_a_first_gradient_that_is_not_finite_changes_nothing(
    name, base, bad, build, make_net, batches, train, make_closure, snapshot, assert_same, caplog
):
    net = make_net().eval()  # so that BatchNorm statistics don't change
    optimizer = build(name, net, base)
    train(net, optimizer, batches[:3])
    assert optimizer.active
    before = snapshot(net), copy.deepcopy(optimizer.state_dict())
    closure = make_closure(net, batches[3])

    def poisoned():
        loss = closure()
        net.conv.weight.grad[0, 0, 0, 0] = bad
        return loss

    optimizer.step(poisoned)
    after = optimizer.state_dict()
    assert closure.calls == 1
    assert "not finite" in caplog.text
    assert optimizer.radius is None
    assert_same(net.state_dict(), before[0])
    for part in after.keys() - {"param_groups"}:
        torch.testing.assert_close(after[part], before[1][part], rtol=0, atol=0)


@every_method
def test_12_an_error_in_the_second_pass_leaves_all_as_it_was(name, build, make_net, batches, train, make_closure,
                                                             snapshot):
    net = make_net()
    optimizer = build(name, net)
    train(net, optimizer, batches[:3])
    before, closure = snapshot(net), make_closure(net, batches[3])
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in net.parameters()]
    directions = {p: value.clone() for p, value in optimizer.memory.items()} if name == "LookSAM" else {}

    def failing():
        closure()
        if closure.calls == 2:
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimizer.step(failing)
    assert not optimizer.perturbed
    assert net.norm.track_running_stats
    for (key, p), momentum in zip(net.named_parameters(), momenta, strict=True):
        assert torch.equal(p, before[key])
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
    assert all(torch.equal(optimizer.memory[p], value) for p, value in directions.items())
