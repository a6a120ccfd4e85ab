"""The attacks that a call asks for, refused in a line where flags don't go together."""
import inspect

import torch
from tqdm import tqdm

from attacks import ATTACKS, LOSSES, Attack, build_attack, class_weights
from datasets import DATASETS, build_datasets
from datasets.files import read_mask
from engine.precision import InBfloat16
from engine.values import step_size
from utils.distributed import is_main
from utils.errors import UserError

# Flag -> the setting it is for; each needs an attack that has the setting.
SETTING_OF = {"attack_loss": "attack_loss", "steps": "steps", "alpha": "step_size", "best_iterate": "best_iterate",
              "red_eps": "red_eps", "restarts": "restarts", "warm_start": "eps", "target_class": "target"}


def plan_attacks(opts, *, weights=None) -> list[Attack]:
    """Every --attack with every --attack_loss it takes at every --eps; clean evaluation is not among them.

    weights: [C] for mce_bal; without them stand-ins are used, to see early whether the flags go together (UserError).
    """
    names = [name for name in dict.fromkeys(opts.attack) if name != "none"]
    for flag, setting in SETTING_OF.items():
        if flag in opts.given and not any(takes(name, setting) for name in names):
            able = ", ".join(name for name in ATTACKS if takes(name, setting))
            raise UserError(f"--{flag} is for {able}: add one with --attack")
    if opts.warm_start and len(set(opts.eps)) < 2:
        raise UserError("--warm_start begins at the result for a smaller --eps: give several")
    if opts.target_class is not None and (deaf := [name for name in names if not takes(name, "target")]):
        raise UserError(f"--target_class: {', '.join(deaf)} can't be driven to a target, leave it out of --attack")
    settings = {"norm": opts.attack_norm, "steps": opts.steps, "restarts": opts.restarts, "seed": opts.attack_seed,
                "best_iterate": opts.best_iterate, "red_eps": opts.red_eps, "target": _target(opts),
                "class_weights": [1.0] if weights is None else weights}
    try:
        attacks = [build_attack(name, eps=eps, step_size=step_size(opts.alpha, eps), attack_loss=loss, **settings)
                   for name in names for loss in _losses(opts, name) for eps in dict.fromkeys(opts.eps)]
    except ValueError as error:
        raise UserError(f"--attack: {error}") from None
    return [InBfloat16(attack) for attack in attacks] if opts.attack_amp else attacks


def takes(name: str, setting: str) -> bool:
    """Whether the attack called `name` has this setting; segpgd's and cospgd's loss is their own."""
    if setting == "attack_loss" and ATTACKS[name].default_loss != "ce":
        return False
    return setting in inspect.signature(ATTACKS[name]).parameters


def weights_for(opts, train_set=None, *, skipped: dict | None = None) -> list[float] | None:
    """Class weights from the training set's labels where a planned attack is balanced by them, else None.

    A test has no train_set: it is built here, without the images that the run `skipped`.
    """
    members = [member for attack in plan_attacks(opts) for member in attack.members or [attack]]
    if not any(LOSSES[member.attack_loss].balanced for member in members):
        return None
    if train_set is None:
        train_set, _ = build_datasets(opts.dataset, data_root=opts.data_root, year=opts.year, seed=opts.random_seed)
        train_set = train_set.without((skipped or {}).get("train", ()))
    counts = torch.zeros(opts.num_classes, dtype=torch.int64)
    for index in tqdm(range(len(train_set)), desc="pixels of each class, for mce_bal", unit="label", mininterval=1,
                      disable=not is_main()):
        label = train_set.label(index).flatten().long()
        counts += torch.bincount(label[label < opts.num_classes], minlength=opts.num_classes)
    return class_weights(counts)


def _losses(opts, name: str) -> list[str | None]:
    """The losses to run `name` with; None is its own."""
    return list(dict.fromkeys(opts.attack_loss)) if opts.attack_loss and takes(name, "attack_loss") else [None]


def _target(opts) -> int | torch.Tensor | None:
    last = DATASETS[opts.dataset].num_classes - 1
    if isinstance(opts.target_class, str):
        try:
            target = read_mask(opts.target_class).long()
        except UserError as error:
            raise UserError(f"--target_class: {error}") from None
        if len(odd := target[(target > last) & (target != 255)]):
            raise UserError(f"--target_class {opts.target_class}: holds {odd.max()}; {opts.dataset} has the classes 0 "
                            f"to {last}, and 255 for pixels without a target")
        return target
    if opts.target_class is not None and opts.target_class > last:
        raise UserError(f"--target_class {opts.target_class}: {opts.dataset} has the classes 0 to {last}")
    return opts.target_class
