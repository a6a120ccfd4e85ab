"""From options to the attacks of an evaluation, and to its sweep."""
import torch

from attacks import LOSSES, Attack, build_attack, class_weights, takes
from attacks.search import TargetSizeError
from datasets import build_datasets, count_pixels
from datasets.files import read_mask
from engine.evaluation.sweep import sweep
from engine.options.declare import list_attacks
from engine.options.types import compute_step_size
from utils.errors import UserError
from utils.snapshots import hash_weights


def plan_attacks(options, *, num_classes: int) -> tuple[Attack, ...]:
    """Return an attack for each --attack, each --attack_loss that it takes and each --eps.

    weigh_classes() gives balanced losses their weights once the data is read. Raises UserError for invalid settings.
    """
    settings = {"norm": options.attack_norm, "steps": options.steps, "restarts": options.restarts,
                "seed": options.attack_seed, "best_iterate": options.best_iterate, "red_eps": options.red_eps,
                "target": _read_target(options, num_classes), "class_weights": [1.0]}
    try:
        return tuple(
            build_attack(name, eps=eps, step_size=compute_step_size(options.alpha, eps), attack_loss=loss, **settings)
            for name in list_attacks(options) for loss in _choose_losses(options, name)
            for eps in dict.fromkeys(options.eps))
    except ValueError as error:
        raise UserError(f"--attack: {error}") from None


def weigh_classes(setup):
    """Set the class weights of attacks with a balanced loss, if any, from the labels of the training set."""
    balanced = [member for attack in setup.attacks for member in attack.members or [attack]
                if LOSSES[member.attack_loss].balanced]
    if not balanced:
        return
    options = setup.options
    if setup.train_loader is not None:
        train_set = setup.train_loader.dataset
    else:
        train_set, _ = build_datasets(options.dataset, data_root=options.data_root, year=options.year,
                                      seed=options.random_seed)
        train_set = train_set.without((setup.skipped or {}).get("train", ()))
    weights = class_weights(count_pixels(train_set))
    for member in balanced:
        member.class_weights = weights


def sweep_planned(setup) -> dict:
    """Evaluate clean images and the planned attacks as the options say; return what results.json holds."""
    options, model, dataset = setup.options, setup.model, setup.val_set
    subject = {
        "model": options.model, "output_stride": options.output_stride, "separable_conv": options.separable_conv,
        "weights": hash_weights(model.model), "normalization": model.normalization, "dataset": options.dataset,
        "year": options.year, "crop_size": dataset.crop_size}
    try:
        return sweep(model, setup.val_loader, dataset, setup.attacks, folder=setup.run.folder, subject=subject,
                     warm_start=options.warm_start, amp=options.amp, attack_amp=options.attack_amp,
                     pictures=None if options.save_val_results else options.sheet_images,
                     described=options.to_dict(), dashboard=setup.dashboard,
                     repeat="the same command" if options.test_only else "--continue_training")
    except TargetSizeError as error:
        raise UserError(f"--target_class {options.target_class}: {error}") from None


def _choose_losses(options, name: str) -> list[str | None]:
    """Return the losses to run the attack with; None means the attack's own."""
    given = options.attack_loss if takes(name, "attack_loss") else None
    return list(dict.fromkeys(given)) if given else [None]


def _read_target(options, num_classes: int) -> int | torch.Tensor | None:
    target, has = options.target_class, f"{options.dataset} has the classes 0 to {num_classes - 1}"
    if isinstance(target, str):
        try:
            target = read_mask(target).long()
        except UserError as error:
            raise UserError(f"--target_class: {error}") from None
        if len(outside := target[(target >= num_classes) & (target != 255)]):
            raise UserError(f"--target_class {options.target_class} holds {outside.max()}; {has}, and 255 means no "
                            "target (docs/attacks.md#options)")
    elif target is not None and target >= num_classes:
        raise UserError(f"--target_class {target}: {has} (docs/attacks.md#options)")
    return target
