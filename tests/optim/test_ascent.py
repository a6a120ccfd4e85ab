"""Fused and single-tensor arithmetic, mixed dtypes, CUDA: property 28 of notes/sam.md."""
import numpy as np
import pytest
import torch
from torch import nn

from optim import SAM, RandomState, cross_entropy, grad_norm


@pytest.mark.parametrize("adaptive", [False, True])
def test_28_fused_and_single_tensor_agree_over_mixed_dtypes(adaptive):
    def perturb(foreach):
        generator = torch.Generator().manual_seed(0)
        params = []
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for shape in ((3, 4), (5,)):
                p = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
                p.grad = torch.randn(shape, generator=generator).to(dtype)
                params.append(p)
        expected = torch.cat([p.grad.double().flatten() for p in params]).norm()
        optimizer = SAM(params, torch.optim.SGD, rho=0.5, adaptive=adaptive, foreach=foreach, lr=0.1)
        return params, optimizer.first_step(), expected

    (fused, norm, expected), (single, single_norm, _) = perturb(None), perturb(False)
    for p, q in zip(fused, single, strict=True):
        assert torch.equal(p, q)
    assert norm.dtype == torch.float64
    assert norm.item() == single_norm.item()
    if not adaptive:
        assert norm.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_norm_of_half_precision_gradients_is_summed_in_float32():
    p = nn.Parameter(torch.zeros(70000, dtype=torch.float16))
    p.grad = torch.full_like(p, 200.0)  # the sum of squares is 2.8e9, above the largest float16, 65504
    norm = SAM([p], torch.optim.SGD, rho=0.5, lr=0.1).first_step()
    assert norm.item() == pytest.approx(200 * 70000**0.5, rel=1e-5)
    assert p[0].item() == pytest.approx(0.5 / 70000**0.5, rel=1e-3)


def test_grad_norm_is_the_norm_of_all_gradients_joined():
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in
              (((3, 4), torch.float32), ((5,), torch.float64), ((2, 2), torch.float32), ((6,), torch.bfloat16))]
    params.insert(1, nn.Parameter(torch.zeros(3)))  # without a gradient
    for p in params[:1] + params[2:]:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    expected = np.linalg.norm(np.concatenate([p.grad.double().numpy().ravel() for p in params if p.grad is not None]))
    assert grad_norm(iter(params)).item() == pytest.approx(expected, rel=1e-6)
    assert grad_norm(params).ndim == 0
    assert grad_norm(params[2:3]).dtype == torch.float64
    assert grad_norm(params[-1:]).dtype == torch.float32
    assert grad_norm(params[1:2]).item() == 0
    assert grad_norm([]).item() == 0
    params[0].grad[0, 0] = torch.nan
    assert not grad_norm(params).isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("adaptive", [False, True])
def test_28_cuda_agrees_with_the_cpu_and_replays_dropout(adaptive, make_net, batches):
    nets = {place: make_net().to(place).eval() for place in ("cpu", "cuda")}
    for place, net in nets.items():
        optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.1, adaptive=adaptive, lr=0.1)
        cross_entropy(net(batches[0][0].to(place)), batches[0][1].to(place)).backward()
        optimizer.first_step()
    for p, q in zip(nets["cpu"].parameters(), nets["cuda"].parameters(), strict=True):
        torch.testing.assert_close(p, q.cpu(), rtol=1e-4, atol=1e-5)
    state = RandomState([torch.device("cuda", 0)])
    drawn = torch.rand(4, device="cuda")
    with state.replayed():
        assert torch.equal(drawn, torch.rand(4, device="cuda"))
