"""Several closures in a step: micro-batches, each with its own e: property 24 of notes/sam.md."""
import copy

import numpy as np
import pytest
import torch

from optim import SAM, RandomState, cross_entropy, second_pass

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_24_the_step_is_from_the_sum_of_the_micro_batches_sam_gradients(count, adaptive, bowl):
    optimizer = SAM(bowl.params, rho=0.3, adaptive=adaptive, **SGD)

    def gradient(w, t):
        total = 0.0
        for micro in range(t * count, (t + 1) * count):
            grad, scale = bowl.grad(w, micro), np.ones(14)
            if adaptive:
                scale[:10] = np.abs(w[:10])
            total = total + bowl.grad(w + 0.3 * scale**2 * grad / np.linalg.norm(scale * grad), micro)
        return total

    for t in range(4):
        w = bowl.weights()
        loss = optimizer.step([bowl.closure(micro) for micro in range(t * count, (t + 1) * count)])
        expected = sum(bowl.loss(w, micro) for micro in range(t * count, (t + 1) * count))
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        assert not loss.requires_grad
    np.testing.assert_allclose(bowl.weights(), bowl.descend(gradient, 4), rtol=0, atol=1e-12)


def test_24_each_micro_batch_has_its_own_dropout_and_one_count_in_batchnorm(make_net, batches, make_closure):
    """Compared with passes written out, in float64, for a network with BatchNorm and dropout."""
    net = make_net().double()
    micro = [(images.double(), labels) for images, labels in batches[:3]]
    reference = copy.deepcopy(net)
    torch.manual_seed(4)
    SAM(net.parameters(), rho=0.1, model=net, **SGD).step([make_closure(net, batch) for batch in micro])
    torch.manual_seed(4)
    params = list(reference.parameters())
    before, total = [p.detach().clone() for p in params], [torch.zeros_like(p) for p in params]
    for images, labels in micro:
        state = RandomState([])
        grads = torch.autograd.grad(cross_entropy(reference(images), labels), params)
        length = sum((g**2).sum() for g in grads).sqrt()
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p.add_(0.1 * g / length)
        with second_pass(reference, state):
            grads = torch.autograd.grad(cross_entropy(reference(images), labels), params)
        with torch.no_grad():
            for p, w, t, g in zip(params, before, total, grads, strict=True):
                p.copy_(w)
                t.add_(g)
    for p, t in zip(params, total, strict=True):
        p.grad = t
    torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.01).step()
    assert net.norm.num_batches_tracked == 3
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("start_step", [0, 2])
def test_24_a_list_of_one_is_the_closure_itself(start_step, make_net, batches, make_closure, assert_same):
    nets = make_net(), make_net()
    for net, wrap in zip(nets, (lambda closure: closure, lambda closure: [closure]), strict=True):
        optimizer = SAM(net.parameters(), rho=0.1, model=net, start_step=start_step, **SGD)
        torch.manual_seed(1)
        losses = [optimizer.step(wrap(make_closure(net, batch))) for batch in batches[:4]]
        assert all(isinstance(loss, torch.Tensor) for loss in losses)
    assert_same(nets[0].state_dict(), nets[1].state_dict())


def test_24_while_sam_is_not_active_gradients_are_summed_as_usual(make_net, batches, make_closure, assert_same):
    """Bit for bit, although each closure zeroes the gradients first, as the trainer's does."""
    nets = make_net(), make_net()
    optimizer = SAM(nets[0].parameters(), rho=0.1, model=nets[0], start_step=9, **SGD)
    plain = torch.optim.SGD(nets[1].parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)

    def zeroing(closure):
        def run():
            optimizer.zero_grad()
            return closure()

        return run

    for net in nets:
        torch.manual_seed(1)
        for part in (batches[:3], batches[3:6]):
            closures = [make_closure(net, batch) for batch in part]
            if net is nets[0]:
                optimizer.step([zeroing(closure) for closure in closures])
                assert [closure.calls for closure in closures] == [1, 1, 1]
            else:
                plain.zero_grad()
                for closure in closures:
                    closure()
                plain.step()
    assert_same(nets[0].state_dict(), nets[1].state_dict())


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_24_a_gradient_that_is_not_finite_in_any_of_them_takes_no_step(bad, bowl, caplog):
    optimizer = SAM(bowl.params, rho=0.3, **SGD)
    optimizer.step(bowl.closure(0))
    before = bowl.weights().copy()
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in bowl.params]

    def poisoned():
        loss = bowl.closure(1)()
        bowl.params[1].grad[0, 0] = torch.nan
        return loss

    optimizer.step([poisoned if micro == bad else bowl.closure(micro) for micro in range(3)])
    assert "not finite" in caplog.text
    assert (bowl.weights() == before).all()
    for p, momentum in zip(bowl.params, momenta, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)


def test_24_a_parameter_that_only_one_micro_batch_uses():
    used, shared = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = SAM([used, shared], torch.optim.SGD, rho=0.1, lr=1.0)
    optimizer.step([lambda: _descend((2 * used + shared).sum()), lambda: _descend(shared.sum())])
    assert used.tolist() == [-1.0, -1.0]
    assert shared.tolist() == [-1.0, -1.0]
    with pytest.raises(ValueError, match="0 closures"):
        optimizer.step([])


def _descend(loss):
    loss.backward()
    return loss
