"""Checks that attacks are as strong as they claim: against noise, more steps, other losses, larger eps, no gradient."""
import itertools

import numpy as np
import torch

from attacks import APGD, FGSM, PGD, SEA, Noise, Square
from attacks.losses import Pixels
from engine.checks import Bench, Finding, judge, pooled_accuracy, pooled_mean_iou
from metrics import scores, worst_case

ROUNDING = 1e-12  # of a mean of float64 ratios
AIMED = ("segpgd", "cospgd", "mce", "js")  # losses made for segmentation


def step_order(bench: Bench) -> Finding:
    """Noise costs little, one step more, ten steps most."""
    clean = pooled_accuracy(bench.clean)
    noise, fgsm, pgd = (pooled_accuracy(bench.attacked(attack, bench.every)) for attack in (
        bench.attack(Noise), bench.attack(FGSM), bench.attack(PGD, steps=10)))
    demands = {"noise <= clean + 0.5": noise <= clean + 0.5, "fgsm <= noise + 0.5": fgsm <= noise + 0.5,
               "pgd-10 <= fgsm + 0.5": pgd <= fgsm + 0.5, "fgsm < clean": fgsm < clean,
               "fgsm costs twice what noise costs, or leaves half of what noise leaves":
                   clean - fgsm >= 2 * (clean - noise) or fgsm <= noise / 2}
    return judge({"clean": clean, "noise": noise, "fgsm": fgsm, "pgd-10": pgd}, demands,
                 means="The gradient leads no further than chance does, or a longer attack is a weaker one.")


def more_steps(bench: Bench) -> Finding:
    """More steps and another start do not change the picture."""
    short = bench.attack(PGD, steps=10)
    ten = bench.attacked(short, bench.few)
    again = bench.attacked(bench.attack(PGD, steps=10, seed=bench.seed + 1), bench.few)
    twenty, fifty = (pooled_accuracy(bench.attacked(bench.attack(PGD, steps=steps, best_iterate=True), bench.few))
                     for steps in (20, 50))
    better = {k: min(ten[k], again[k], key=lambda shot: shot.right) for k in bench.few}
    figures = {"pgd-10": pooled_accuracy(ten), "pgd-20": twenty, "pgd-50": fifty,
               "a restart of pgd-10 helps": pooled_accuracy(ten) - pooled_accuracy(better)}
    return judge(figures, {"pgd-50 <= pgd-10 + 0.3": fifty <= figures["pgd-10"] + 0.3},
                 means="Longer attacks are weaker ones: the gradient is noise, or the best iterate is not kept.")


def loss_order(bench: Bench) -> Finding:
    """A loss made for segmentation does at least as well as plain cross-entropy."""
    found = {loss: pooled_accuracy(bench.attacked(
        bench.attack(PGD, steps=20, best_iterate=True, attack_loss=loss), bench.few)) for loss in ("ce", *AIMED)}
    demands = {f"the lowest of {', '.join(AIMED)} <= ce + 0.3": min(found[loss] for loss in AIMED) <= found["ce"] + 0.3}
    return judge(found, demands, means="The losses that should be stronger are not: masked gradients, or a wrong loss.")


def eps_monotone(bench: Bench) -> Finding:
    """No image gets better with a larger eps that begins where the smaller one ended."""
    radii = [min(factor * bench.eps, 1.0) for factor in (0.5, 1, 2, 4)]
    chain = bench.chain([bench.attack(APGD, eps=eps, steps=10, attack_loss="mce") for eps in radii], bench.few)
    right = [[shot.right for shot in shots.values()] for shots in chain]
    figures = {f"{factor} eps": pooled_accuracy(shots) for factor, shots in zip(("1/2", 1, 2, 4), chain, strict=True)}
    falls = all(more <= less for one, other in itertools.pairwise(right) for less, more in zip(one, other, strict=True))
    smallest, *_, largest = figures.values()
    demands = {"no image has more pixels right than at the smaller eps": falls,
               "4 eps leaves less than 1/2 eps, or at most 1": largest < smallest or largest <= 1}
    return judge(figures, demands, means="A curve over eps would not fall: warm starts are lost, the model draws "
                 "random numbers, or attacks find nothing.")


def unbounded(bench: Bench) -> Finding:
    """A radius at which the image can be made another one leaves nothing right.

    From APGD's result on: short steps of fixed size, which arrive wherever the gradient leads (APGD's, of up to twice
    the radius, would need far more of them).
    """
    first = bench.attack(APGD, steps=20, attack_loss="mce")
    steady = {"step_size": 8 / 255, "best_iterate": True, "attack_loss": "mce"}
    attacks = [first, bench.attack(PGD, eps=64 / 255, steps=50, **steady),
               bench.attack(PGD, eps=1.0, steps=20, **steady)]
    figures, demands = {}, {}
    for name, shots in zip(("64/255", "1"), bench.chain(attacks, bench.few)[1:], strict=True):
        found = {"aAcc": pooled_accuracy(shots), "mIoU": pooled_mean_iou(shots)}
        figures |= {f"{score} at eps {name}": value for score, value in found.items()}
        demands[f"aAcc and mIoU at eps {name} <= 1"] = max(found.values()) <= 1
    return judge(figures, demands, means="Gradient masking, or a network that is hardly trained: the attack does not "
                 "find what certainly is there.")


