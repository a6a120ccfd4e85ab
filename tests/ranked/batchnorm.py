"""What tests/network/test_sync_batchnorm.py runs on several ranks, and what it compares with."""
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network import set_bn_momentum, synchronize_batchnorm
from utils import distributed

DIMS = {nn.BatchNorm1d: (), nn.BatchNorm2d: (5, 4), nn.BatchNorm3d: (2, 3, 2)}


def network(kind=nn.BatchNorm2d, **settings) -> nn.Module:
    """A BatchNorm between two layers, in float64; the same one every time."""
    torch.manual_seed(3)
    convolution = {nn.BatchNorm1d: nn.Linear, nn.BatchNorm2d: nn.Conv2d, nn.BatchNorm3d: nn.Conv3d}[kind]
    kernel = () if convolution is nn.Linear else (1,)
    norm = kind(4, **settings)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(convolution(3, 4, *kernel), norm, nn.Tanh(), convolution(4, 2, *kernel)).double()


def images(batches: list[int], kind=nn.BatchNorm2d) -> list[torch.Tensor]:
    """A batch for each rank, float64 [B, 3, ...], of other means and sizes."""
    generator = torch.Generator().manual_seed(5)
    return [rank - 3 + torch.randn(size, 3, *DIMS[kind], generator=generator, dtype=torch.float64)
            for rank, size in enumerate(batches)]


def steps(model: nn.Module, x: torch.Tensor, count: int = 2, *, frozen=False) -> dict:
    """Everything that `count` passes over `x` leave: outputs, gradients, buffers."""
    model[1].track_running_stats = model[1].track_running_stats and not frozen
    x = x.clone().requires_grad_()
    for _ in range(count):
        out = model(x)
        weighted = out * torch.linspace(1, 2, out.shape[1:].numel(), dtype=out.dtype).view(out.shape[1:])
        (weighted.square().sum() + weighted.sum()).backward()
    return {"out": out.detach(), "input": x.grad, "parameters": [parameter.grad for parameter in model.parameters()],
            "buffers": dict(model[1].named_buffers())}


def shares(batches: list[int], cases: list[tuple]) -> list[dict]:
    """For each (kind, settings, frozen) what steps() gives for this rank's batch, parameter gradients summed."""
    found = []
    for kind, settings, frozen in cases:
        model = synchronize_batchnorm(network(kind, **settings))
        each = steps(model, images(batches, kind)[distributed.rank()], frozen=frozen)
        found.append({**each, "parameters": [distributed.sum_over_ranks(gradient) for gradient in each["parameters"]]})
    return found


def others(batches: list[int]) -> dict:
    """Eval mode, half precision, DistributedDataParallel, and values too few."""
    x = images(batches)[distributed.rank()]
    model = synchronize_batchnorm(network())
    assert torch.equal(model.eval()(x), network().eval()(x))
    model.train()
    half = synchronize_batchnorm(nn.BatchNorm2d(3))(x.bfloat16())
    mean = [tensor.mean().item() for tensor in (half.float(), distributed.sum_over_ranks(half.float().sum()))]
    set_bn_momentum(model, momentum=0.25)
    wrapped = DistributedDataParallel(synchronize_batchnorm(network()))
    (wrapped(x).square().sum() * distributed.world_size()).backward()  # the wrapper takes the mean over ranks
    alone = x[:1, :, :1, :1] if distributed.is_main() else x[:0, :, :1, :1]
    try:
        model(alone)
        said = ""
    except ValueError as error:
        said = str(error)
    return {"dtype": half.dtype, "half": mean, "momentum": model[1].momentum, "said": said,
            "ddp": [parameter.grad for parameter in wrapped.module.parameters()]}
