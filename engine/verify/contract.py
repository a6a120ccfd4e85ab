"""Checks of what every attack guarantees: within eps, blind to void labels and batches, the model unchanged."""
import copy

import torch
from torch import Tensor

from attacks import APGD, FGSM, PGD, Attack, Race
from engine.verify.bench import Bench, Finding, judge, pooled_accuracy
from utils.modes import eval_mode
from utils.snapshots import differences, take_snapshot
from utils.wide import to_float64

ROUNDING = 1e-5  # of eps
SPREAD = 1e-3  # of the largest logit: the order in which fp32 and TF32 convolutions sum depends on the batch size
SHORT_ATTACKS = ((FGSM, {}), (PGD, {"steps": 2}), (APGD, {"steps": 2}), (Race, {"steps": 4}))
VOID_LABELS = (-1, 254, 255, 1000)  # labels outside the classes, all to be treated like 255


def eps_zero(bench: Bench) -> Finding:
    """With eps 0 attacks return the image unchanged, and the model's logits are the same twice."""
    attacks = [bench.make_attack(kind, eps=0, **steps) for kind, steps in SHORT_ATTACKS]
    moved, changed, unsteady = [], [], 0
    for k in bench.few:
        clean = bench.logits(bench.images[k])
        unsteady += not torch.equal(clean, bench.logits(bench.images[k]))
        for attack in attacks:
            image = bench.run(attack, k).images
            moved += [attack.name] * (not torch.equal(image, bench.images[k]))
            changed += [attack.name] * (not torch.equal(bench.logits(image).argmax(1), clean.argmax(1)))
    figures = {"images": len(bench.few), "attacks": [attack.name for attack in attacks]}
    demands = {"attacked images equal the clean ones bit by bit": not moved,
               "their predictions equal the clean ones": not changed,
               "the same image gives the same logits twice": not unsteady}
    return judge(figures, demands, means="Either an attack changes images at eps 0, or the model draws random numbers, "
                 "so that one run can't measure it.")


def constraint(bench: Bench) -> Finding:
    """Attacked images are valid, within eps, use all of it, and still fool the model when rounded to 8 bits."""
    length = bench.eps * bench.images[0].numel() ** 0.5  # the l2 ball through the corners of the linf cube
    linf = [(bench.make_attack(FGSM), bench.every), (bench.make_attack(PGD, steps=10), bench.every),
            (bench.make_attack(APGD, steps=20, attack_loss="mce"), bench.few)]
    l2 = [(bench.make_attack(kind, eps=length, norm="l2", **steps), bench.few[:1])
          for kind, steps in ((FGSM, {}), (PGD, {"steps": 3}), (APGD, {"steps": 3}))]
    sizes = {f"{attack.norm} {attack.name}": [_size(result.image, bench.images[k], attack)
                                             for k, result in bench.score_attacked(attack, which).items()]
             for attack, which in linf + l2}
    images = [result.image for attack, which in linf + l2 for result in bench.score_attacked(attack, which).values()]
    demands = {f"no radius is above eps (1 + {ROUNDING:g})": all(max(size) <= 1 + ROUNDING for size in sizes.values()),
               "images are finite and in [0, 1]": all(map(_is_image, images))}
    if bench.eps <= 0.5:  # a larger eps may exceed every pixel's distance to 0 and 1
        demands["fgsm moves a pixel by eps (1 - 0.001)"] = max(sizes["linf fgsm"]) >= 1 - 1e-3
    figures = {"radius / eps": {name: max(size) for name, size in sizes.items()}}
    rounded = _rounded(bench)
    figures["8 bits"] = rounded if isinstance(rounded, str) else f"{100 * rounded:.1f} % of pgd-10's effect remains"
    if not isinstance(rounded, str):
        demands["rounded to 8 bits, pgd-10 keeps 3/4 of its effect on accuracy"] = rounded >= 0.75
    return judge(figures, demands, means="The attack's radius isn't eps, or its effect is lost in an 8-bit image file.")


def _size(image: Tensor, clean: Tensor, attack: Attack) -> float:
    """Return the distance from `clean` to `image` in the attack's norm, as a multiple of eps."""
    delta = (to_float64(image) - to_float64(clean)).flatten()
    return (delta.norm() if attack.norm == "l2" else delta.abs().amax()).item() / attack.eps


def _is_image(image: Tensor) -> bool:
    return bool(image.isfinite().all() and image.amin() >= 0 and image.amax() <= 1)


def _rounded(bench: Bench) -> float | str:
    """Return the share of pgd-10's drop in accuracy that remains after rounding to 8 bits, or why it is not checked."""
    if bench.eps < 1 / 255:
        return "not checked: an eps below 1/255 is lost in rounding"
    scored = bench.score_attacked(bench.make_attack(PGD, steps=10), bench.every)
    clean, attacked = pooled_accuracy(bench.clean), pooled_accuracy(scored)
    if clean - attacked < 1:
        return "not checked: pgd-10 lowers accuracy by less than a point"
    rounded = {k: bench.score(k, (255 * result.image).round() / 255) for k, result in scored.items()}
    return (clean - pooled_accuracy(rounded)) / (clean - attacked)


