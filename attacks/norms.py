"""The ball an attack searches: all images with values in [0, 1] within eps of the given ones.

To add a norm, write one class with four short methods and one entry in NORMS. Images, points and gradients are
[B, C, H, W]; `draw` is an attacks.draw.Draw.
"""
import math

import torch
from torch import Tensor

from utils.wide import to_float64, widest

MOMENTUM = 0.75  # alpha in APGD (Croce and Hein, ICML 2020)


class Ball:
    """What the norms share: starting points.

    A norm adds draw_point(), direction(), measure(), project() and round_levels(). eps: a number, or each image's own
    [B, 1, 1, 1], float64.
    """

    def __init__(self, images: Tensor, eps: float | Tensor):
        self.images, self.eps = images, eps

    def start_from(self, initial) -> Tensor:
        """Return the starting points in the ball for an attacks.base.InitialState."""
        if initial.points is not None:
            return self.project(initial.points)
        return self.images.clone() if initial.draw is None else self.draw_point(initial.draw)

    def step(self, points: Tensor, before: Tensor | None, gradient: Tensor, size: float | Tensor) -> Tensor:
        """Return APGD's step from `points`: `size` along the direction, mixed with the last step, from `before`.

        before: None for the first step. size: in the units of eps, a number or [B, 1, 1, 1].
        """
        moved = self.project(points + size * self.direction(gradient))
        mix, before = (1.0, points) if before is None else (MOMENTUM, before)
        return self.project(points + mix * (moved - points) + (1 - mix) * (points - before))

    def to_8_bits(self, points: Tensor) -> Tensor:
        """Return points of the ball as images of 256 levels, still in the ball if `images` have such levels too."""
        levels = to_float64(self.images).mul(255).round()
        return (levels + self.round_levels(to_float64(points) * 255 - levels)).to(points) / 255

    def draw_corner(self, draw) -> Tensor:
        """Draw sign noise: a random +-1 for every value, scaled as far as eps allows, then clipped to [0, 1]."""
        signs = torch.where(draw(torch.rand) < 0.5, -1.0, 1.0).to(self.images)
        return self.project(self.images + self.eps * self.direction(signs))


class LinfBall(Ball):
    """Every pixel within eps: max |adv - images| <= eps, exactly, in the tensors' own precision."""

    def __init__(self, images: Tensor, eps: float | Tensor):
        super().__init__(images, eps)
        self.low = _shift_within(images, -eps).clamp_(0, 1)  # [B, C, H, W]
        self.high = _shift_within(images, eps).clamp_(0, 1)

    def draw_point(self, draw) -> Tensor:
        """Draw uniformly from the cube of half-width eps, then clip to [0, 1]."""
        return self.project(self.images + self.eps * (2 * draw(torch.rand) - 1))

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """Return the steepest step of size 1: the gradient's sign."""
        return gradient.sign()

    @staticmethod
    def measure(delta: Tensor) -> Tensor:
        """Return the length of each image's delta.  [B], float64."""
        return delta.to(widest(delta.device)).flatten(1).abs().amax(1)

    def project(self, points: Tensor) -> Tensor:
        """Return the nearest points of the ball."""
        return torch.clamp(points, self.low, self.high)

    def round_levels(self, delta: Tensor) -> Tensor:
        """Return delta in grey levels as the nearest whole ones of at most eps: 2.55 levels allow 2."""
        most = math.floor(self.eps * 255 + 1e-6)  # 4/255 as a float may lie below 4 levels
        return delta.round().clamp(-most, most)


class L2Ball(Ball):
    """Each image within eps: ||adv - images||_2 <= eps over its C*H*W values in [0, 1] units."""

    def draw_point(self, draw) -> Tensor:
        """Draw uniformly from the ball: a Gaussian direction at radius eps * U^(1/n), then clip to [0, 1]."""
        radius = self.eps * draw(torch.rand).flatten(1)[:, 0] ** (1 / self.images[0].numel())  # [B]
        return self.project(self.images + radius.view(-1, 1, 1, 1) * self.direction(draw(torch.randn)))

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """Return each image's gradient scaled to length 1; a zero gradient stays zero."""
        tiny = torch.finfo(gradient.dtype).tiny
        # Divide by the largest entry first: the squares of a confident model's gradient would underflow to 0.
        gradient = gradient / gradient.flatten(1).abs().amax(dim=1).clamp_min(tiny).view(-1, 1, 1, 1)
        return gradient / _l2_norms(gradient).clamp_min(tiny)

    @staticmethod
    def measure(delta: Tensor) -> Tensor:
        """Return the length of each image's delta.  [B], float64."""
        return delta.to(widest(delta.device)).flatten(1).norm(dim=1)

    def project(self, points: Tensor) -> Tensor:
        """Scale back to radius eps, then clip to [0, 1]; images are in [0, 1], so clipping only shortens delta."""
        delta = points - self.images
        scale = (self.eps / _l2_norms(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1).to(delta)
        return (self.images + delta * scale).clamp(0, 1)

    def round_levels(self, delta: Tensor) -> Tensor:
        """Return delta in grey levels as whole ones, of at most delta's length.

        All are rounded towards 0; what that saves of the length moves the largest remainders one level on. Rounding to
        the nearest would lengthen some deltas and leave nothing of those that spread less than half a level everywhere.
        """
        whole = delta.trunc()
        rest = (delta - whole).abs().flatten(1)  # [B, n]
        cost = torch.where(rest > 1e-3, 2 * whole.abs().flatten(1) + 1, torch.inf)  # (k + 1)^2 - k^2; 1e-3: rounding
        order = rest.argsort(dim=1, descending=True)
        saved = (delta.square() - whole.square()).flatten(1).sum(1, keepdim=True)
        moves = torch.zeros_like(rest).scatter(1, order, (cost.gather(1, order).cumsum(1) <= saved).to(rest))
        return whole + delta.sign() * moves.view_as(delta)


NORMS = {"linf": LinfBall, "l2": L2Ball}


def _l2_norms(values: Tensor) -> Tensor:
    """Return the L2 norm of each image: [B, C, H, W] -> [B, 1, 1, 1]."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _shift_within(images: Tensor, offset: float | Tensor) -> Tensor:
    """Return images + offset, at most |offset| away: rounding can exceed it (by up to 6e-5 of 0.25/255)."""
    exact = to_float64(images)
    offset = torch.as_tensor(offset, dtype=exact.dtype, device=exact.device)
    rounded = (exact + offset).to(images.dtype)
    exceeds = (rounded.double() - exact).abs() > abs(offset)
    return torch.where(exceeds, torch.nextafter(rounded, exact.to(rounded)), rounded).to(images.device)
