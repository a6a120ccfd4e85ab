"""Checks of attack strength: against noise, more steps, other losses, larger eps and attacks without gradients."""
import itertools

from attacks import APGD, FGSM, PGD, Noise, Race, Square
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy, pooled_mean_iou

SINGLE_LOSSES = ("ce", "segpgd", "cospgd", "mce", "mce_even", "logodds", "js")


def step_order(bench: Bench) -> Finding:
    """Noise lowers accuracy least, one gradient step more, ten steps most."""
    clean = pooled_accuracy(bench.clean)
    noise, fgsm, pgd = (pooled_accuracy(bench.score_attacked(attack, bench.every)) for attack in (
        bench.make_attack(Noise), bench.make_attack(FGSM), bench.make_attack(PGD, steps=10)))
    demands = {"noise <= clean + 0.5": noise <= clean + 0.5, "fgsm <= noise + 0.5": fgsm <= noise + 0.5,
               "pgd-10 <= fgsm + 0.5": pgd <= fgsm + 0.5, "fgsm < clean": fgsm < clean,
               "fgsm lowers accuracy twice as much as noise, or leaves half of what noise leaves":
                   clean - fgsm >= 2 * (clean - noise) or fgsm <= noise / 2}
    return judge({"clean": clean, "noise": noise, "fgsm": fgsm, "pgd-10": pgd}, demands,
                 means="The gradient helps no more than chance, or a longer attack is weaker.")


def more_steps(bench: Bench) -> Finding:
    """More steps don't make an attack weaker; the figures show how much another start helps."""
    short = bench.make_attack(PGD, steps=10)
    ten = bench.score_attacked(short, bench.few)
    again = bench.score_attacked(bench.make_attack(PGD, steps=10, seed=bench.seed + 1), bench.few)
    longer = (bench.make_attack(PGD, steps=steps, best_iterate=True) for steps in (20, 50))
    twenty, fifty = (pooled_accuracy(bench.score_attacked(attack, bench.few)) for attack in longer)
    better = {k: min(ten[k], again[k], key=lambda result: result.correct) for k in bench.few}
    figures = {"pgd-10": pooled_accuracy(ten), "pgd-20": twenty, "pgd-50": fifty,
               "a restart of pgd-10 helps": pooled_accuracy(ten) - pooled_accuracy(better)}
    return judge(figures, {"pgd-50 <= pgd-10 + 0.3": fifty <= figures["pgd-10"] + 0.3},
                 means="Longer attacks are weaker: the gradient is noise, or the best iterate is not kept.")


def losses(bench: Bench) -> Finding:
    """The best of the losses made for segmentation, for each image, attacks at least as well as cross-entropy.

    Race, which sums them, is one of them. Of a single one, race included, that is no law: which is strongest differs
    between images of honest networks.
    """
    attacks = {loss: bench.make_attack(PGD, steps=20, best_iterate=True, attack_loss=loss) for loss in SINGLE_LOSSES}
    attacks["race"] = bench.make_attack(Race, steps=20)
    scored = {name: bench.score_attacked(attack, bench.few) for name, attack in attacks.items()}
    found = {name: pooled_accuracy(results) for name, results in scored.items()}
    others = [results for name, results in scored.items() if name != "ce"]
    best = pooled_accuracy({k: min((results[k] for results in others), key=lambda result: result.correct)
                            for k in bench.few})
    return judge({**found, "best of the others": best}, {"best of the others <= ce + 0.3": best <= found["ce"] + 0.3},
                 means="Losses that should be stronger together are not: masked gradients, or wrong losses.")


def eps_monotone(bench: Bench) -> Finding:
    """No image's accuracy rises when a larger eps starts from the result of the smaller one."""
    radii = [min(factor * bench.eps, 1.0) for factor in (0.5, 1, 2, 4)]
    attacks = [bench.make_attack(APGD, eps=eps, steps=10, attack_loss="mce") for eps in radii]
    chain = bench.score_chain(attacks, bench.few)
    right = [[result.correct for result in scored.values()] for scored in chain]
    figures = {f"{factor} eps": pooled_accuracy(scored) for factor, scored in zip(("1/2", 1, 2, 4), chain, strict=True)}
    falls = all(more <= less for one, other in itertools.pairwise(right) for less, more in zip(one, other, strict=True))
    smallest, *_, largest = figures.values()
    demands = {"no image has more correct pixels than at the smaller eps": falls,
               "accuracy at 4 eps is below that at 1/2 eps, or at most 1": largest < smallest or largest <= 1}
    return judge(figures, demands, means="Accuracy doesn't fall as eps grows: warm starts are ignored, the model draws "
                 "random numbers, or attacks find nothing.")


def unbounded(bench: Bench) -> Finding:
    """A radius so large that the image can become any other leaves almost no pixel correct.

    Continues APGD's result by short steps of fixed size; APGD's own, of up to twice the radius, would need many more.
    """
    first = bench.make_attack(APGD, steps=20, attack_loss="mce")
    steady = {"step_size": 8 / 255, "best_iterate": True, "attack_loss": "mce"}
    attacks = [first, bench.make_attack(PGD, eps=64 / 255, steps=50, **steady),
               bench.make_attack(PGD, eps=1.0, steps=20, **steady)]
    figures, demands = {}, {}
    for name, scored in zip(("64/255", "1"), bench.score_chain(attacks, bench.few)[1:], strict=True):
        found = {"aAcc": pooled_accuracy(scored), "mIoU": pooled_mean_iou(scored)}
        figures |= {f"{score} at eps {name}": value for score, value in found.items()}
        demands[f"aAcc and mIoU at eps {name} <= 1"] = max(found.values()) <= 1
    return judge(figures, demands, means="Gradient masking, or a network that is hardly trained: the attack misses "
                 "adversarial images that must exist.")


def black_box(bench: Bench) -> Finding:
    """Random search without gradients attacks no better than the attack with them."""
    white = pooled_accuracy(bench.score_attacked(bench.make_attack(APGD, steps=20, attack_loss="mce"), bench.few))
    black = pooled_accuracy(bench.score_attacked(bench.make_attack(Square, steps=200), bench.few))
    return judge({"square, 200 queries": black, "apgd-mce, 20 steps": white},
                 {"apgd-mce <= square + 0.2": white <= black + 0.2},
                 means="Gradient masking: an attack without gradients is stronger.")


def transfer(bench: Bench) -> Finding:
    """Images made on other networks attack no better than those made on the network itself."""
    attack = bench.make_attack(APGD, steps=20, attack_loss="mce")
    own = pooled_accuracy(bench.score_attacked(attack, bench.few))
    name, transferred = f"from {bench.source_name}", pooled_accuracy(bench.score_transferred(attack, bench.few))
    return judge({"clean": pooled_accuracy({k: bench.clean[k] for k in bench.few}), name: transferred, "own": own},
                 {"own apgd-mce, 20 steps <= transferred + 0.2": own <= transferred + 0.2},
                 means="Gradient masking: the gradients of other networks lead further than the network's own.")
