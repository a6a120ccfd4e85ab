"""Checks of the gradient that attacks follow: is it there, is it the loss's, does it survive large logits."""
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import LOSSES, PGD
from attacks.losses import valid_labels
from attacks.search import Problem
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy
from network import Scaled
from utils.modes import eval_mode
from utils.seed import make_generator

CROP = 128
DIRECTIONS = 8  # random ones, besides the gradient's own sign
STEPS = (1e-7, 1e-9)  # of the finite difference: between curvature and float64's rounding one fits
SCALES = (100.0, 1e4)
MARGINS = (1, 10)  # medians that logits are softened to


def gradient(bench: Bench) -> Finding:
    """Autograd's directional derivatives are those of finite differences, and no image is without a gradient."""
    dead = [k for k in bench.every if bench.clean[k].pixels.sum() and not _ascent(bench, k).any()]
    errors, cosines, ratios = [], [], []
    model = copy.deepcopy(bench.model).double()
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
                 "random numbers in the model): what resists them may fall to others.")


def extreme_logits(bench: Bench) -> Finding:
    """With logits 100 and 10,000 times as large every loss still has a gradient."""
    attackable = [k for k in bench.few if bench.clean[k].right]  # masked losses have nothing else to attack
    lost = [f"{name} x {scale:g}" for scale in SCALES for name in LOSSES
            if not all(_ascent(bench, k, loss=name, scale=scale).any() for k in attackable)]
    figures = {"losses": list(LOSSES), "without a gradient": lost, "class weights": bench.weights_from}
    return judge(figures, {"every loss has a finite gradient that is not 0": not lost},
                 means="A confident network looks robust, as the loss underflows.")


def logit_scale(bench: Bench) -> Finding:
    """Smaller logits, which make the same classifier, do not make an attack stronger.

    With large ones the gradient of confident pixels vanishes (p_y rounds to 1): defensive distillation is no more than
    that. Steps of fixed size, as APGD's rule looks at the loss itself, which changes with the scale.
    """
    attack = bench.attack(PGD, steps=20, best_iterate=True, attack_loss="mce")
    margin = torch.cat([_margins(bench, k) for k in bench.few]).median().item()
    figures = {"median margin of logits": margin, "as it is": pooled_accuracy(bench.attacked(attack, bench.few))}
    softer = {f"margin {wanted}": wanted / margin for wanted in MARGINS if 0 < wanted < margin}
    for name, factor in softer.items():
        model = Scaled(bench.model, factor)
        figures[name] = pooled_accuracy({k: bench.shot(k, bench.run(attack, k, model=model).images) for k in bench.few})
    lowest = min(figures[name] for name in ("as it is", *softer))
    return judge(figures, {"pgd-mce-20 <= on softened logits + 5": figures["as it is"] <= lowest + 5},
                 means="Large logits alone make this network look robust: its gradients vanish.")


def _margins(bench: Bench, k: int) -> Tensor:
    """How far the largest logit of image k's labelled pixels is above the second.  [pixels]."""
    largest = bench.logits(bench.images[k]).topk(2, dim=1).values  # [1, 2, H, W]
    return (largest[:, 0] - largest[:, 1])[valid_labels(bench.labels[k], bench.num_classes) != 255]


def _ascent(bench: Bench, k: int, *, loss: str = "ce", scale: float = 1.0) -> Tensor:
    """The first gradient of an attack on image k.  [1, 3, H, W]."""
    return _direction(Scaled(bench.model, scale), bench.images[k], bench.labels[k], loss=loss,
                      class_weights=bench.class_weights)


def _direction(model: nn.Module, image: Tensor, labels: Tensor, **settings) -> Tensor:
    """What an attack would ascend along. Raises FloatingPointError where it is not finite."""
    problem = Problem(model, image, labels, **settings)
    with eval_mode(model):
        return problem.differentiate(image, torch.arange(1, device=image.device), 1, 10)[1]


def _crop(bench: Bench, k: int) -> tuple[Tensor, Tensor]:
    """The middle of image k in float64, moved a little to where no value sits on a kink, and its labels or, where
    there are none, predictions.
    """
    top, left = (max(side - CROP, 0) // 2 for side in bench.images[k].shape[2:])
    image, labels = (values[k][..., top:top + CROP, left:left + CROP] for values in (bench.images, bench.labels))
    shift = torch.rand(image.shape, generator=make_generator(bench.seed, "kinks", k), dtype=torch.float64)
    preds = bench.logits(image).argmax(1)
    labels = valid_labels(labels, bench.num_classes)
    moved = image.double().clamp(1e-3, 1 - 1e-3) + 1e-3 * (shift.to(image.device) - 0.5)
    return moved, labels if (labels != 255).any() else preds


def _loss(model: nn.Module, image: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(image), labels, ignore_index=255, reduction="sum")


def _autograd(model: nn.Module, image: Tensor, labels: Tensor) -> Tensor:
    image = image.detach().requires_grad_(True)
    gradient, = torch.autograd.grad(_loss(model, image, labels), image)
    return gradient


def _directions(autograd: Tensor, generator: torch.Generator):
    """Random signs, DIRECTIONS times, then the gradient's own."""
    for _ in range(DIRECTIONS):
        yield torch.randn(autograd.shape, generator=generator, dtype=torch.float64).sign().to(autograd.device)
    yield autograd.sign()


@torch.no_grad()
def _error(model: nn.Module, image: Tensor, labels: Tensor, direction: Tensor, exact: float) -> tuple[float, float]:
    """The smallest relative error over STEPS of the central difference along `direction`, and that difference."""
    tries = []
    for step in STEPS:
        up, down = (_loss(model, image + sign * step * direction, labels).item() for sign in (1, -1))
        measured = (up - down) / (2 * step)
        tries.append((abs(measured - exact) / max(abs(measured), abs(exact), 1e-300), measured))
    return min(tries)


def _cosine(one: Tensor, other: Tensor) -> float:
    """0 where one of them is 0."""
    return F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
