"""The weights are always restored: properties 9-13 and 34 of notes/sam.md."""
import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from optim import SAM, cross_entropy


def make_param(dtype=torch.float32, grad=1.0):
    p = nn.Parameter(torch.linspace(-3, 3, 1001).to(dtype))
    p.grad = torch.linspace(-1, 2, 1001).to(dtype) * grad
    return p


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_9_restore_is_exact_in_place_and_idempotent(dtype, foreach):
    p = make_param(dtype)
    optimizer = SAM([p], torch.optim.SGD, rho=0.3, foreach=foreach, lr=0.1)
    before, address = p.detach().clone(), p.data_ptr()
    optimizer.first_step()
    assert optimizer.perturbed
    assert not torch.equal(p, before)
    for _ in range(2):
        optimizer.restore()
        assert not optimizer.perturbed
        assert torch.equal(p, before)
        assert p.data_ptr() == address


def test_9_no_parameter_moves_in_memory_over_steps(make_net, batches, train):
    net = make_net()
    addresses = [p.data_ptr() for p in net.parameters()]
    train(net, SAM(net.parameters(), torch.optim.SGD, rho=0.1, model=net, lr=0.1), batches[:2])
    assert [p.data_ptr() for p in net.parameters()] == addresses


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_10_a_first_gradient_that_is_not_finite_changes_nothing(
    bad, adaptive, make_net, batches, make_closure, snapshot, assert_same, caplog
):
    net = make_net()
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.1, adaptive=adaptive, model=net, lr=0.1, momentum=0.9)
    closure = make_closure(net, batches[0])
    optimizer.step(closure)
    before = snapshot(net)
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in net.parameters()]

    def poisoned():
        loss = closure()
        net.conv.weight.grad[0, 0, 0, 0] = bad
        return loss

    net.eval()  # so that BatchNorm statistics don't change
    optimizer.step(poisoned)
    assert closure.calls == 3
    assert_same(net.state_dict(), before)
    for p, momentum in zip(net.parameters(), momenta, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
    assert "not finite" in caplog.text
    poisoned()
    assert not optimizer.first_step().isfinite()
    assert not optimizer.perturbed
    assert_same(net.state_dict(), before)


def test_10_a_second_gradient_that_is_not_finite_leaves_w_after_restore(make_net, batches, snapshot, assert_same):
    net = make_net().eval()
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    before = snapshot(net)
    cross_entropy(net(batches[0][0]), batches[0][1]).backward()
    optimizer.first_step(zero_grad=True)
    (cross_entropy(net(batches[0][0]), batches[0][1]) * float("nan")).backward()
    optimizer.restore()
    assert_same(net.state_dict(), before)


def test_10_a_zero_gradient_is_a_plain_base_step():
    p = nn.Parameter(torch.ones(3))
    optimizer = SAM([p], torch.optim.SGD, rho=0.1, lr=0.1, weight_decay=1.0)
    calls = []
    optimizer.step(lambda: calls.append((p * 0).sum().backward()))
    assert len(calls) == 1
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))


def test_11_a_gradient_in_one_pass_only():
    first, second, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = SAM([first, second, frozen], torch.optim.SGD, rho=0.5, lr=0.1)
    (first * 2).sum().backward()
    optimizer.first_step(zero_grad=True)
    assert not torch.equal(first, torch.ones(2))
    assert torch.equal(second, torch.ones(2))
    (second * 3).sum().backward()
    optimizer.second_step()
    assert torch.equal(first, torch.ones(2))
    torch.testing.assert_close(second.detach(), torch.full((2,), 0.7))
    assert torch.equal(frozen, torch.ones(2))


def test_11_no_gradient_at_all_is_allowed():
    p = nn.Parameter(torch.ones(2))
    optimizer = SAM([p], torch.optim.SGD, rho=0.5, lr=0.1)
    assert optimizer.first_step() is None
    optimizer.second_step()
    optimizer.step(lambda: None)
    assert torch.equal(p, torch.ones(2))


def test_12_an_error_in_the_second_pass_leaves_all_as_it_was(make_net, batches, make_closure, snapshot):
    net = make_net()
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.1, model=net, lr=0.1)
    closure = make_closure(net, batches[0])
    before = snapshot(net)

    def failing():
        closure()
        if closure.calls == 2:
            assert not net.norm.track_running_stats
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert not optimizer.perturbed
    assert net.norm.track_running_stats
    assert net.norm.momentum == 0.1
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]), name
    optimizer.step(closure)


@pytest.mark.parametrize("forbidden", [
    lambda optimizer: optimizer.first_step(),
    lambda optimizer: optimizer.state_dict(),
    lambda optimizer: optimizer.load_state_dict({}),
    lambda optimizer: copy.deepcopy(optimizer),
    lambda optimizer: optimizer.step(lambda: None),
], ids=["first_step", "state_dict", "load_state_dict", "deepcopy", "closure"])
def test_13_calls_that_need_unperturbed_weights_raise_an_error(forbidden):
    optimizer = SAM([make_param()], torch.optim.SGD, rho=0.1, lr=0.1)
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="perturbed"):
        forbidden(optimizer)
    assert optimizer.perturbed


@pytest.mark.parametrize("bad", [{"rho": -0.1}, {"rho": float("nan")}, {"eta": -1.0}, {"eta": float("nan")}])
def test_invalid_values_are_errors(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SAM([make_param()], torch.optim.SGD, lr=0.1, **bad)
    with pytest.raises(ValueError, match=next(iter(bad))):
        SAM([{"params": [make_param()], **bad}], torch.optim.SGD, lr=0.1)
    optimizer = SAM([make_param()], torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=next(iter(bad))):
        optimizer.add_param_group({"params": [make_param()], **bad})
    assert len(optimizer.param_groups) == 1


def test_a_tiny_half_precision_gradient_does_not_overflow():
    p = make_param(torch.float16, grad=1e-7)
    SAM([p], torch.optim.SGD, rho=0.5, lr=0.1).first_step()
    assert p.isfinite().all()


@pytest.mark.parametrize("adaptive", [False, True])
def test_34_the_copy_of_the_weights_exists_only_while_they_are_perturbed(adaptive):
    p = make_param()
    optimizer = SAM([p], torch.optim.SGD, rho=0.1, adaptive=adaptive, lr=0.1)
    optimizer.first_step()
    [(_, [saved])] = optimizer._backup
    alive = weakref.ref(saved)
    del saved
    optimizer.second_step()
    assert alive() is None
    gc.collect()
    kept = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == p.shape and t is not p.grad]
    assert not kept
