"""SAM's arithmetic on lists of tensors of one device and dtype, fused (`foreach`) or tensor by tensor."""
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch


def group_parameters(param_groups: list[dict], is_perturbed: Callable[[torch.Tensor], bool]) -> dict[tuple, list]:
    """Return {(device, dtype, rho, eta or None): parameters to perturb}; each list suits one fused operation."""
    lists = defaultdict(list)
    for group in param_groups:
        for p in group["params"]:
            if group["rho"] > 0 and p.grad is not None and is_perturbed(p):
                eta = group["eta"] if group["adaptive"] and p.ndim > 1 else None
                lists[p.device, p.dtype, group["rho"], eta].append(p)
    return lists


def ascent_directions(params: list, grads: list, eta: float | None, *, foreach: bool) -> tuple[list, list, list]:
    """Return the ascent directions T^2 g and the norms ||T g|| and ||T^2 g||, three lists with one entry per parameter.

    eta: T = |w| + eta (ASAM); None: T = 1 (SAM), and the directions are the gradients themselves, not copies.
    """
    if eta is None:
        norms = tensor_norms(grads, foreach=foreach)
        return grads, norms, norms
    if not foreach:
        scales = [p.abs().add_(eta) for p in params]
        directions = [g * t for g, t in zip(grads, scales, strict=True)]
        norms = tensor_norms(directions, foreach=False)
        directions = [d.mul_(t) for d, t in zip(directions, scales, strict=True)]
        return directions, norms, tensor_norms(directions, foreach=False)
    scales = torch._foreach_abs(params)
    torch._foreach_add_(scales, eta)
    directions = torch._foreach_mul(grads, scales)
    norms = tensor_norms(directions, foreach=True)
    torch._foreach_mul_(directions, scales)
    return directions, norms, tensor_norms(directions, foreach=True)


def tensor_norms(tensors: list, *, foreach: bool) -> list:
    """Return the L2 norm of each tensor as a list of scalars, in float32 at least."""
    dtype = at_least_float32(tensors[0].dtype)  # squares of float16 gradients can overflow or underflow
    if foreach:
        return torch._foreach_norm(tensors, dtype=dtype)
    return [torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, or float32 if that has more range or precision."""
    return torch.promote_types(dtype, torch.float32)


def total_norm(norms: list[list]) -> torch.Tensor:
    """Return the norm over all tensors, a scalar, from lists of their norms, one list per device and dtype."""
    device = norms[0][0].device
    totals = [torch.linalg.vector_norm(torch.stack(list(part))).to(device) for part in norms]
    dtype = torch.float64 if any(total.dtype == torch.float64 for total in totals) else torch.float32
    return torch.linalg.vector_norm(torch.stack([total.to(dtype) for total in totals]))


def grad_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norm of all gradients, a scalar on their device in float32 at least; 0 if there are none."""
    lists = defaultdict(list)
    for p in parameters:
        if p.grad is not None:
            lists[p.grad.device, p.grad.dtype].append(p.grad)
    if not lists:
        return torch.zeros(())
    return total_norm([tensor_norms(grads, foreach=True) for grads in lists.values()])


def copy_tensors(params: list, *, foreach: bool) -> list:
    """Return copies of `params`."""
    copies = [torch.empty_like(p) for p in params]
    restore_(copies, params, foreach=foreach)
    return copies


def restore_(params: list, saved: list, *, foreach: bool):
    """Copy `saved` into `params` in place, because CUDA graphs and sharded parameters need the same storage."""
    if foreach:
        torch._foreach_copy_(params, saved)
        return
    for p, old in zip(params, saved, strict=True):
        p.copy_(old)


def add_(params: list, directions: list, *, scale: float, foreach: bool):
    """Add scale * directions to `params`, in place."""
    # Half precision is converted, as torch would round the scale to that dtype; other tensors are not copied.
    directions = [direction.to(at_least_float32(direction.dtype)) for direction in directions]
    if foreach:
        torch._foreach_add_(params, directions, alpha=scale)
        return
    for p, direction in zip(params, directions, strict=True):
        p.add_(direction, alpha=scale)
