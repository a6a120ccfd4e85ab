"""What all attacks share: checks at the door, a model left as it was found, and the one gradient loop."""
from functools import partial

import torch
from torch import Tensor, nn

from attacks.losses import cross_entropy
from attacks.norms import NORMS
from utils.modes import eval_mode, frozen_parameters
from utils.seed import generator_for


class Attack:
    """Gradient ascent on the loss inside a ball: x <- project(x + step_size * direction(gradient)), `steps` times.

    Calling it gives adversarial images for a batch. The model takes [0, 1] images (normalisation is inside it) and
    returns logits [B, C, H, W]. It runs in eval mode with frozen parameters and gets its flags back afterwards; no
    parameter gradient is computed, no buffer changes.

    eps, step_size: in [0, 1] pixel units (linf), or length over the image (l2). seed: see __call__.
    Raises ValueError for an unknown norm, an eps below 0 (above 1 for linf), steps below 1, a negative step_size.
    """

    def __init__(self, *, eps: float, step_size: float, steps: int, norm: str = "linf", random_start: bool = False,
                 seed: int = 1):
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r}: known are {', '.join(NORMS)}")
        if not 0 <= eps < float("inf") or (norm == "linf" and eps > 1):
            raise ValueError(f"eps {eps}: must be a number from 0 up, for linf at most 1 (pixels are in [0, 1])")
        if steps < 1 or not 0 <= step_size < float("inf"):
            raise ValueError(f"steps {steps}, step_size {step_size}: at least one step, of size 0 or more")
        self.eps, self.step_size, self.steps, self.norm = float(eps), float(step_size), int(steps), norm
        self.random_start, self.seed = random_start, seed

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, image_ids=None) -> Tensor:
        """Adversarial images: same shape, dtype and device, in [0, 1], within eps of `images`, detached.

        images [B, C, H, W] in [0, 1]; labels [B, H, W] int64, 255 (and any label that is no class) is never read.
        image_ids: B ints; then the random start of an image depends on (seed, its id) alone, not on its batch.
        Without them it is drawn from torch's global generator.
        """
        _check(images, labels)
        images = images.detach()
        with eval_mode(model), frozen_parameters(model):
            return self.perturb(model, images, labels, draw=self._source(images, image_ids))

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, *, draw) -> Tensor:
        """The loop. `draw(torch.rand)` gives uniform, `draw(torch.randn)` normal numbers of images' shape."""
        ball = NORMS[self.norm](images, self.eps)
        adv_images = ball.random_point(draw) if self.random_start else images.clone()
        finite = torch.ones((), dtype=torch.bool, device=images.device)  # read at the end: reading waits for the GPU
        for _ in range(self.steps):
            gradient = self.gradient(model, adv_images, labels)
            finite &= gradient.isfinite().all()  # else sign(nan) = 0 would look like robustness
            adv_images = ball.project(adv_images + self.step_size * ball.direction(gradient))
        if not finite:
            raise FloatingPointError(f"{self!r}: the gradient is not finite; does the model give finite logits?")
        return adv_images

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Gradient of the attacked loss with respect to the images alone.  [B, C, H, W]."""
        with torch.enable_grad():
            images = images.detach().requires_grad_(True)
            loss = cross_entropy(model(images), labels)
            return torch.autograd.grad(loss, images)[0]

    def settings(self) -> dict:
        """Everything that decides the result, for records and results.json."""
        return {"norm": self.norm, "eps": self.eps, "steps": self.steps, "step_size": self.step_size,
                "random_start": self.random_start, "seed": self.seed if self.random_start else None}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
                           for name, value in self.settings().items())
        return f"{type(self).__name__}({values})"

    def _source(self, images: Tensor, image_ids):
        """Random numbers shaped like images. Drawn on the CPU for given ids: the same numbers on every device."""
        if image_ids is None:
            return lambda kind: kind(images.shape, dtype=images.dtype, device=images.device)
        generators = [generator_for(self.seed, int(image_id)) for image_id in image_ids]
        return partial(_draw_each, images, generators)


def _draw_each(images: Tensor, generators: list, kind) -> Tensor:
    shape = images.shape[1:]
    return torch.stack([kind(shape, generator=generator) for generator in generators]).to(images)


def _check(images: Tensor, labels: Tensor):
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be float [B, C, H, W], got {images.dtype} {list(images.shape)}")
    if labels.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"labels must be [B, H, W] for images {list(images.shape)}, got {list(labels.shape)}")
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError("images must be in [0, 1] and not normalised: the model normalises")
