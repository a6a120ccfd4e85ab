"""Checks of what every attack promises: its ball, void labels, batches, a model left alone."""
import copy

import torch
from torch import Tensor

from attacks import APGD, FGSM, PGD, Attack
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy
from utils.modes import eval_mode
from utils.snapshots import differences, take_snapshot

ROUNDING = 1e-5  # of eps
SPREAD = 1e-3  # of the largest logit: fp32 and TF32 convolutions sum in other orders for other batches
GARBAGE = (-1, 254, 255, 1000)  # labels that are no class; 255 stands for them all


def eps_zero(bench: Bench) -> Finding:
    """With eps 0 attacks return the image, and the model says twice the same about it."""
    attacks = [bench.attack(FGSM, eps=0), bench.attack(PGD, eps=0, steps=2), bench.attack(APGD, eps=0, steps=2)]
    moved, changed, unsteady = [], [], 0
    for k in bench.few:
        clean = bench.logits(bench.images[k])
        unsteady += not torch.equal(clean, bench.logits(bench.images[k]))
        for attack in attacks:
            image = bench.run(attack, k).images
            moved += [attack.name] * (not torch.equal(image, bench.images[k]))
            changed += [attack.name] * (not torch.equal(bench.logits(image).argmax(1), clean.argmax(1)))
    figures = {"images": len(bench.few), "attacks": [attack.name for attack in attacks]}
    demands = {"attacked images are the clean ones bit by bit": not moved,
               "their predictions are the clean ones": not changed,
               "the same image gives the same logits twice": not unsteady}
    return judge(figures, demands, means="Either an attack moves images it must not, or the model draws random "
                 "numbers: then no single run measures it.")


def constraint(bench: Bench) -> Finding:
    """Attacked images are images within eps, use all of it, and survive being saved with 8 bits."""
    length = bench.eps * bench.images[0].numel() ** 0.5  # the l2 ball through the corners of the linf cube
    linf = [(bench.attack(FGSM), bench.every), (bench.attack(PGD, steps=10), bench.every),
            (bench.attack(APGD, steps=20, attack_loss="mce"), bench.few)]
    l2 = [(bench.attack(kind, eps=length, norm="l2", **steps), bench.few[:1])
          for kind, steps in ((FGSM, {}), (PGD, {"steps": 3}), (APGD, {"steps": 3}))]
    sizes = {f"{attack.norm} {attack.name}": [_size(shot.image, bench.images[k], attack)
                                             for k, shot in bench.attacked(attack, which).items()]
             for attack, which in linf + l2}
    images = [shot.image for attack, which in linf + l2 for shot in bench.attacked(attack, which).values()]
    demands = {f"no radius is above eps (1 + {ROUNDING:g})": all(max(size) <= 1 + ROUNDING for size in sizes.values()),
               "images are finite and in [0, 1]": all(map(_is_image, images))}
    if bench.eps <= 0.5:  # else no pixel may have room for all of it
        demands["fgsm moves a pixel by eps (1 - 0.001)"] = max(sizes["linf fgsm"]) >= 1 - 1e-3
    figures = {"radius / eps": {name: max(size) for name, size in sizes.items()}}
    rounded = _rounded(bench)
    figures["8 bits"] = rounded if isinstance(rounded, str) else f"{100 * rounded:.1f} % of pgd-10's loss survives"
    if not isinstance(rounded, str):
        demands["rounded to 8 bits, pgd-10 keeps 3/4 of what it costs"] = rounded >= 0.75
    return judge(figures, demands, means="The attack is not the one that eps names, or lives below what a file holds.")


def _size(image: Tensor, clean: Tensor, attack: Attack) -> float:
    """How far `image` is from `clean`, in eps of the attack's norm."""
    delta = (image.double() - clean.double()).flatten()
    return (delta.norm() if attack.norm == "l2" else delta.abs().amax()).item() / attack.eps


def _is_image(image: Tensor) -> bool:
    return bool(image.isfinite().all() and image.amin() >= 0 and image.amax() <= 1)


def _rounded(bench: Bench) -> float | str:
    """The share of pgd-10's cost that is left after rounding to 8 bits, or why that means nothing here."""
    if bench.eps < 1 / 255:
        return "not checked: an eps below 1/255 is lost in rounding"
    shots = bench.attacked(bench.attack(PGD, steps=10), bench.every)
    clean, attacked = pooled_accuracy(bench.clean), pooled_accuracy(shots)
    if clean - attacked < 1:
        return "not checked: pgd-10 costs less than a point"
    rounded = {k: bench.shot(k, (255 * shot.image).round() / 255) for k, shot in shots.items()}
    return (clean - pooled_accuracy(rounded)) / (clean - attacked)


