"""Adversarial weight perturbation (AWP): SAM with a perturbation whose size is set per layer."""
import torch

from optim.ascent import tensor_norms
from optim.sam import SAM


class AWP(SAM):
    """Steps along the gradient at w + v, with v_l = gamma ||w_l|| g_l / ||g_l|| in each weight tensor w_l.

    Parameters of one dimension (biases, normalisation) are not perturbed. `gamma` is stored as the groups' `rho`; the
    other arguments are SAM's. The authors' code takes the base step at w + v and then subtracts v; here, as in SAM, the
    weights return to w first, so that weight decay acts on w, not on w + v: a difference of lr * weight_decay * v.
    Source: Wu, Xia and Wang, NeurIPS 2020, section 3. There the images are adversarial; here the closure decides that.
    """

    def __init__(self, params, base_optimizer, gamma: float = 0.005, **kwargs):
        super().__init__(params, base_optimizer, rho=gamma, **kwargs)

    def _is_perturbed(self, p: torch.Tensor) -> bool:
        return p.ndim > 1 and super()._is_perturbed(p)

    def _add_e(self, params: list, directions: list, norms: list, *, rho: float, norm: torch.Tensor) -> list:  # noqa: ARG002
        sizes = tensor_norms(params, foreach=self.foreach)
        scales = [rho * size / length.clamp(min=self.eps) for size, length in zip(sizes, norms, strict=True)]
        for p, direction, scale in zip(params, directions, scales, strict=True):
            p.add_(direction.to(scale.dtype) * scale)
        return [scale * length for scale, length in zip(scales, norms, strict=True)]
