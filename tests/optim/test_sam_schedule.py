"""Which steps perturb, and how steps are counted: property 29 of notes/sam.md."""
import pytest
import torch
from torch import nn

from optim import SAM, second_pass

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}


@pytest.mark.parametrize(("start_step", "interval", "perturbing"), [
    (0, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8}), (0, 3, {0, 3, 6}), (2, 3, {2, 5, 8}), (1, 4, {1, 5}), (7, 2, {7}),
])
def test_29_passes_are_counted(start_step, interval, perturbing, make_net, batches, make_closure):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.1, model=net, start_step=start_step, interval=interval, **SGD)
    for itr in range(9):
        closure = make_closure(net, batches[itr])
        assert optimizer.active == (itr in perturbing)
        optimizer.step(closure)
        assert closure.calls == (2 if itr in perturbing else 1)
        assert (optimizer.radius is not None) == (itr in perturbing)


def test_29_interval_k_costs_k_plus_one_passes_in_k_steps(make_net, batches, make_closure):
    net = make_net()
    closure = make_closure(net, batches[0])
    optimizer = SAM(net.parameters(), rho=0.1, interval=4, **SGD)
    for _ in range(12):
        optimizer.step(closure)
    assert closure.calls == 12 * 5 / 4


@pytest.mark.parametrize("start_step", [0, 2])
def test_29_equals_sam_and_plain_steps_written_out(start_step, bowl):
    optimizer = SAM(bowl.params, rho=0.3, start_step=start_step, interval=3,
                    base_optimizer=torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)

    def gradient(w, t):
        grad = bowl.grad(w, t)
        if t >= start_step and (t - start_step) % 3 == 0:
            return bowl.grad(w + 0.3 * grad / (grad @ grad) ** 0.5, t)
        return grad

    for t in range(10):
        optimizer.step(bowl.closure(t))
    assert bowl.weights() == pytest.approx(bowl.descend(gradient, 10), rel=0, abs=1e-12)


def test_29_the_two_step_loop_is_plain_between_sam_steps_too(bowl):
    optimizer = SAM(bowl.params, rho=0.3, interval=2, **SGD)
    perturbed = []
    for t in range(4):
        bowl.closure(t)()
        optimizer.first_step()
        perturbed.append(optimizer.perturbed)
        optimizer.second_step(zero_grad=True)
    assert perturbed == [True, False, True, False]


@pytest.mark.parametrize("interval", [0, -1])
def test_29_an_interval_below_one_is_an_error(interval):
    with pytest.raises(ValueError, match="interval"):
        SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1, interval=interval)


@pytest.mark.parametrize("failing_pass", [1, 2])
@pytest.mark.parametrize("as_list", [False, True])
def test_sam_step_counts_every_call(as_list, failing_pass, bowl):
    """Also with a gradient that is not finite and a closure that raises: sam_step is the caller's iteration."""
    second_group = [nn.Parameter(torch.ones(2))]
    optimizer = SAM([{"params": bowl.params}, {"params": second_group}], rho=0.3, **SGD)
    good, calls = bowl.closure(0), []

    def wrapped(closure):
        return [good, closure] if as_list else closure

    def infinite():
        loss = good()
        bowl.params[0].grad[0, 0] = torch.inf
        return loss

    def failing():
        calls.append(good())
        if len(calls) == failing_pass:
            raise FloatingPointError
        return calls[-1]

    def counted():
        return {group["sam_step"] for group in optimizer.param_groups}

    optimizer.step(good)
    assert counted() == {1}
    before = bowl.weights().copy()
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in bowl.params]
    optimizer.step(wrapped(infinite))
    assert counted() == {2}
    with pytest.raises(FloatingPointError):
        optimizer.step(wrapped(failing))
    assert counted() == {3}
    assert not optimizer.perturbed
    assert (bowl.weights() == before).all()
    for p, momentum in zip(bowl.params, momenta, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
    optimizer.step()
    assert counted() == {4}


@pytest.mark.parametrize("as_list", [False, True])
def test_12_an_error_in_any_pass_leaves_flags_weights_and_later_steps(as_list, make_net, batches, make_closure,
                                                                      assert_same):
    """After a step that fails in its last pass, the next step acts as if only a forward pass at w had run."""
    nets = make_net(), make_net()
    for net in nets:
        net.drop.p = 0.0
    optimizers = [SAM(net.parameters(), rho=0.1, model=net, **SGD) for net in nets]
    closure, reference = make_closure(nets[0], batches[0]), make_closure(nets[1], batches[0])
    count = 2 if as_list else 1

    def failing():
        closure()
        if closure.calls == 2 * count:
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimizers[0].step([closure, failing] if as_list else failing)
    assert nets[0].norm.track_running_stats
    assert not optimizers[0].state
    for _ in range(count):
        nets[1](batches[0][0])
    for net, optimizer, each in zip(nets, optimizers, (closure, reference), strict=True):
        optimizer.step([each, each] if as_list else each, model=net)
    assert_same(nets[0].state_dict(), nets[1].state_dict())
    with second_pass(nets[0]):
        assert not nets[0].norm.track_running_stats