def black_box(bench: Bench) -> Finding:
    """Random search without gradients is no better than the attack with them."""
    white = pooled_accuracy(bench.attacked(bench.attack(APGD, steps=20, attack_loss="mce"), bench.few))
    black = pooled_accuracy(bench.attacked(bench.attack(Square, steps=200), bench.few))
    return judge({"square, 200 queries": black, "apgd-mce, 20 steps": white},
                 {"apgd-mce <= square + 0.2": white <= black + 0.2},
                 means="Gradient masking: who needs no gradient does more harm.")


class _Kept:
    """A member of an ensemble that keeps what it returned."""

    def __init__(self, member):
        self.member, self.outcome = member, None

    def __getattr__(self, name):
        return getattr(self.member, name)

    def run(self, *args, **settings):
        self.outcome = self.member.run(*args, **settings)
        return self.outcome


def ensemble(bench: Bench) -> Finding:
    """SEA returns each image's worst member, and worst-case scores are within their bounds."""
    attack = bench.attack(SEA, steps=6, class_weights=bench.class_weights)
    attack.members = tuple(map(_Kept, attack.members))
    returned, members = [], []  # by image; shots of members by image
    for k in bench.few:
        returned.append(bench.shot(k, bench.run(attack, k).images).right)
        members.append([bench.shot(k, member.outcome.images) for member in attack.members])
    right = [[shot.right for shot in shots] for shots in members]
    figures = {"right pixels returned": returned, "by members": right, "class weights": bench.weights_from}
    bounds = _bounds(*(np.array([[getattr(shot, name).tolist() for shot in shots] for shots in members]).swapaxes(0, 1)
                       for name in ("intersection", "union", "pixels")))
    figures |= {name: 100 * value for name, value in bounds.items()}
    demands = {
        "returned images are the brute-force minimum over members": returned == list(map(min, right)),
        "worst-case aAcc is the lowest of all choices": abs(bounds["aAcc"] - bounds["aAcc, all choices"]) < ROUNDING,
        "lower bound <= mIoU, all choices <= mIoU, greedy <= mIoU, lowest member": all(
            one <= other + ROUNDING for one, other in itertools.pairwise(list(bounds.values())[2:]))}
    return judge(figures, demands, means="An ensemble's figures are not the worst case that they claim to be.")


def _bounds(intersection, union, pixels) -> dict[str, float]:
    """The worst case of members [K, N, S] as metrics finds it, and by trying all K^N choices; mIoU from low to high."""
    images = np.arange(intersection.shape[1])
    tried = [scores(intersection[list(chosen), images], union[list(chosen), images], pixels[0])
             for chosen in itertools.product(range(len(union)), repeat=len(images))]
    alone = [scores(*counts)["Mean IoU"] for counts in zip(intersection, union, pixels, strict=True)]
    found = worst_case(intersection, union, pixels[0])
    return {"aAcc": found["Overall Acc"], "aAcc, all choices": min(result["Overall Acc"] for result in tried),
            "lower bound": found["Mean IoU lower"], "mIoU, all choices": min(result["Mean IoU"] for result in tried),
            "mIoU, greedy": found["Mean IoU"], "mIoU, lowest member": min(alone)}


def targeted(bench: Bench) -> Finding:
    """A target attracts predictions, and the labels as the target lower the loss."""
    share, loss = [], []  # [before, after] by image
    for k in bench.few:
        target = _other_class(bench, k)
        towards = bench.run(bench.attack(PGD, steps=10, target=target), k).images
        home = bench.run(bench.attack(PGD, steps=5, target=bench.labels[k][0], random_start=False), k).images
        predicted, found = (bench.logits(torch.cat([bench.images[k], images])) for images in (towards, home))
        share.append((100 * (predicted.argmax(1) == target).double().flatten(1).mean(1)).tolist())
        loss.append(Pixels(found, bench.labels[k].expand(2, -1, -1)).cross_entropy().tolist())
    perfect = [bench.clean[k].right == bench.clean[k].pixels.sum() for k in bench.few]  # nothing is left to improve
    demands = {"the share at the target rises": sum(after - before for before, after in share) > 0,
               "cross-entropy falls on every image": all(
                   after < before or done for (before, after), done in zip(loss, perfect, strict=True))}
    return judge({"share": share, "cross-entropy": loss}, demands,
                 means="A targeted attack goes the wrong way, or the gradient leads nowhere.")


def _other_class(bench: Bench, k: int) -> int:
    """The class predicted most often but for the first one; any other one where only one is predicted."""
    counts = bench.logits(bench.images[k]).argmax(1).flatten().bincount(minlength=bench.num_classes)
    return counts.argsort(descending=True, stable=True)[1].item()
