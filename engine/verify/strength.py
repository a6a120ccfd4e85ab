"""Checks that attacks are as strong as they claim: against noise, more steps, other losses, larger eps, no gradient."""
import itertools

from attacks import APGD, FGSM, PGD, Noise, Square
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy, pooled_mean_iou

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
