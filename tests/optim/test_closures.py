"""Several closures, parameter dtypes and shared gradient storage, with SAM and every method derived from it."""
from functools import partial

import pytest
import torch

from optim import AWP, GSAM, SAM, FriendlySAM, LookSAM

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
every_kind = pytest.mark.parametrize("kind", [SAM, LookSAM, GSAM, FriendlySAM, AWP])


@every_kind
def test_several_closures_are_an_error_for_methods_that_use_both_gradients(kind, bowl):
    optimizer = kind(bowl.params, **SGD)
    closures = [bowl.closure(0), bowl.closure(1)]
    assert optimizer.takes_micro_batches == (kind in (SAM, AWP))
    if optimizer.takes_micro_batches:
        optimizer.step(closures)
        return
    with pytest.raises(ValueError, match=f"{kind.__name__} can't step from 2 closures"):
        optimizer.step(closures)
    optimizer.step(closures[:1])


@every_kind
def test_parameters_of_several_dtypes_work_together(kind):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, 4, generator=generator).to(dtype))
              for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]
    optimizer = kind(params, **SGD)
    for _ in range(4):
        before = [p.detach().clone() for p in params]
        optimizer.step(lambda: sum((4 * p.float() ** 2).sum() for p in params).backward())
        assert all(p.isfinite().all() and not torch.equal(p, old) for p, old in zip(params, before, strict=True))


@every_kind
def test_gradients_may_share_storage_as_in_buckets(kind, bowl):
    """DistributedDataParallel with gradient_as_bucket_view overwrites the gradients in place."""
    weights, start = [], bowl.params
    for in_buckets in (False, True):
        bowl.params = [p.detach().clone().requires_grad_() for p in start]
        optimizer = kind(bowl.params, **SGD)
        buckets = [torch.zeros_like(p) for p in bowl.params]

        def closure(t, buckets=buckets, in_buckets=in_buckets):
            loss = bowl.closure(t)()
            for p, bucket in zip(bowl.params, buckets, strict=True):
                p.grad = bucket.copy_(p.grad) if in_buckets else p.grad
            return loss

        for t in range(0, 6, 2):
            closures = [partial(closure, t), partial(closure, t + 1)]
            optimizer.step(closures if optimizer.takes_micro_batches else closures[0])
        weights.append(bowl.weights())
    assert (weights[0] == weights[1]).all()
