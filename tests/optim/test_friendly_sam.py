"""Friendly SAM against NumPy."""
import numpy as np
import pytest
import torch

from optim import FriendlySAM

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


def reference(bowl, *, rho, sigma=1.0, decay=0.9, start_step=0, perturbed=1.0, adaptive=False):
    """Return the gradient of Friendly SAM as a function; perturbed: a mask [14]."""
    mean = []

    def gradient(w, t):
        if t < start_step:
            return bowl.grad(w, t)
        grad = bowl.grad(w, t) * perturbed
        d = grad - sigma * mean[0] if mean else grad
        mean[:] = [decay * mean[0] + (1 - decay) * grad if mean else grad]
        scale = np.where(np.arange(14) < 10, np.abs(w), 1.0) if adaptive else 1.0
        return bowl.grad(w + rho * scale**2 * d / np.linalg.norm(scale * d), t)

    return gradient


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("options", [
    {}, {"sigma": 0.7, "decay": 0.6}, {"start_step": 3}, {"adaptive": True},
], ids=["defaults", "sigma", "late", "adaptive"])
@pytest.mark.parametrize("filtered", [False, True])
def test_numpy_on_a_quadratic(filtered, options, foreach, bowl):
    optimizer = FriendlySAM(bowl.params, rho=0.3, foreach=foreach, unperturbed=bowl.params[2:] if filtered else (),
                            **options, **SGD)
    for t in range(9):
        optimizer.step(bowl.closure(t))
    perturbed = np.where(np.arange(14) < 10, 1.0, 0.0 if filtered else 1.0)
    expected = bowl.descend(reference(bowl, rho=0.3, perturbed=perturbed, **options), 9)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


def test_each_group_has_its_own_rho(bowl):
    groups = [{"params": bowl.params[:1], "rho": 0.1}, {"params": bowl.params[1:]}]
    optimizer = FriendlySAM(groups, rho=0.5, **SGD)
    for t in range(6):
        optimizer.step(bowl.closure(t))
    rho = np.where(np.arange(14) < 4, 0.1, 0.5)
    np.testing.assert_allclose(bowl.weights(), bowl.descend(reference(bowl, rho=rho), 6), rtol=0, atol=1e-12)


def test_a_constant_gradient_equals_its_mean_and_the_step_is_plain():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = FriendlySAM([p], torch.optim.SGD, rho=0.5, decay=0.5, lr=0.5)
    slope = torch.tensor([2.0, -4.0, 8.0])  # powers of two, so that d is exactly zero
    calls = []
    for step in range(1, 4):
        optimizer.step(lambda: calls.append((p * slope).sum().backward()))
        assert torch.equal(optimizer.memory[p], slope)
        assert (optimizer.radius is None) == (step > 1)
        assert torch.equal(p, -0.5 * step * slope)
    assert len(calls) == 2 + 1 + 1


def test_the_mean_is_of_the_first_gradients_and_survives_one_that_is_not_finite(bowl):
    optimizer = FriendlySAM(bowl.params, rho=0.3, **SGD)
    optimizer.step(bowl.closure(0))
    np.testing.assert_allclose(mean_of(optimizer, bowl), bowl.grad(bowl.start, 0), rtol=0, atol=1e-13)

    def poisoned():
        bowl.closure(1)()
        bowl.params[2].grad[0] = torch.inf

    optimizer.step(poisoned)
    np.testing.assert_allclose(mean_of(optimizer, bowl), bowl.grad(bowl.start, 0), rtol=0, atol=1e-13)
    w = bowl.weights().copy()
    optimizer.step(bowl.closure(2))
    expected = 0.9 * bowl.grad(bowl.start, 0) + 0.1 * bowl.grad(w, 2)
    np.testing.assert_allclose(mean_of(optimizer, bowl), expected, rtol=0, atol=1e-13)


def mean_of(optimizer, bowl):
    return torch.cat([optimizer.memory[p].flatten() for p in bowl.params]).numpy()


def test_an_error_in_the_second_pass_leaves_the_mean_as_it_was(bowl):
    optimizer = FriendlySAM(bowl.params, rho=0.3, **SGD)
    for t in range(3):
        optimizer.step(bowl.closure(t))
    before = {p: mean.clone() for p, mean in optimizer.memory.items()}
    closure = bowl.closure(3)

    def broken():
        if optimizer.perturbed:
            raise FloatingPointError
        return closure()

    with pytest.raises(FloatingPointError):
        optimizer.step(broken)
    assert len(before) == len(bowl.params)
    assert all(torch.equal(optimizer.memory[p], mean) for p, mean in before.items())
    optimizer.step(bowl.closure(3))
    assert not any(torch.equal(optimizer.memory[p], mean) for p, mean in before.items())
