"""Several processes as one run (torchrun): ranks and a few collectives, which do nothing in a single process.

All ranks must call a collective, in the same order, or those that called it wait. Objects are pickled, which is safe
because they travel only between the processes of one run.
"""
import gc
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from utils.launch import TORCHRUN, count_restarts, launched, local_rank, local_world_size  # noqa: F401, re-exported
from utils.ranks import OtherRankFailed, in_group, is_main, rank, world_size

# Long, because one rank may download data or run a long attack. torchrun ends the others when a rank fails.
TIMEOUT = timedelta(hours=6)


def join_group(device: torch.device):
    """Join the other processes that torchrun started, with gloo for CPU and nccl for GPU tensors; repeats do nothing.

    `device` is this process's; "cuda" without a number means the GPU local_rank().
    """
    if not launched() or in_group():
        return
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() if device.index is None else device.index)
    store, number, count = next(rendezvous("env://", timeout=TIMEOUT))
    # torchrun keeps the store over a restart (--max-restarts), with the addresses of processes that are gone.
    store = dist.PrefixStore(f"attempt {count_restarts()}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, store=store,
                            rank=number, world_size=count)


def leave_group():
    """Leave the process group, if there is one. Delete what uses it, such as a DistributedDataParallel, before.

    Otherwise that object frees the group later while it holds the interpreter's lock, which the group's threads need.
    """
    if in_group():
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def main_first():
    """Run the block on rank 0, then on the other ranks. The block must not call collectives.

    If it raises on rank 0, the others raise OtherRankFailed without entering it.
    """
    if in_group() and not is_main() and broadcast_object(None):
        raise OtherRankFailed("rank 0 failed")
    failed = True
    try:
        yield
        failed = False
    finally:
        if is_main():
            broadcast_object(failed)


@contextmanager
def fail_together():
    """Raise on all ranks if the block raises on one. The block must not call collectives.

    The lowest failed rank raises its own exception, all others OtherRankFailed.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    raise_first_error(error)


def raise_first_error(error: Exception | None):
    """Raise `error` on the lowest rank that has one and OtherRankFailed on all others; return if all pass None."""
    first = torch.tensor(world_size() if error is None else rank())
    if in_group():
        dist.all_reduce(first, dist.ReduceOp.MIN)
    if first == rank():
        raise error
    if first < world_size():
        raise OtherRankFailed(f"rank {first} failed")


def barrier():
    """Wait until all ranks get here, whatever their device."""
    sum_over_ranks(torch.zeros(()))


def any_rank(flag: bool | Tensor) -> bool:
    """Return whether the flag, or an element of it, is true on any rank."""
    flags = torch.as_tensor(flag).any().long()
    return bool(sum_over_ranks(flags))


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum over all ranks, a new tensor without gradient; in a single process `tensor` itself."""
    if not in_group():
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]):
    """Overwrite these tensors with rank 0's values, in place; strides may differ between ranks."""
    for tensor in tensors if in_group() else ():
        values = tensor.detach().contiguous()
        dist.broadcast(values, src=0)
        tensor.copy_(values)


def gather_to_main(obj) -> list | None:
    """Return the objects of all ranks, in rank order, on rank 0; None on the others."""
    if not in_group():
        return [obj]
    objects = [None] * world_size() if is_main() else None
    dist.gather_object(obj, objects)
    return objects


def broadcast_object(obj):
    """Return rank 0's object on every rank."""
    objects = [obj]
    if in_group():
        dist.broadcast_object_list(objects, src=0)
    return objects[0]
