"""Checks of the gradient that attacks follow: it exists, it is the loss's own, and large logits don't destroy it."""
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import LOSSES, PGD
from attacks.pixels import valid_labels
from attacks.search import Problem
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy
from network import Scaled
from utils.modes import eval_mode
from utils.seed import make_generator
from utils.wide import has_float64, to_float64

CROP = 128
DIRECTIONS = 8  # random ones, besides the gradient's own sign
STEPS = (1e-7, 1e-9)  # of the finite difference: one small enough for curvature, one large enough for rounding
SCALES = (100.0, 1e4)
MARGINS = (1, 10)  # median logit margins of the softened models


def gradient(bench: Bench) -> Finding:
    """Autograd's directional derivatives agree with finite differences, and every image has a gradient."""
    dead = [k for k in bench.every if bench.clean[k].pixels.sum() and not _ascent(bench, k).any()]
    errors, cosines, ratios = [], [], []
    model = copy.deepcopy(bench.model)
    model = (model if has_float64(bench.images[0].device) else model.cpu()).double()
    with eval_mode(model):
        for k in bench.few:
            image, labels = _crop(bench, k)
            autograd = _autograd(model, image, labels)
            cosines.append(_cosine(autograd, _direction(model, image, labels)))
            for direction in _directions(autograd, make_generator(bench.seed, "directions", k)):
                exact = (autograd * direction).sum().item()
                error, measured = _error(model, image, labels, direction, exact)
                errors.append(error)
            ratios.append(measured / exact if exact else 1.0)  # of the last direction, the gradient's sign
    error, worst_ratio = torch.tensor(errors).median().item(), max(ratios, key=lambda ratio: abs(ratio - 1))
    figures = {"median relative error": error, "along the sign, measured / autograd": worst_ratio,
               "attack's direction, cosine": min(cosines), "images without a gradient": len(dead)}
    demands = {"median relative error <= 1e-3": error <= 1e-3,
               "along the gradient's sign within 1e-3": abs(worst_ratio - 1) <= 1e-3,
               "cosine of the attack's direction with it >= 1 - 1e-6": min(cosines) >= 1 - 1e-6,
               "every image has a finite gradient that is not 0": not dead}
    return judge(figures, demands, means="Attacks follow a gradient that is not the loss's (rounding, clipping or "
                 "random numbers in the model): other attacks may succeed where these fail.")


def extreme_logits(bench: Bench) -> Finding:
    """Every loss still has a gradient when logits are 100 and 10,000 times as large."""
    attackable = [k for k in bench.few if bench.clean[k].correct]  # masked losses attack correct pixels only
    lost = [f"{name} x {scale:g}" for scale in SCALES for name in LOSSES
            if not all(_ascent(bench, k, loss=name, scale=scale).any() for k in attackable)]
    figures = {"losses": list(LOSSES), "without a gradient": lost, "class weights": bench.weights_from}
    return judge(figures, {"every loss has a finite gradient that is not 0": not lost},
                 means="A confident network looks robust because the loss underflows.")


def logit_scale(bench: Bench) -> Finding:
    """Scaling the logits down, which changes no prediction, doesn't make an attack stronger.

    With large logits the gradient of confident pixels vanishes (p_y rounds to 1), which is how defensive distillation
    works. PGD's steps have a fixed size; APGD's depend on the loss, which changes with the scale.
    """
    attack = bench.make_attack(PGD, steps=20, best_iterate=True, attack_loss="mce")
    margin = torch.cat([_margins(bench, k) for k in bench.few]).median().item()
    figures = {"median margin of logits": margin, "unscaled": pooled_accuracy(bench.score_attacked(attack, bench.few))}
    softer = {f"margin {wanted}": wanted / margin for wanted in MARGINS if 0 < wanted < margin}
    for name, factor in softer.items():
        model = Scaled(bench.model, factor)
        softened = {k: bench.score(k, bench.run(attack, k, model=model).images) for k in bench.few}
        figures[name] = pooled_accuracy(softened)
    lowest = min(figures[name] for name in ("unscaled", *softer))
    return judge(figures, {"pgd-mce-20 <= on softened logits + 5": figures["unscaled"] <= lowest + 5},
                 means="This network looks robust only because large logits make its gradients vanish.")


def _margins(bench: Bench, k: int) -> Tensor:
    """Return the largest logit minus the second largest at each labelled pixel of image k.  [pixels]."""
    largest = bench.logits(bench.images[k]).topk(2, dim=1).values  # [1, 2, H, W]
    return (largest[:, 0] - largest[:, 1])[valid_labels(bench.labels[k], bench.num_classes) != 255]


def _ascent(bench: Bench, k: int, *, loss: str = "ce", scale: float = 1.0) -> Tensor:
    """Return the gradient of an attack's first step on image k.  [1, 3, H, W]."""
    return _direction(Scaled(bench.model, scale), bench.images[k], bench.labels[k], loss=loss,
                      class_weights=bench.class_weights)


def _direction(model: nn.Module, image: Tensor, labels: Tensor, **settings) -> Tensor:
    """Return the gradient that an attack follows. Raises FloatingPointError if it is not finite."""
    problem = Problem(model, image, labels, **settings)
    with eval_mode(model):
        return problem.differentiate(image, torch.arange(1, device=image.device), 1, 10)[1]


def _crop(bench: Bench, k: int) -> tuple[Tensor, Tensor]:
    """Return the centre of image k in float64, off kinks by noise, and its labels (predictions if none is valid)."""
    top, left = (max(side - CROP, 0) // 2 for side in bench.images[k].shape[2:])
    image, labels = (values[k][..., top:top + CROP, left:left + CROP] for values in (bench.images, bench.labels))
    shift = torch.rand(image.shape, generator=make_generator(bench.seed, "kinks", k), dtype=torch.float64)
    preds = bench.logits(image).argmax(1)
    labels = valid_labels(labels, bench.num_classes)
    image = to_float64(image)
    moved = image.clamp(1e-3, 1 - 1e-3) + 1e-3 * (shift.to(image.device) - 0.5)
    return moved, (labels if (labels != 255).any() else preds).to(image.device)


def _loss(model: nn.Module, image: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(image), labels, ignore_index=255, reduction="sum")


def _autograd(model: nn.Module, image: Tensor, labels: Tensor) -> Tensor:
    image = image.detach().requires_grad_(True)
    gradient, = torch.autograd.grad(_loss(model, image, labels), image)
    return gradient


def _directions(autograd: Tensor, generator: torch.Generator):
    """Yield DIRECTIONS arrays of random signs, then the gradient's signs."""
    for _ in range(DIRECTIONS):
        yield torch.randn(autograd.shape, generator=generator, dtype=torch.float64).sign().to(autograd.device)
    yield autograd.sign()


@torch.no_grad()
def _error(model: nn.Module, image: Tensor, labels: Tensor, direction: Tensor, exact: float) -> tuple[float, float]:
    """Return the smallest relative error over STEPS of the central difference along `direction`, and its value."""
    candidates = []
    for step in STEPS:
        up, down = (_loss(model, image + sign * step * direction, labels).item() for sign in (1, -1))
        measured = (up - down) / (2 * step)
        candidates.append((abs(measured - exact) / max(abs(measured), abs(exact), 1e-300), measured))
    return min(candidates)


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two tensors, 0 if either is 0."""
    return F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
