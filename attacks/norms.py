"""The ball an attack stays in: all images within eps of the given ones that are images, i.e. in [0, 1].

A norm adds one class of short methods and one entry in NORMS. Shapes: images, points and gradients [B, C, H, W];
`draw` is an attacks.draw.Draw.
"""
import torch
from torch import Tensor


class Ball:
    """What the norms share: where an attack begins."""

    def __init__(self, images: Tensor, eps: float):
        self.images, self.eps = images, eps

    def first(self, begin) -> Tensor:
        """Where an attempt begins (attacks.base.Beginning), in the ball."""
        if begin.points is not None:
            return self.project(begin.points)
        return self.images.clone() if begin.draw is None else self.random_point(begin.draw)

    def corner(self, draw) -> Tensor:
        """Sign noise: a random +-1 for every value, as far as eps allows, then cut to [0, 1]."""
        signs = torch.where(draw(torch.rand) < 0.5, -1.0, 1.0).to(self.images)
        return self.project(self.images + self.eps * self.direction(signs))


class LinfBall(Ball):
    """Every pixel within eps: max |adv - images| <= eps, exactly, in the tensors' own precision."""

    def __init__(self, images: Tensor, eps: float):
        super().__init__(images, eps)
        self.low = _bound(images, -eps).clamp_(0, 1)  # [B, C, H, W]
        self.high = _bound(images, eps).clamp_(0, 1)

    def random_point(self, draw) -> Tensor:
        """Uniform in the cube of half-width eps, then cut to [0, 1]."""
        return self.project(self.images + self.eps * (2 * draw(torch.rand) - 1))

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """The steepest step of size 1: the sign."""
        return gradient.sign()

    def project(self, points: Tensor) -> Tensor:
        """The nearest point of the ball."""
        return torch.clamp(points, self.low, self.high)


class L2Ball(Ball):
    """Each image within eps: ||adv - images||_2 <= eps over its C*H*W values in [0, 1] units."""

    def random_point(self, draw) -> Tensor:
        """Uniform in the ball: a Gaussian direction at radius eps * U^(1/n), then cut to [0, 1]."""
        radius = self.eps * draw(torch.rand).flatten(1)[:, 0] ** (1 / self.images[0].numel())  # [B]
        return self.project(self.images + radius.view(-1, 1, 1, 1) * self.direction(draw(torch.randn)))

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """The steepest step of size 1, image by image; a zero gradient stays zero."""
        tiny = torch.finfo(gradient.dtype).tiny
        # Scaled by its largest entry first: the squares of a confident model's gradient would underflow to 0.
        gradient = gradient / gradient.flatten(1).abs().amax(dim=1).clamp_min(tiny).view(-1, 1, 1, 1)
        return gradient / _lengths(gradient).clamp_min(tiny)

    def project(self, points: Tensor) -> Tensor:
        """Scale back to radius eps, then cut to [0, 1]: images lie in the box, so cutting only shortens delta."""
        delta = points - self.images
        scale = (self.eps / _lengths(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)
        return (self.images + delta * scale).clamp(0, 1)


NORMS = {"linf": LinfBall, "l2": L2Ball}


def _lengths(values: Tensor) -> Tensor:
    """L2 norm of each image, shaped to divide by.  [B, C, H, W] -> [B, 1, 1, 1]."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _bound(images: Tensor, offset: float) -> Tensor:
    """images + offset, one float nearer to images where rounding went beyond it (by up to 6e-5 of 0.25/255)."""
    exact = images.double() + offset
    rounded = exact.to(images.dtype)
    beyond = (rounded.double() - images.double()).abs() > abs(offset)
    return torch.where(beyond, torch.nextafter(rounded, images), rounded)