def void_invariance(bench: Bench) -> Finding:
    """Attacks ignore the label values of void pixels, and leave an image without labels unchanged."""
    k = bench.few[0]
    image = bench.images[k]
    half, replaced, nothing = (bench.labels[k].clone() for _ in range(3))
    region = half[..., : half.shape[-1] // 2]
    choice = torch.randint(len(VOID_LABELS), region.shape, generator=torch.Generator().manual_seed(bench.seed))
    region[:] = 255
    replaced[..., : half.shape[-1] // 2] = torch.tensor(VOID_LABELS)[choice].to(replaced)
    nothing[:] = 255
    read, moved = [], []
    for attack in (bench.make_attack(FGSM), bench.make_attack(PGD, steps=2, random_start=False),
                   bench.make_attack(APGD, steps=2, attack_loss="mce", random_start=False),
                   bench.make_attack(Race, steps=4, random_start=False)):
        one, other, still = (bench.run(attack, k, labels=labels).images for labels in (half, replaced, nothing))
        read += [attack.name] * (not torch.equal(one, other))
        moved += [attack.name] * (not torch.equal(still, image))
    started = bench.run(bench.make_attack(PGD, steps=2), k, labels=nothing).images
    within = _is_image(started) and _size(started, image, bench.make_attack(PGD)) <= 1 + ROUNDING
    demands = {"the result doesn't depend on which label a void pixel has": not read,
               "an image without labels is unchanged": not moved,
               "with a random start it stays a finite image within eps": within}
    return judge({"differ": read, "move": moved}, demands, means="Void pixels influence an attack (or the model draws "
                 "random numbers, see eps 0): results on data sets with void labels are wrong.")


def batch_invariance(bench: Bench) -> Finding:
    """An image's result is the same alone and beside another image."""
    images, labels = _pair(bench)
    attack, points, spread = bench.make_attack(FGSM), [], 0.0
    together = attack.run(bench.model, images, labels, image_ids=[0, 1]).images
    both, batched = bench.logits(images), bench.logits(together)
    for row in range(2):
        one, label = images[row:row + 1], labels[row:row + 1]
        alone = attack.run(bench.model, one, label, image_ids=[row]).images
        logits = bench.logits(one)
        spread = max(spread, ((both[row] - logits[0]).abs().max() / logits.abs().max()).item())
        points.append(abs(_accuracy(batched[row], label) - _accuracy(bench.logits(alone)[0], label)))
    demands = {f"clean logits differ by at most {SPREAD:g} of the largest": spread <= SPREAD,
               "an image's accuracy under fgsm by at most 0.5 points": max(points) <= 0.5}
    return judge({"logits": spread, "points": max(points)}, demands, means="Images of a batch influence one another "
                 "(BatchNorm in training mode?): results depend on --val_batch_size.")


def _pair(bench: Bench) -> tuple[Tensor, Tensor]:
    """Return two images, cropped to a common size, and their labels; the second of a single image is its mirror."""
    first, last = 0, bench.every[-1]
    height, width = (min(bench.images[k].shape[side] for k in (first, last)) for side in (2, 3))
    images, labels = (torch.cat([values[k][..., :height, :width] for k in (first, last)])
                      for values in (bench.images, bench.labels))
    if first == last:
        images[1], labels[1] = images[0].flip(-1), labels[0].flip(-1)
    return images, labels


def _accuracy(logits: Tensor, label: Tensor) -> float:
    """Return the percentage of labelled pixels that are correct.  logits [C, H, W], label [1, H, W]."""
    valid = (label >= 0) & (label < len(logits))
    return 100 * ((logits.argmax(0) == label) & valid).sum().item() / max(valid.sum().item(), 1)


def model_untouched(bench: Bench) -> Finding:
    """No check so far changed the model, and no attack changes a model that is partly in training mode."""
    changed = differences(bench.before, take_snapshot(bench.model))
    model = copy.deepcopy(bench.model).train()
    for module in list(model.modules())[1::3]:
        module.training = False
    before = take_snapshot(model)
    for kind, steps in SHORT_ATTACKS:
        bench.run(bench.make_attack(kind, **steps), 0, model=model)
    training = differences(before, take_snapshot(model))
    with eval_mode(model), torch.no_grad():
        model(bench.images[0])
    forward = differences(before, take_snapshot(model))
    demands = {"parameters, gradients, buffers and train/eval flags are unchanged by all checks": not changed,
               "also with modules in training mode": not training, "also by a forward pass": not forward}
    found = list(dict.fromkeys([*changed, *training, *forward]))
    return judge({"changed": found[:5] + [f"and {len(found) - 5} more"] * (len(found) > 5)}, demands,
                 means="The network that is scored differs from the one that was loaded.")
