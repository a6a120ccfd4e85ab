"""LookSAM against NumPy."""
import numpy as np
import pytest
import torch

from optim import LookSAM

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


def reference(bowl, *, rho, alpha, interval, start_step=0, perturbed=1.0):
    """Return the gradient of LookSAM as a function; perturbed: a mask [14]."""
    kept = []

    def gradient(w, t):
        grad = bowl.grad(w, t)
        own = grad * perturbed
        if t < start_step:
            return grad
        if (t - start_step) % interval == 0:
            unit = own / np.linalg.norm(own)
            second = bowl.grad(w + rho * unit, t)
            kept[:] = [second * perturbed - (second @ unit) * unit]
            assert abs(kept[0] @ unit) < 1e-12
            return second
        return grad + alpha * np.linalg.norm(own) / np.linalg.norm(kept[0]) * kept[0]

    return gradient


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("start_step", "interval"), [(0, 5), (3, 3), (0, 1)])
@pytest.mark.parametrize("filtered", [False, True])
def test_numpy_on_a_quadratic(filtered, start_step, interval, foreach, bowl):
    optimizer = LookSAM(bowl.params, rho=0.3, alpha=0.5, interval=interval, start_step=start_step, foreach=foreach,
                        unperturbed=bowl.params[2:] if filtered else (), **SGD)
    for t in range(12):
        optimizer.step(bowl.closure(t))
    perturbed = np.where(np.arange(14) < 10, 1.0, 0.0 if filtered else 1.0)
    expected = bowl.descend(reference(bowl, rho=0.3, alpha=0.5, interval=interval, start_step=start_step,
                                      perturbed=perturbed), 12)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


def test_the_defaults_are_the_papers_and_the_two_step_loop_is_the_closures(bowl):
    optimizer = LookSAM(bowl.params, rho=0.3, **SGD)
    passes = 0
    for t in range(10):
        bowl.closure(t)()
        optimizer.first_step()
        passes += 1 + optimizer.perturbed
        if optimizer.perturbed:
            optimizer.zero_grad()
            bowl.closure(t)()
        optimizer.second_step(zero_grad=True)
    expected = bowl.descend(reference(bowl, rho=0.3, alpha=0.7, interval=5), 10)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)
    assert passes == 12


def test_without_a_direction_the_steps_between_are_plain(bowl):
    """The first step has a zero gradient and perturbs nothing, so the next three have no direction to reuse."""
    optimizer = LookSAM(bowl.params, rho=0.3, interval=4, **SGD)

    def zero():
        bowl.closure(0)()
        for p in bowl.params:
            p.grad.zero_()

    for t in range(4):
        optimizer.step(bowl.closure(t) if t else zero)
    expected = bowl.descend(lambda w, t: bowl.grad(w, t) if t else np.zeros(14), 4)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stopped", [{"start_step": 99}, {"rho": 0.0}])
def test_a_direction_from_a_checkpoint_is_not_used_before_sam_starts(stopped, bowl):
    earlier = LookSAM(bowl.params, rho=0.3, base_optimizer=torch.optim.SGD, lr=0.0)
    earlier.step(bowl.closure(0))
    optimizer = LookSAM(bowl.params, **{"rho": 0.3} | stopped, **SGD)
    optimizer.memory = earlier.memory
    for t in range(3):
        optimizer.step(bowl.closure(t))
    np.testing.assert_allclose(bowl.weights(), bowl.descend(bowl.grad, 3), rtol=0, atol=1e-12)


def test_a_direction_of_length_zero_adds_nothing():
    p = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = LookSAM([p], torch.optim.SGD, rho=0.5, interval=2, lr=0.1)
    for expected in (2 - 0.1 * 2.5, 1.75 * 0.9):
        optimizer.step(lambda: (p**2 / 2).sum().backward())
        assert p.item() == pytest.approx(expected, rel=1e-12)


def test_a_parameter_without_a_gradient_stays_in_a_step_between(bowl):
    optimizer = LookSAM(bowl.params, rho=0.3, **SGD)
    optimizer.step(bowl.closure(0))
    before = bowl.params[0].detach().clone()
    optimizer.step(lambda: (bowl.params[1] ** 2).sum().backward())
    assert torch.equal(bowl.params[0], before)
