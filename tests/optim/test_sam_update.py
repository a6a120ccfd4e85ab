"""The update rule: properties 1-8 of notes/sam.md, against NumPy and explicit loops."""
import numpy as np
import pytest
import torch
from torch import nn

from optim import SAM, RandomState, cross_entropy, second_pass

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
ADAM = {"base_optimizer": torch.optim.Adam, "lr": 0.01}
ADAMW = {"base_optimizer": torch.optim.AdamW, "lr": 0.01}


def plain(net, base_optimizer, **kwargs):
    return base_optimizer(net.parameters(), **kwargs)


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def quadratic(dtype=torch.float64, size=5):
    """L(w) = w.A.w / 2 - b.w over a matrix-shaped and a vector-shaped parameter."""
    rng = np.random.default_rng(3)
    factor = rng.standard_normal((size, size))
    hessian, slope = factor @ factor.T / size + np.eye(size), rng.standard_normal(size)
    start = rng.standard_normal(size)
    matrix = nn.Parameter(torch.tensor(start[:4].reshape(2, 2), dtype=dtype))
    vector = nn.Parameter(torch.tensor(start[4:], dtype=dtype))

    def closure():
        w = torch.cat([matrix.flatten(), vector])
        loss = 0.5 * w @ torch.tensor(hessian, dtype=dtype) @ w - torch.tensor(slope, dtype=dtype) @ w
        loss.backward()
        return loss

    return [matrix, vector], closure, (hessian, slope, start)


@pytest.mark.parametrize("base", [SGD, ADAM, ADAMW], ids=["sgd", "adam", "adamw"])
def test_1_rho_zero_is_the_base_optimizer(base, make_net, batches, train, assert_same):
    nets = make_net(), make_net()
    optimizers = SAM(nets[0].parameters(), rho=0.0, model=nets[0], **base), plain(nets[1], **base)
    randoms = []
    for net, optimizer in zip(nets, optimizers, strict=True):
        torch.manual_seed(1)
        if isinstance(optimizer, SAM):
            train(net, optimizer, batches[:5])
        else:
            for images, labels in batches[:5]:
                optimizer.zero_grad()
                cross_entropy(net(images), labels).backward()
                optimizer.step()
        randoms.append(torch.rand(3))
    assert_same(nets[0].state_dict(), nets[1].state_dict())
    assert torch.equal(*randoms)


@pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])
def test_1_rho_zero_with_a_forced_second_pass_is_the_base_optimizer(base, make_net, batches, assert_same):
    nets = make_net(), make_net()
    optimizer, reference = SAM(nets[0].parameters(), rho=0.0, **base), plain(nets[1], **base)
    torch.manual_seed(1)
    for images, labels in batches[:5]:
        state = RandomState([torch.device("cpu")])
        cross_entropy(nets[0](images), labels).backward()
        optimizer.first_step(zero_grad=True)
        with second_pass(nets[0], state):
            cross_entropy(nets[0](images), labels).backward()
        optimizer.second_step(zero_grad=True)
    after = torch.rand(3)
    torch.manual_seed(1)
    for images, labels in batches[:5]:
        reference.zero_grad()
        cross_entropy(nets[1](images), labels).backward()
        reference.step()
    assert_same(nets[0].state_dict(), nets[1].state_dict())
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("foreach", [True, False])
def test_2_the_perturbation_has_length_rho_and_the_direction_of_the_gradient(foreach, make_net, batches):
    net = make_net()
    cross_entropy(net(batches[0][0]), batches[0][1]).backward()
    before, grad = flat(net.parameters()), flat(p.grad for p in net.parameters())
    norm = SAM(net.parameters(), torch.optim.SGD, rho=0.05, foreach=foreach, lr=0.1).first_step()
    moved = flat(net.parameters()) - before
    assert moved.norm().item() == pytest.approx(0.05, rel=1e-5)
    assert (moved @ grad / moved.norm() / grad.norm()).item() == pytest.approx(1, abs=1e-9)
    assert norm.item() == pytest.approx(grad.norm().item(), rel=1e-6)


def test_2_and_8_a_group_with_rho_zero_stays_and_is_not_in_the_norm(make_net, batches):
    net = make_net().double()
    images, labels = batches[0][0].double(), batches[0][1]
    rest = [*net.norm.parameters(), *net.head.parameters()]
    groups = [{"params": net.conv.parameters(), "rho": 0.0}, {"params": rest}]
    optimizer = SAM(groups, torch.optim.SGD, rho=0.05, lr=0.1)
    cross_entropy(net(images), labels).backward()
    before = [flat(group["params"]) for group in optimizer.param_groups]
    optimizer.first_step()
    after = [flat(group["params"]) for group in optimizer.param_groups]
    assert torch.equal(after[0], before[0])
    assert (after[1] - before[1]).norm().item() == pytest.approx(0.05, rel=1e-12)