def void_invariance(bench: Bench) -> Finding:
    """What stands where nothing is labelled is never read, and an image without labels is left alone."""
    k = bench.few[0]
    image = bench.images[k]
    half, garbage, nothing = (bench.labels[k].clone() for _ in range(3))
    region = half[..., : half.shape[-1] // 2]
    noise = torch.randint(len(GARBAGE), region.shape, generator=torch.Generator().manual_seed(bench.seed))
    region[:] = 255
    garbage[..., : half.shape[-1] // 2] = torch.tensor(GARBAGE)[noise].to(garbage)
    nothing[:] = 255
    read, moved = [], []
    for attack in (bench.attack(FGSM), bench.attack(PGD, steps=2, random_start=False),
                   bench.attack(APGD, steps=2, attack_loss="mce", random_start=False)):
        one, other, still = (bench.run(attack, k, labels=labels).images for labels in (half, garbage, nothing))
        read += [attack.name] * (not torch.equal(one, other))
        moved += [attack.name] * (not torch.equal(still, image))
    started = bench.run(bench.attack(PGD, steps=2), k, labels=nothing).images
    within = _is_image(started) and _size(started, image, bench.attack(PGD)) <= 1 + ROUNDING
    demands = {"other labels that are no class change no bit": not read,
               "an image without a label does not move": not moved,
               "with a random start it stays a finite image within eps": within}
    return judge({"differ": read, "move": moved}, demands, means="Void pixels steer an attack (the model may also draw "
                 "random numbers, see eps 0): figures on data sets with void labels are wrong.")


def batch_invariance(bench: Bench) -> Finding:
    """An image's result is the same alone and beside another image."""
    images, labels = _pair(bench)
    attack, points, spread = bench.attack(FGSM), [], 0.0
    together = attack.run(bench.model, images, labels, image_ids=[0, 1]).images
    both, batched = bench.logits(images), bench.logits(together)
    for row in range(2):
        one, label = images[row:row + 1], labels[row:row + 1]
        alone = attack.run(bench.model, one, label, image_ids=[row]).images
        logits = bench.logits(one)
        spread = max(spread, ((both[row] - logits[0]).abs().max() / logits.abs().max()).item())
        points.append(abs(_right(batched[row], label) - _right(bench.logits(alone)[0], label)))
    demands = {f"clean logits differ by at most {SPREAD:g} of the largest": spread <= SPREAD,
               "an image's accuracy under fgsm by at most 0.5 points": max(points) <= 0.5}
    return judge({"logits": spread, "points": max(points)}, demands, means="Images of a batch influence one another "
                 "(BatchNorm that stays in training mode?): results hang on --val_batch_size.")


def _pair(bench: Bench) -> tuple[Tensor, Tensor]:
    """Two images, cut to the size that both have, and their labels; one alone goes with its mirror image."""
    first, last = 0, bench.every[-1]
    height, width = (min(bench.images[k].shape[side] for k in (first, last)) for side in (2, 3))
    images, labels = (torch.cat([values[k][..., :height, :width] for k in (first, last)])
                      for values in (bench.images, bench.labels))
    if first == last:
        images[1], labels[1] = images[0].flip(-1), labels[0].flip(-1)
    return images, labels


def _right(logits: Tensor, label: Tensor) -> float:
    """Percent of the labelled pixels that are predicted right.  logits [C, H, W], label [1, H, W]."""
    valid = (label >= 0) & (label < len(logits))
    return 100 * ((logits.argmax(0) == label) & valid).sum().item() / max(valid.sum().item(), 1)


def model_untouched(bench: Bench) -> Finding:
    """No check so far changed the model, nor do attacks on one that is partly in training mode."""
    changed = differences(bench.before, take_snapshot(bench.model))
    model = copy.deepcopy(bench.model).train()
    for module in list(model.modules())[1::3]:
        module.training = False
    before = take_snapshot(model)
    for attack in (bench.attack(FGSM), bench.attack(PGD, steps=2), bench.attack(APGD, steps=2)):
        bench.run(attack, 0, model=model)
    training = differences(before, take_snapshot(model))
    with eval_mode(model), torch.no_grad():
        model(bench.images[0])
    forward = differences(before, take_snapshot(model))
    demands = {"parameters, gradients, buffers and flags are bit by bit as before all checks": not changed,
               "also with modules in training mode": not training, "a forward pass changes none": not forward}
    found = list(dict.fromkeys([*changed, *training, *forward]))
    return judge({"changed": found[:5] + [f"and {len(found) - 5} more"] * (len(found) > 5)}, demands,
                 means="The network that is scored is not the one that was loaded.")
