"""State, resume and late start: properties 17-20 of notes/sam.md."""
import copy
import pickle

import pytest
import torch

from optim import SAM, PolyLR, cross_entropy, second_pass

BASES = {
    "sgd": {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"base_optimizer": torch.optim.Adam, "lr": 0.01},
    "adamw": {"base_optimizer": torch.optim.AdamW, "lr": 0.01},
}


def assert_aliases(optimizer):
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert optimizer.state is optimizer.base_optimizer.state
    assert all({"rho", "adaptive", "eta", "sam_step", "lr"} <= group.keys() for group in optimizer.param_groups)


@pytest.mark.parametrize("start_step", [0, 7])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_17_a_resumed_run_equals_an_uninterrupted_one(base, start_step, make_net, batches, train, assert_same,
                                                          through_a_file):
    def build(net):
        optimizer = SAM(net.parameters(), rho=0.1, model=net, start_step=start_step, **base)
        return optimizer, PolyLR(optimizer, 20)

    def go(net, optimizer, schedule, part):
        for batch in part:
            train(net, optimizer, [batch])
            schedule.step()

    whole = make_net()
    optimizer, schedule = build(whole)
    go(whole, optimizer, schedule, batches[:10])

    first = make_net()
    optimizer, schedule = build(first)
    go(first, optimizer, schedule, batches[:5])
    saved = through_a_file([first.state_dict(), optimizer.state_dict(), schedule.state_dict(), torch.get_rng_state()])

    second = make_net(seed=99)
    optimizer, schedule = build(second)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    schedule.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    go(second, optimizer, schedule, batches[5:10])
    assert_same(second.state_dict(), whole.state_dict())
    assert optimizer.active


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_18_checkpoints_of_base_and_sam_interchange(base, make_net, batches, train, assert_same):
    net = make_net()
    kwargs = {key: value for key, value in base.items() if key != "base_optimizer"}
    plain = base["base_optimizer"](net.parameters(), **kwargs)
    cross_entropy(net(batches[0][0]), batches[0][1]).backward()
    plain.step()
    sam = SAM(net.parameters(), rho=0.3, adaptive=True, eta=0.01, **base)
    sam.load_state_dict(plain.state_dict())
    assert_aliases(sam)
    assert [sam.param_groups[0][key] for key in ("rho", "adaptive", "eta", "sam_step")] == [0.3, True, 0.01, 0]
    for p in net.parameters():
        assert sam.state[p].keys() == plain.state[p].keys()
        for key, value in plain.state[p].items():
            assert torch.equal(sam.state[p][key], value)
    train(net, sam, batches[1:3])
    other = copy.deepcopy(net)
    back = base["base_optimizer"](other.parameters(), **kwargs)
    back.load_state_dict(copy.deepcopy(sam.state_dict()))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        q.grad = p.grad.clone()
    back.step()
    sam.step()  # without a closure: a plain base step
    assert_same(net.state_dict(), other.state_dict())


def test_18_the_state_dict_is_the_base_optimizers_and_holds_no_weights(make_net, batches, train):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.1, model=net, **BASES["sgd"])
    train(net, optimizer, batches[:2])
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    assert all(entry.keys() == {"momentum_buffer"} for entry in state["state"].values())
    assert state["param_groups"][0]["sam_step"] == 2


def test_18_the_weights_in_sam_at_checkpoints_are_dropped(make_net, batches, train):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.1, **BASES["adam"])
    old = optimizer.state_dict()
    old["state"] = {i: {"old_p": p.detach().clone()} for i, p in enumerate(net.parameters())}
    old["param_groups"][0] = {key: old["param_groups"][0][key] for key in ("params", "lr", "betas", "eps", "rho")} | {
        "weight_decay": 0, "amsgrad": False, "maximize": False, "adaptive": False,
    }
    optimizer.load_state_dict(old)
    assert not any(optimizer.state.values())
    train(net, optimizer, batches[:1])


def test_19_groups_and_state_are_the_base_optimizers_own(make_net, batches, train):
    net = make_net()
    optimizer = SAM([{"params": net.conv.parameters(), "rho": 0.2}], rho=0.1, **BASES["sgd"])
    assert_aliases(optimizer)
    optimizer.add_param_group({"params": [*net.norm.parameters(), *net.head.parameters()]})
    assert_aliases(optimizer)
    assert [group["rho"] for group in optimizer.param_groups] == [0.2, 0.1]
    train(net, optimizer, batches[:2])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_aliases(optimizer)
    PolyLR(optimizer, 10)  # which wraps step() on the instance
    for copied_net, copied in (copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))):
        assert_aliases(copied)
        train(copied_net, copied, batches[2:4])
        assert copied.param_groups[1]["sam_step"] == 4
        assert not any(torch.equal(p, q) for p, q in zip(net.parameters(), copied_net.parameters(), strict=True))


def test_19_a_copy_continues_training_like_the_original(make_net, batches, train, assert_same):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.1, model=net, **BASES["adam"])
    train(net, optimizer, batches[:2])
    copied_net, copied = copy.deepcopy((net, optimizer))
    assert copied.model is copied_net
    for each in ((net, optimizer), (copied_net, copied)):
        torch.manual_seed(1)
        train(*each, batches[2:5])
    assert_same(net.state_dict(), copied_net.state_dict())


@pytest.mark.parametrize("start_step", [0, 3, 6])
def test_20_a_late_start_keeps_momentum_and_learning_rate(start_step, make_net, batches, train, assert_same):
    """Compares one SAM object with scheduled SGD that runs the two passes explicitly from `start_step` on."""
    net, reference = make_net(), make_net()
    optimizer = SAM(net.parameters(), rho=0.1, model=net, start_step=start_step, **BASES["sgd"])
    schedule = PolyLR(optimizer, 6)
    torch.manual_seed(2)
    for itr in range(6):
        assert optimizer.active == (itr >= start_step)
        train(net, optimizer, [batches[itr]])
        schedule.step()

    sgd = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    torch.manual_seed(2)
    for itr, (images, labels) in enumerate(batches[:6]):
        sgd.param_groups[0]["lr"] = max(0.1 * (1 - itr / 6) ** 0.9, 1e-6)
        random_state = torch.get_rng_state()
        sgd.zero_grad()
        cross_entropy(reference(images), labels).backward()
        if itr >= start_step:
            params = list(reference.parameters())
            before = [p.detach().clone() for p in params]
            length = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in params]))
            with torch.no_grad():
                for p in params:
                    p.add_(p.grad, alpha=0.1 / length.item())
            sgd.zero_grad()
            torch.set_rng_state(random_state)
            with second_pass(reference):
                cross_entropy(reference(images), labels).backward()
            with torch.no_grad():
                for p, old in zip(params, before, strict=True):
                    p.copy_(old)
        sgd.step()
    assert_same(net.state_dict(), reference.state_dict())


def test_an_instance_as_base_is_wrapped_as_it_is(make_net, batches, train):
    net = make_net()
    base = torch.optim.Adam(net.parameters(), lr=0.01, eps=1e-3)
    optimizer = SAM(net.parameters(), base, rho=0.2)
    assert optimizer.base_optimizer is base
    assert_aliases(optimizer)
    assert (base.param_groups[0]["rho"], base.param_groups[0]["eps"]) == (0.2, 1e-3)
    train(net, optimizer, batches[:2])
    with pytest.raises(TypeError, match="momentum"):
        SAM(net.parameters(), base, momentum=0.9)
    with pytest.raises(ValueError, match="not those of the base"):
        SAM(net.conv.parameters(), base)