def test_2_each_group_has_its_own_rho_under_one_norm():
    w = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    w[0].grad, w[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    SAM([{"params": w[0], "rho": 1.0}, {"params": w[1], "rho": 0.5}], torch.optim.SGD, lr=0.1).first_step()
    assert w[0].item() == pytest.approx(1.0 * 3 / 5)
    assert w[1].item() == pytest.approx(0.5 * 4 / 5)


@pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])
def test_3_the_step_is_the_base_step_from_the_gradient_at_w_plus_e(base, make_net, batches, train):
    nets = make_net().double().eval(), make_net().double().eval()
    optimizer, reference = SAM(nets[0].parameters(), rho=0.05, **base), plain(nets[1], **base)
    doubled = [(images.double(), labels) for images, labels in batches[:4]]
    train(nets[0], optimizer, doubled)
    for images, labels in doubled:
        params = list(nets[1].parameters())
        grads = torch.autograd.grad(cross_entropy(nets[1](images), labels), params)
        length = sum((g**2).sum() for g in grads).sqrt()
        perturbed = {name: (p.detach() + 0.05 * g / length).requires_grad_()
                   for (name, p), g in zip(nets[1].named_parameters(), grads, strict=True)}
        loss = cross_entropy(torch.func.functional_call(nets[1], perturbed, (images,)), labels)
        for p, g in zip(params, torch.autograd.grad(loss, list(perturbed.values())), strict=True):
            p.grad = g
        reference.step()
    torch.testing.assert_close(flat(nets[0].parameters()), flat(nets[1].parameters()), rtol=0, atol=1e-12)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(dict(optimizer.state[p]), dict(reference.state[q]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("adaptive", "eta"), [(False, 0.0), (True, 0.0), (True, 0.01)])
def test_4_numpy_on_a_quadratic(adaptive, eta, foreach):
    params, closure, (hessian, slope, w) = quadratic()
    optimizer = SAM(params, torch.optim.SGD, rho=0.3, adaptive=adaptive, eta=eta, foreach=foreach,
                    lr=0.05, momentum=0.9, weight_decay=0.01)
    velocity = np.zeros_like(w)
    for _ in range(8):
        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(0.5 * w @ hessian @ w - slope @ w, abs=1e-12)
        grad = hessian @ w - slope
        scale = np.ones_like(w)
        if adaptive:
            scale[:4] = np.abs(w[:4]) + eta  # the vector-shaped parameter keeps T = 1
        e = 0.3 * scale**2 * grad / np.linalg.norm(scale * grad)
        velocity = 0.9 * velocity + hessian @ (w + e) - slope + 0.01 * w
        w = w - 0.05 * velocity
        np.testing.assert_allclose(flat(params).numpy(), w, rtol=0, atol=1e-12)


def test_5_asam_is_invariant_to_a_rescaling_of_layers_and_sam_is_not():
    def perturbed_loss(adaptive, scale):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)).double()
        data = torch.randn(16, 4, dtype=torch.float64)
        with torch.no_grad():
            net[0].weight.mul_(scale)
            net[2].weight.div_(scale)
        (net(data) ** 2).mean().backward()
        SAM(net.parameters(), torch.optim.SGD, rho=0.5, adaptive=adaptive, lr=0.1).first_step()
        return (net(data) ** 2).mean().item()

    assert perturbed_loss(True, 1.0) == pytest.approx(perturbed_loss(True, 3.0), rel=1e-12)
    assert perturbed_loss(False, 1.0) != pytest.approx(perturbed_loss(False, 3.0), rel=1e-2)


def test_5_asam_has_length_rho_in_its_own_metric():
    params, closure, _ = quadratic()
    closure()
    before = [p.detach().clone() for p in params]
    SAM(params, torch.optim.SGD, rho=0.7, adaptive=True, eta=0.1, lr=0.1).first_step()
    steps = [p.detach() - q for p, q in zip(params, before, strict=True)]
    assert flat([steps[0] / (before[0].abs() + 0.1), steps[1]]).norm().item() == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_6_the_perturbation_does_not_depend_on_the_scale_of_the_loss(adaptive, make_net, batches):
    def perturb(scale):
        net = make_net()
        (scale * cross_entropy(net(batches[0][0]), batches[0][1])).backward()
        SAM(net.parameters(), torch.optim.SGD, rho=0.05, adaptive=adaptive, lr=0.1).first_step()
        return flat(net.parameters())

    assert torch.equal(perturb(1.0), perturb(2.0**13))
    assert torch.equal(perturb(1.0), perturb(2.0**-9))


def test_7_the_perturbation_raises_the_loss():
    params, closure, (hessian, slope, _) = quadratic()
    loss = closure().item()
    norm = SAM(params, torch.optim.SGD, rho=1e-3, lr=0.1).first_step().item()
    w = flat(params).numpy()
    risen = 0.5 * w @ hessian @ w - slope @ w - loss
    assert risen > 0
    assert risen == pytest.approx(1e-3 * norm, rel=0.01)  # to first order the loss rises by rho ||g||
