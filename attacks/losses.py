"""The losses that an attack maximises, each defined by the weights of its pixels.

The gradient of every loss here is w * (softmax(logits) - onehot(label)) per pixel, with a weight w that is treated as a
constant; so a loss is defined by the logarithm of w (attacks.pixels computes with it).
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from utils.wide import widest

LEAST_TEMPERATURE = 0.1  # of logodds, in log-odds


@dataclass(frozen=True)
class Loss:
    """A loss, defined by the logarithm of its pixel weights: log_weight(pixels) -> [B, H, W].

    targeted_log_weight: the same for descent towards a target; None for a loss without a targeted form. balanced:
    whether the gradient and the attacked accuracy weight each pixel by its class's class_weights.
    """

    log_weight: Callable
    targeted_log_weight: Callable | None = None
    balanced: bool = False


def _ce(pixels):
    return torch.zeros_like(pixels.log_py)


def _segpgd(pixels):
    """Weight correct pixels 1 - lambda and wrong ones lambda; lambda = (t - 1) / (2 steps)."""
    lambda_ = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, (1 - lambda_).log(), lambda_.log())


def _segpgd_targeted(pixels):
    """Weight pixels at the target lambda and the others 1 - lambda."""
    lambda_ = pixels.log_py.new_tensor((pixels.t - 1) / (2 * pixels.steps))
    return torch.where(pixels.correct, lambda_.log(), (1 - lambda_).log())


def _mce(pixels):
    return torch.where(pixels.correct, 0.0, -torch.inf).to(pixels.log_py)


def _log_cosine(pixels):
    """Return the log of cos(softmax, onehot) = p_y / ||p||_2."""
    return pixels.log_py - pixels.p.square().sum(dim=1).log() / 2


def _cospgd_targeted(pixels):
    return (-_log_cosine(pixels).clamp_max(0).expm1()).log()


def _js(pixels):
    """Weight p_y / 2 * log((1 + p_y) / p_y)."""
    return pixels.log_py + (pixels.log_py.exp().log1p() - pixels.log_py).log() + torch.tensor(0.5).log()


def _tsallis(pixels):
    """Weight p_y^(1 - q), with q = -2 + 3 t / steps rising from -2 to 1."""
    return (3 - 3 * pixels.t / pixels.steps) * pixels.log_py


def _mce_even(pixels):
    """Weight each still-correct pixel 1 / the image's correct pixels of its class."""
    image = torch.arange(len(pixels.index), device=pixels.index.device).view(-1, 1, 1)
    place = (image * pixels.log_p.shape[1] + pixels.index.squeeze(1))[pixels.correct]
    counts = torch.bincount(place, minlength=len(pixels.index) * pixels.log_p.shape[1])
    log_weight = torch.full_like(pixels.log_py, -torch.inf)
    log_weight[pixels.correct] = -counts[place].to(log_weight).log()
    return log_weight


def _blend(names: tuple[str, ...], pixels):
    """Weight each pixel by the sum of these losses' weights, each scaled in each image as in Pixels.scale."""
    return torch.stack([pixels.scale(LOSSES[name].log_weight(pixels)) for name in names]).logsumexp(dim=0)


def _logodds(pixels):
    return _weigh_log_odds(pixels, pixels.correct)


def _logodds_targeted(pixels):
    return _weigh_log_odds(pixels, pixels.valid & ~pixels.correct)


def _weigh_log_odds(pixels, left):
    """Weight sigma(m / T) sigma(-m / T) / (1 - p_y), the slope of T sigma(-m / T); m = log(p_y / (1 - p_y)).

    T is half the mean of |m| over the pixels that are `left` to change, so a pixel that is right with confidence has a
    gradient: 1 / (1 - p_y) cancels the 1 - p_y in softmax - onehot.
    """
    log_rest = pixels.log_rest
    odds = pixels.log_py - log_rest
    total = torch.where(left, odds, 0).flatten(1).sum(1, dtype=widest(odds.device))
    mean = (total / left.flatten(1).sum(1).clamp_min(1)).abs()
    scaled = odds / (mean / 2).clamp_min(LEAST_TEMPERATURE).to(odds).view(-1, 1, 1)
    return torch.nn.functional.logsigmoid(scaled) + torch.nn.functional.logsigmoid(-scaled) - log_rest


# ce: cross-entropy. segpgd: Gu et al., ECCV 2022. mce (masked CE), mce_bal (class-balanced, for mIoU), js
# (Jensen-Shannon): Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of Robust Semantic
# Segmentation Models", ECCV 2024. cospgd: Agnihotri, Jung and Keuper, ICML 2024. tsallis: Matyasko et al.,
# IJCNN 2026. Of this program: mce_even (mce balanced over the classes that are still correct in the image), logodds (of
# the label, so that confident pixels have a gradient too), blend (of losses that differ in which pixels they push
# first; no loss starves another) and blend_late (its tsallis turns from confident pixels to all during the run).
LOSSES = {
    "ce": Loss(_ce, _ce),
    "segpgd": Loss(_segpgd, _segpgd_targeted),
    "mce": Loss(_mce),
    "mce_bal": Loss(_mce, balanced=True),
    "mce_even": Loss(_mce_even),
    "logodds": Loss(_logodds, _logodds_targeted),
    "cospgd": Loss(_log_cosine, _cospgd_targeted),
    "js": Loss(_js, _js),
    "tsallis": Loss(_tsallis, _tsallis),
    "blend": Loss(partial(_blend, ("logodds", "mce", "mce_even", "js", "cospgd"))),
    "blend_late": Loss(partial(_blend, ("logodds", "mce", "mce_even", "tsallis"))),
}


def class_weights(pixel_counts) -> list[float]:
    """Return the class weights [C] of mce_bal: proportional to 1 / the training set's pixels of each class, sum 1.

    pixel_counts: [C]. A class without pixels gets the weight of the rarest class that has some. Raises ValueError if
    all counts are 0.
    """
    counts = torch.as_tensor(pixel_counts, dtype=torch.float64)
    if not counts.gt(0).any():
        raise ValueError("the training set has no labelled pixel: mce_bal needs some to compute class weights")
    counts = torch.where(counts > 0, counts, counts[counts > 0].min())
    return (counts.reciprocal() / counts.reciprocal().sum()).tolist()
