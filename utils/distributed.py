"""Several processes as one run (torchrun): who is who, and the few collectives we need; no-ops in a single process.

A collective must be reached by all ranks in the same order, or those that reach it wait. Objects are pickled: they
travel only between the processes of one run.
"""
import gc
import os
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(hours=6)  # for a rank that downloads, or attacks with many steps; torchrun ends what has failed


class ElsewhereError(Exception):
    """Another rank has failed, and says so itself; this one only ends too."""


def launched() -> bool:
    """Whether torchrun, or something that sets its environment, started this process."""
    return all(name in os.environ for name in TORCHRUN)


def grouped() -> bool:
    """Whether there is a process group: only then is anything shared."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return dist.get_rank() if grouped() else _environment("RANK", 0)


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if grouped() else _environment("WORLD_SIZE", 1)


def local_rank() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return _environment("LOCAL_RANK", 0)


def local_world_size() -> int:
    """The number of processes on this machine."""
    return _environment("LOCAL_WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this is rank 0, which alone writes files and speaks."""
    return rank() == 0


def start(device: torch.device):
    """Join the other processes that torchrun started: gloo, with nccl for what is on GPUs; once is enough.

    device: this process's; a "cuda" without a number is the GPU of local_rank().
    """
    if not launched() or grouped():
        return
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() if device.index is None else device.index)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def stop():
    """Leave the group, if there is one. What uses it, such as a DistributedDataParallel, must be gone by then.

    Else that is what frees the group, with the interpreter's lock held, for which the group's threads may wait.
    """
    if grouped():
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def main_first():
    """Rank 0 runs the block, then the others do. No collectives inside.

    An exception on rank 0 is an ElsewhereError on the others, before they enter.
    """
    if grouped() and not is_main() and from_main(None):
        raise ElsewhereError("rank 0 failed")
    failed = True
    try:
        yield
        failed = False
    finally:
        if is_main():
            from_main(failed)


@contextmanager
def together():
    """An exception on one rank ends all of them, the others by an ElsewhereError. No collectives inside.

    Where several ranks have one, the first raises its own.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    raise_first(error)


def raise_first(error: Exception | None):
    """Raise the first rank's exception: there as it is, on the others as an ElsewhereError; nothing if none has one."""
    first = torch.tensor(world_size() if error is None else rank())
    if grouped():
        dist.all_reduce(first, dist.ReduceOp.MIN)
    if first == rank():
        raise error
    if first < world_size():
        raise ElsewhereError(f"rank {first} failed")


def barrier():
    """Wait for all ranks, whatever their device."""
    total(torch.zeros(()))


def any_rank(flag: bool | Tensor) -> bool:
    """Whether a flag, or an element of it, is true on some rank."""
    flags = torch.as_tensor(flag).any().long()
    return bool(total(flags))


def total(tensor: Tensor) -> Tensor:
    """The sum over all ranks, a new tensor without a gradient; in a single process `tensor` itself."""
    if not grouped():
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


@torch.no_grad()
def broadcast_(tensors: Iterable[Tensor]):
    """Give these tensors the values that they have on rank 0; strides may differ from rank to rank."""
    for tensor in tensors if grouped() else ():
        values = tensor.detach().contiguous()
        dist.broadcast(values, src=0)
        tensor.copy_(values)


def gather(obj) -> list | None:
    """The objects of all ranks, in rank order, on rank 0; None on the others."""
    if not grouped():
        return [obj]
    objects = [None] * world_size() if is_main() else None
    dist.gather_object(obj, objects)
    return objects


def from_main(obj):
    """Rank 0's object, on every rank."""
    objects = [obj]
    if grouped():
        dist.broadcast_object_list(objects, src=0)
    return objects[0]


def _environment(name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if launched() else default
