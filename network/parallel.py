"""One network on several GPUs or in several processes."""
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network.precision import precise
from network.sync_batchnorm import synchronize_batchnorm
from utils import distributed


def parallelize(model: nn.Module, *, replicas: int, amp: bool = False, sync_bn: bool = True) -> nn.Module:
    """Return `model` for one of torchrun's processes, for `replicas` visible GPUs (DataParallel), or itself.

    amp: in bfloat16, innermost, because DataParallel's threads don't inherit autocast's dtype. sync_bn: under torchrun
    BatchNorm sees the whole batch (the layers of `model` are replaced).
    """
    net = precise(model, amp=amp)
    if distributed.world_size() > 1:
        if sync_bn:
            synchronize_batchnorm(model)
        device = next(model.parameters()).device
        # Without broadcast_buffers: the trainer does that where it matters, before a validation.
        return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None,
                                       broadcast_buffers=False)
    return nn.DataParallel(net) if replicas > 1 else net
