"""First passes with a local gradient, and clipping before the perturbation: property 26 of notes/sam.md."""
import copy
from contextlib import contextmanager

import pytest
import torch

from optim import GSAM, SAM, LookSAM, cross_entropy

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


class Ranks:
    """Imitates DistributedDataParallel: gradients are this rank's inside `no_sync`, all ranks' outside."""

    def __init__(self, bowl, *, factor=1.0):
        self.bowl, self.factor, self.local, self.passes = bowl, factor, False, []

    @contextmanager
    def no_sync(self):
        self.local = True
        try:
            yield
        finally:
            self.local = False

    def closure(self, t):
        def run():
            self.passes.append("local" if self.local else "all")
            loss = self.bowl.closure(t)()
            if self.local:
                for p in self.bowl.params:
                    p.grad.mul_(self.factor)
            return loss

        return run


def test_only_a_first_pass_followed_by_a_second_uses_the_context(bowl):
    ranks = Ranks(bowl)
    optimizer = SAM(bowl.params, rho=0.3, start_step=1, interval=2, **SGD)
    optimizer.first_pass = ranks.no_sync
    for t in range(4):
        optimizer.step(ranks.closure(t))
    assert ranks.passes == ["all", "local", "all", "all", "local", "all"]
    ranks.passes.clear()
    optimizer.step([ranks.closure(4), ranks.closure(5)])
    optimizer.step([ranks.closure(6), ranks.closure(7)])
    assert ranks.passes == ["all", "all"] + ["local", "all"] * 2
    optimizer.param_groups[0]["rho"] = 0.0
    ranks.passes.clear()
    optimizer.step(ranks.closure(8))
    assert ranks.passes == ["all"]


@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_e_uses_the_local_gradient_and_the_step_that_of_all_ranks(factor, bowl):
    ranks = Ranks(bowl, factor=factor)
    optimizer = SAM(bowl.params, rho=0.3, **SGD)
    optimizer.first_pass = ranks.no_sync
    for t in range(4):
        optimizer.step(ranks.closure(t))

    def gradient(w, t):
        grad = bowl.grad(w, t) * factor
        return bowl.grad(w + 0.3 * grad / (grad @ grad) ** 0.5, t)

    assert bowl.weights() == pytest.approx(bowl.descend(gradient, 4), rel=0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.0, torch.inf, torch.nan])
def test_the_second_pass_runs_even_if_the_local_gradient_perturbs_nothing(factor, bowl):
    """The other ranks wait in the second pass and step with its gradient, so this one must do the same."""
    ranks = Ranks(bowl, factor=factor)
    optimizer = SAM(bowl.params, rho=0.3, **SGD)
    optimizer.first_pass = ranks.no_sync
    for t in range(3):
        optimizer.step(ranks.closure(t))
        assert optimizer.radius is None
    assert ranks.passes == ["local", "all"] * 3
    assert bowl.weights() == pytest.approx(bowl.descend(bowl.grad, 3), rel=0, abs=1e-12)


def test_a_common_gradient_that_is_not_finite_takes_no_step_on_any_rank(bowl, caplog):
    optimizer = SAM(bowl.params, rho=0.3, **SGD)
    ranks = Ranks(bowl)
    optimizer.first_pass = ranks.no_sync
    before = bowl.weights().copy()

    def closure():
        loss = ranks.closure(0)()
        if not ranks.local:
            bowl.params[0].grad[0, 0] = torch.nan  # from another rank
        return loss

    optimizer.step(closure)
    assert "not finite" in caplog.text
    assert (bowl.weights() == before).all()
    assert not optimizer.state


def test_the_context_ends_after_an_error_and_is_not_copied(bowl):
    ranks = Ranks(bowl)
    optimizer = SAM(bowl.params, rho=0.3, **SGD)
    optimizer.first_pass = ranks.no_sync
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert not ranks.local
    copied = copy.deepcopy(optimizer)
    copied.step(lambda: ranks.passes.append(ranks.local))
    assert ranks.passes == [False]


@pytest.mark.parametrize("kind", [GSAM, LookSAM])
def test_methods_that_use_both_gradients_reject_first_pass(kind, bowl):
    optimizer = kind(bowl.params, rho=0.3, **SGD)
    assert not optimizer.takes_first_pass
    optimizer.first_pass = Ranks(bowl).no_sync
    with pytest.raises(ValueError, match="first_pass"):
        optimizer.step(bowl.closure(0))


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_26_clipping_by_norm_before_the_perturbation_changes_nothing(max_norm, make_net, batches):
    def perturb(clipped):
        net = make_net().double()
        cross_entropy(net(batches[0][0].double()), batches[0][1]).backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer = SAM(net.parameters(), rho=0.5, **SGD)
        norm = optimizer.first_step()
        return net, norm.item()

    (plain, norm), (clipped, clipped_norm) = perturb(False), perturb(True)
    assert clipped_norm == pytest.approx(min(norm, max_norm), rel=1e-4)
    assert norm > 1e-3
    for p, q in zip(plain.parameters(), clipped.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
