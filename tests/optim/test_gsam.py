"""GSAM against NumPy."""
import numpy as np
import pytest
import torch

from optim import GSAM

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


def reference(bowl, *, rho, alpha, perturbed):
    """Return the gradient of GSAM as a function: rho [14], perturbed: a mask [14]."""

    def gradient(w, t):
        grad = bowl.grad(w, t) * perturbed
        second = bowl.grad(w + rho * grad / np.linalg.norm(grad), t)
        along = second * perturbed
        across = grad - (grad @ along) / (along @ along) * along
        assert abs(across @ along) < 1e-12
        return second - alpha * across

    return gradient


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("rhos", [(0.3, 0.3), (0.1, 0.5)])
def test_numpy_on_a_quadratic(rhos, filtered, foreach, bowl):
    groups = [{"params": bowl.params[:1], "rho": rhos[0]}, {"params": bowl.params[1:]}]
    optimizer = GSAM(groups, rho=rhos[1], alpha=0.6, unperturbed=bowl.params[2:] if filtered else (),
                     foreach=foreach, **SGD)
    for t in range(8):
        before = bowl.loss(bowl.weights(), t)
        assert optimizer.step(bowl.closure(t)).item() == pytest.approx(before, rel=1e-12)
    rho, perturbed = np.where(np.arange(14) < 4, *rhos), np.where(np.arange(14) < 10, 1.0, 0.0 if filtered else 1.0)
    expected = bowl.descend(reference(bowl, rho=rho, alpha=0.6, perturbed=perturbed), 8)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


def test_the_two_step_loop_is_the_closures(bowl):
    optimizer = GSAM(bowl.params, rho=0.3, **SGD)
    for t in range(4):
        bowl.closure(t)()
        optimizer.first_step(zero_grad=True)
        bowl.closure(t)()
        optimizer.second_step(zero_grad=True)
    expected = bowl.descend(reference(bowl, rho=0.3, alpha=0.4, perturbed=1.0), 4)
    np.testing.assert_allclose(bowl.weights(), expected, rtol=0, atol=1e-12)


def test_parallel_gradients_are_not_changed():
    p = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = GSAM([p], torch.optim.SGD, rho=0.5, alpha=0.4, lr=0.1)
    optimizer.step(lambda: (p**2 / 2).sum().backward())
    assert p.item() == pytest.approx(2 - 0.1 * 2.5, rel=1e-12)


def test_orthogonal_gradients_are_subtracted_and_a_zero_one_is_allowed():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = GSAM([p], torch.optim.SGD, rho=0.5, alpha=0.4, lr=1.0)
    for second, expected in (([0.0, 2.0], [0.4, -2.0]), ([0.0, 0.0], [0.4, 0.0])):
        with torch.no_grad():
            p.zero_()
        for grad in ([1.0, 0.0], second):
            p.grad = torch.tensor(grad, dtype=torch.float64)
            if not optimizer.perturbed:
                optimizer.first_step(zero_grad=True)
        optimizer.second_step()
        assert p.tolist() == pytest.approx(expected)


def test_no_gradient_is_kept_between_steps_or_after_an_error(bowl):
    optimizer = GSAM(bowl.params, rho=0.3, **SGD)
    optimizer.step(bowl.closure(0))
    assert not optimizer._first_gradients
    calls = []

    def failing():
        calls.append(bowl.closure(0)())
        if len(calls) == 2:
            assert optimizer._first_gradients
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimizer.step(failing)
    assert not optimizer._first_gradients
