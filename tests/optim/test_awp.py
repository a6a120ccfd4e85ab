"""Adversarial weight perturbation: property 30 of notes/sam.md."""
import numpy as np
import pytest
import torch

from optim import AWP, cross_entropy

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


@pytest.mark.parametrize("foreach", [True, False])
def test_30_each_weight_is_perturbed_along_its_gradient_by_gamma_times_its_norm(foreach, make_net, batches):
    net = make_net().double()
    net.head.weight.data.mul_(7)  # so that the layers differ
    optimizer = AWP(net.parameters(), gamma=0.02, foreach=foreach, **SGD)
    before = [p.detach().clone() for p in net.parameters()]
    cross_entropy(net(batches[0][0].double()), batches[0][1]).backward()
    optimizer.first_step()
    for p, old in zip(net.parameters(), before, strict=True):
        moved = p.detach() - old
        if p.ndim == 1:
            assert not moved.any()
        else:
            assert moved.norm().item() == pytest.approx(0.02 * old.norm().item(), rel=1e-10)
            assert torch.cosine_similarity(moved.flatten(), p.grad.flatten(), 0).item() == pytest.approx(1)
    optimizer.restore()
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("gammas", [(0.1, 0.1), (0.3, 0.1), (0.0, 0.1)])
def test_30_numpy_on_a_quadratic(gammas, filtered, bowl):
    """The vector is not perturbed, nor the second matrix if filtered, nor the first if its gamma is 0."""
    groups = [{"params": bowl.params[:1], "rho": gammas[0]}, {"params": bowl.params[1:]}]
    optimizer = AWP(groups, gamma=gammas[1], unperturbed=bowl.params[1:2] if filtered else (), **SGD)

    def gradient(w, t):
        grad, v = bowl.grad(w, t), np.zeros(14)
        for part, gamma in zip(bowl.parts[:1] if filtered else bowl.parts[:2], gammas, strict=False):
            v[part] = gamma * np.linalg.norm(w[part]) * grad[part] / np.linalg.norm(grad[part])
        return bowl.grad(w + v, t)

    for t in range(8):
        optimizer.step(bowl.closure(t))
    np.testing.assert_allclose(bowl.weights(), bowl.descend(gradient, 8), rtol=0, atol=1e-12)


def test_30_micro_batches_have_a_perturbation_each(bowl):
    optimizer = AWP(bowl.params, gamma=0.2, **SGD)

    def one(w, t):
        grad, v = bowl.grad(w, t), np.zeros(14)
        for part in bowl.parts[:2]:
            v[part] = 0.2 * np.linalg.norm(w[part]) * grad[part] / np.linalg.norm(grad[part])
        return bowl.grad(w + v, t)

    for t in range(4):
        optimizer.step([bowl.closure(2 * t), bowl.closure(2 * t + 1)])
    expected = bowl.descend(lambda w, t: one(w, 2 * t) + one(w, 2 * t + 1), 4)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_30_a_layer_with_zero_gradient_is_not_perturbed_and_the_others_are(dtype, foreach):
    params = [torch.nn.Parameter(torch.full((2, 2), value, dtype=dtype)) for value in (1.0, 2.0, 0.0)]
    for p, value in zip(params, (0.0, 3.0, 3.0), strict=True):
        p.grad = torch.full((2, 2), value, dtype=dtype)
    AWP(params, torch.optim.SGD, gamma=0.5, foreach=foreach, lr=0.1).first_step()
    assert torch.equal(params[0], torch.ones(2, 2, dtype=dtype))
    assert torch.equal(params[1], torch.full((2, 2), 3.0, dtype=dtype))  # ||v|| = 0.5 * 4, in four equal parts
    assert not params[2].any()
