"""From options to the attacks of an evaluation, and to its sweep."""
import torch

from attacks import CORRUPTIONS, LOSSES, Attack, Corruption, build_attack, class_weights, takes
from attacks.corruption import load_package
from attacks.search import TargetSizeError
from datasets import build_datasets, count_pixels, list_batches
from datasets.files import read_mask
from engine.evaluation.shards import take_shard
from engine.evaluation.sweep import sweep
from engine.options.declare import PREDICT, list_attacks
from engine.options.types import compute_step_size
from engine.records.corruptions import read_baseline
from network import choose_window
from utils.errors import UserError
from utils.files import find_run
from utils.logging import logger
from utils.snapshots import hash_weights
from utils.user_code import is_code, make_label

MOST_PIXELS = 2**53  # a float holds every integer up to here


def plan_attacks(options, *, num_classes: int) -> tuple[Attack, ...]:
    """Return an attack for each --attack, each --attack_loss that it takes and each --eps.

    weigh_classes() gives balanced losses their weights once the data is read. Raises UserError for invalid settings.
    """
    if options.mode == PREDICT and (own := [name for name in list_attacks(options) if not takes(name, "eps")]):
        raise UserError(f"--attack {own[0]}: predict.py attacks at a given eps and rounds to 8 bits, which undoes a "
                        "radius that the attack finds: choose another attack, or main.py --test_only")
    settings = {"norm": options.attack_norm, "steps": options.steps, "restarts": options.restarts,
                "seed": options.attack_seed, "best_iterate": options.best_iterate, "red_eps": options.red_eps,
                "target": _read_target(options, num_classes), "class_weights": [1.0], "race_aim": options.race_aim,
                "min_radius_share": options.min_radius_share}
    _check_corruptions(options)
    try:
        return tuple(
            build_attack(name, eps=eps, step_size=eps and compute_step_size(options.alpha, eps), attack_loss=loss,
                         **settings)
            for name in list_attacks(options) for loss in _choose_losses(options, name)
            for eps in (dict.fromkeys(options.eps) if takes(name, "eps") else [None])) + _list_corruptions(options)
    except ValueError as error:
        flag = "--steps" if str(error).startswith("steps ") else "--attack"
        raise UserError(f"{flag}: {error}") from None


def _list_corruptions(options) -> tuple[Attack, ...]:
    """Return each --corrupt at each --severity, in the order in which they were published."""
    asked = options.corrupt or ()
    return tuple(Corruption(name, severity=severity, seed=options.attack_seed)
                 for name in CORRUPTIONS if name in asked or "all" in asked for severity in sorted({*options.severity}))


def _check_corruptions(options):
    """Raise UserError for what can't be corrupted, or compared, before anything is attacked."""
    if options.corrupt:
        load_package()
        if options.transfer_from:
            raise UserError("--corrupt: corruptions are made without a network: leave out --transfer_from")
    _read_baseline(options)


def _read_baseline(options) -> list:
    """Return the records of --corrupt_baseline, [] without one."""
    given = options.corrupt_baseline
    return read_baseline(find_run(given, options.output_dir)) if given else []


def weigh_classes(setup):
    """Set the class weights of attacks with a balanced loss, if any, from the pixels of each class in labels.

    They are those of the training set, as the checkpoint holds them, else counted now. Without training labels they are
    those of the validation set: a line says so, and the attacks' settings do. Raises UserError where there is no data.
    """
    balanced = [member for attack in setup.attacks for member in attack.members or [attack]
                if LOSSES[member.attack_loss].balanced]
    if not balanced:
        return
    counts, source = _find_class_pixels(setup)
    try:
        weights = class_weights(counts)
    except ValueError as error:
        raise UserError(f"--attack: {error} (docs/attacks.md#class-weights)") from None
    for member in balanced:
        member.class_weights, member.class_weights_from = weights, source


def _find_class_pixels(setup) -> tuple[list[int] | torch.Tensor, str | None]:
    """Return (pixels of each class, None if they are the training set's, else "validation labels")."""
    if setup.train_loader is not None:
        return count_pixels(setup.train_loader.dataset), None
    if (saved := _read_class_pixels(setup)) is not None:
        return saved, None
    if setup.val_set is None:
        raise UserError(f"{setup.checkpoint.path} lacks the training labels' counts, by which the loss mce_bal weighs "
                        "classes: choose another --attack or --attack_loss, or main.py --test_only "
                        "(docs/attacks.md#class-weights)")
    try:
        train_set, _ = build_datasets(setup.options.dataset, **setup.source, seed=setup.options.random_seed)
        train_set = train_set.without((setup.skipped or {}).get("train", ()))
        train_set.read_label(0)
    except (UserError, IndexError) as problem:
        logger.warning("Warning: mce_bal weighs classes by the validation labels, as there are no training labels (%s) "
                       "(docs/attacks.md#class-weights)", problem)
        return count_pixels(setup.val_set), "validation labels"
    return count_pixels(train_set), None


def _read_class_pixels(setup) -> list[int] | None:
    """Return the checkpoint's counts, None if it has none for this data; UserError if they are invalid."""
    content = setup.checkpoint.content if setup.checkpoint else {}
    names, counts = list(setup.classes.names) if setup.classes else [], content.get("class_pixels")
    saved = content.get("options", {})
    meaning = () if setup.options.mode == PREDICT else ("label_map", "ignore_label")  # there it is that of --masks
    same_data = content.get("class_names") == names and all(
        saved.get(flag) == getattr(setup.options, flag) for flag in ("year", *meaning))
    if counts is None or not same_data:
        return None
    if not isinstance(counts, list) or len(counts) != len(names) or not all(
            type(count) is int and 0 <= count <= MOST_PIXELS for count in counts):
        raise UserError(f"{setup.checkpoint.path}: class_pixels is not a list of {len(names)} counts")
    return counts


def sweep_planned(setup) -> dict:
    """Evaluate clean images and the planned attacks as the options say; return what results.json holds."""
    options, model, dataset = setup.options, setup.model, setup.val_set
    subject = {
        **_identify_model(options.model, model), "output_stride": options.output_stride,
        "separable_conv": options.separable_conv,
        "weights": hash_weights(model.model), "normalization": model.normalization, "dataset": options.dataset,
        "year": options.year, "crop_size": dataset.crop_size}
    if options.window is not None:  # not in the records of whole images, whose names it would change
        subject["window"] = choose_window(options.window, options.window_stride)
    if options.tta is not None:
        subject["tta"] = options.tta
    loader = setup.val_loader
    if options.shard is not None:
        loader, subject["data"] = take_shard(loader, dataset, options.shard, folder=setup.run.folder)
        if not list_batches(loader):
            logger.info("--shard %s has no images: nothing is left to do", options.shard)
            return {"options": options.to_dict(), "images": [], "results": [], "complete": True}
    try:
        return sweep(setup.scored_model, loader, dataset, setup.attacks, folder=setup.run.folder,
                     subject=subject, transfer_from=setup.transfer_from, radii=options.eps,
                     baseline=_read_baseline(options),
                     warm_start=options.warm_start, amp=options.amp, attack_amp=options.attack_amp,
                     pictures=None if options.save_val_results else options.sheet_images,
                     described=options.to_dict(), dashboard=setup.dashboard,
                     repeat="the same command" if options.test_only else "--continue_training")
    except TargetSizeError as error:
        raise UserError(f"--target_class {options.target_class}: {error}") from None


def _identify_model(name: str, model) -> dict:
    """Return what tells a network from others; of the user's own also the code that was loaded."""
    return {"model": make_label(name), **({"code": model.code} if is_code(name) else {})}


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
