"""Adversarial weight perturbation (AWP): SAM's two passes with a climb of its own size in each layer."""
import torch

from optim.ascent import norms
from optim.sam import SAM


class AWP(SAM):
    """Steps along the gradient at w + v, with v_l = gamma ||w_l|| g_l / ||g_l|| in each weight tensor w_l.

    Biases and normalisation (one dimension) stay where they are. `gamma` is the groups' `rho`; the rest is SAM's.
    The authors' code takes the base step at w + v and subtracts v afterwards; here the weights return to w first,
    as in SAM: weight decay then acts on w and not on w + v, a difference of lr * weight_decay * v.
    Source: Wu, Xia and Wang, NeurIPS 2020, section 3 (there on adversarial images: the closure's business).
    """

    def __init__(self, params, base_optimizer, gamma: float = 0.005, **kwargs):
        super().__init__(params, base_optimizer, rho=gamma, **kwargs)

    def _perturbs(self, p: torch.Tensor) -> bool:
        return p.ndim > 1 and super()._perturbs(p)

    def _move(self, params: list, directions: list, lengths: list, *, rho: float, norm: torch.Tensor) -> list:  # noqa: ARG002
        sizes = norms(params, foreach=self.foreach)
        scales = [rho * size / length.clamp(min=self.eps) for size, length in zip(sizes, lengths, strict=True)]
        for p, direction, scale in zip(params, directions, scales, strict=True):
            p.add_(direction.to(scale.dtype) * scale)
        return [scale * length for scale, length in zip(scales, lengths, strict=True)]
