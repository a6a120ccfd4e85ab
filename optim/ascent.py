"""SAM's arithmetic on lists of tensors, fused (`foreach`) or tensor by tensor; in a list all share device and dtype."""
from collections import defaultdict

import torch


def buckets(param_groups: list[dict]) -> dict[tuple, list]:
    """Return the parameters to perturb as {(device, dtype, rho, eta or None): list}, each for one fused operation."""
    lists = defaultdict(list)
    for group in param_groups:
        for p in group["params"]:
            if group["rho"] > 0 and p.grad is not None:
                eta = group["eta"] if group["adaptive"] and p.ndim > 1 else None
                lists[p.device, p.dtype, group["rho"], eta].append(p)
    return lists


def ascent(params: list, eta: float | None, *, foreach: bool) -> tuple[list, list]:
    """Return the ascent directions T^2 g of `params` and the norms ||T g||, both one per parameter.

    eta: T = |w| + eta (ASAM); None: T = 1 (SAM), and the directions are the gradients themselves, not copies.
    """
    grads = [p.grad for p in params]
    if eta is None:
        return grads, _norms(grads, foreach=foreach)
    if not foreach:
        scales = [p.abs().add_(eta) for p in params]
        directions = [g * t for g, t in zip(grads, scales, strict=True)]
        norms = _norms(directions, foreach=False)
        return [d.mul_(t) for d, t in zip(directions, scales, strict=True)], norms
    scales = torch._foreach_abs(params)
    torch._foreach_add_(scales, eta)
    directions = torch._foreach_mul(grads, scales)
    norms = _norms(directions, foreach=True)
    torch._foreach_mul_(directions, scales)
    return directions, norms


def _norms(tensors: list, *, foreach: bool) -> list:
    dtype = _at_least_float32(tensors[0].dtype)  # squares of float16 gradients leave its range
    if foreach:
        return torch._foreach_norm(tensors, dtype=dtype)
    return [torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def total_norm(norms: list[list]) -> torch.Tensor:
    """Return the norm over all tensors, a scalar, from lists of their norms, each on a device and in a dtype."""
    device = norms[0][0].device
    totals = [torch.linalg.vector_norm(torch.stack(list(part))).to(device) for part in norms]
    dtype = torch.float64 if any(total.dtype == torch.float64 for total in totals) else torch.float32
    return torch.linalg.vector_norm(torch.stack([total.to(dtype) for total in totals]))


def copy_of(params: list, *, foreach: bool) -> list:
    """Return copies of `params`."""
    copies = [torch.empty_like(p) for p in params]
    restore_(copies, params, foreach=foreach)
    return copies


def restore_(params: list, saved: list, *, foreach: bool):
    """Copy `saved` into `params`, in place: CUDA graphs and sharded parameters keep their storage."""
    if foreach:
        torch._foreach_copy_(params, saved)
        return
    for p, old in zip(params, saved, strict=True):
        p.copy_(old)


def add_(params: list, directions: list, *, scale: float, foreach: bool):
    """Add scale * directions to `params`, in place."""
    # No copy but in half precision, where torch would round the scale to the tensors' dtype.
    directions = [direction.to(_at_least_float32(direction.dtype)) for direction in directions]
    if foreach:
        torch._foreach_add_(params, directions, alpha=scale)
        return
    for p, direction in zip(params, directions, strict=True):
        p.add_(direction, alpha=scale)
