"""BatchNorm over the batches of all ranks, on GPUs and on the CPU, which torch's SyncBatchNorm doesn't support."""
import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from utils import distributed


def synchronize_batchnorm(model: nn.Module) -> nn.Module:
    """Turn every BatchNorm in `model` into a SyncBatchNorm, in place: parameters, buffers, flags and keys stay."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncBatchNorm  # a new module would lose hooks, and other objects' references to it
            module.process_group = None  # all ranks
    return model


class SyncBatchNorm(_BatchNorm):
    """torch's SyncBatchNorm on a GPU; on the CPU the same computation with differentiable all-reduces.

    x: [B, C, ...]; B may differ between ranks. Gradients are those of the sum of all ranks' losses. All ranks must run
    forward and backward together. With one process it equals BatchNorm.
    """

    # Not a subclass of nn.SyncBatchNorm: DistributedDataParallel rejects those on the CPU.
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, ...], in training with the statistics of all ranks."""
        if x.is_cuda:
            return nn.SyncBatchNorm.forward(self, x)
        if self.training and distributed.in_group() and distributed.world_size() > 1:
            return self._synchronized(x)
        return super().forward(x)

    def _synchronized(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # as batch_norm computes half precision
        here = values.new_tensor([x.numel() / x.size(1)])
        *_, count = reduced = all_reduce(torch.cat([values.sum(axes), here]))
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = reduced[:-1] / count
        centred = values - mean.view(shape)
        var = all_reduce(centred.square().sum(axes)) / count  # E[x^2] - E[x]^2 would lose precision
        if self.track_running_stats:
            self._update_running(mean.detach(), var.detach() * (count / (count - 1)))
        normed = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor):
        """Move the running statistics towards this batch's mean and variance, [C] each."""
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)
