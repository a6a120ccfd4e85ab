"""One network on several GPUs or in several processes, or compiled."""
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network.precision import precise
from network.sync_batchnorm import synchronize_batchnorm
from utils import distributed
from utils.errors import UserError


def parallelize(model: nn.Module, *, replicas: int, amp: bool = False, sync_bn: bool = True,
                compiled: bool = False) -> nn.Module:
    """Return `model` for one of torchrun's processes, for `replicas` visible GPUs (DataParallel), or itself.

    amp: in bfloat16, innermost, because DataParallel's threads don't inherit autocast's dtype. sync_bn: under torchrun
    BatchNorm sees the whole batch (the layers of `model` are replaced). compiled: through torch.compile(); raises
    UserError where that can't work.
    """
    net = precise(model, amp=amp)
    if compiled:
        _check_compiler(next(model.parameters()).device, replicas, sync_bn=sync_bn and distributed.world_size() > 1)
    if distributed.world_size() > 1:
        if sync_bn:
            synchronize_batchnorm(model)
        device = next(model.parameters()).device
        # Without broadcast_buffers: the trainer does that where it matters, before a validation.
        net = DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None,
                                      broadcast_buffers=False)
    elif replicas > 1:
        net = nn.DataParallel(net)
    # fallback_random: dropout draws what it draws without compilation.
    return torch.compile(net, options={"fallback_random": True}) if compiled else net


def _check_compiler(device: torch.device, replicas: int, *, sync_bn: bool):
    if sync_bn:  # measured: through a compiled all-reduce the gradients are others
        raise UserError("--compile: not with a synchronised BatchNorm: add --no-sync_bn, or leave out --compile")
    if replicas > 1:
        raise UserError("--compile: not with several GPUs of --gpu_id: start the program with torchrun (docs/gpus.md)")
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.ones(4, device=device))
    except Exception as error:  # no compiler, no Triton, a system that has neither: each fails in its own way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--compile: torch.compile() doesn't work here ({reason}): leave it out") from None
