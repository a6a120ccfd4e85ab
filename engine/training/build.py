"""From a Setup to a Trainer: optimizer, schedule, training attack, replicas, validation."""
from datetime import datetime

import torch
from torch import nn

from attacks import Attack, TradesPGD, build_attack
from datasets import fingerprint
from engine.evaluation.precision import log_sign_differences
from engine.options.declare import SAM_FAMILY
from engine.options.rules import refuse_small_shares
from engine.options.types import compute_step_size, find_base_optimizer, find_start_itr
from engine.run import checkpoints
from engine.training.class_pixels import WEIGHTS, ClassPixels, find_class_weights
from engine.training.meter import ROBUST, Progress
from engine.training.step import TrainingStep
from engine.training.trainer import Trainer
from engine.training.validation import UnderAttack, make_validation
from network import find_backbone, group_parameters, parallelize, precise, windowed
from optim import WeightAverage, build_loss, build_optimizer, build_scheduler, norm_parameters
from utils import distributed, launch
from utils.device import device_of
from utils.errors import UserError
from utils.logging import logger
from utils.seed import seed_everything

BN_ITRS_TIMES_MOMENTUM = 3  # below it more than 5 % (e^-3) of BatchNorm's initial statistics remain


def build_trainer(setup) -> Trainer:
    """Return the Trainer that the options ask for, with a checkpoint's state if it continues a run."""
    options, run, model, train_loader, val_set = (
        setup.options, setup.run, setup.model, setup.train_loader, setup.val_set)
    logger.info("Experiment starts at %s", datetime.now().isoformat(sep=" ", timespec="seconds"))
    logger.info("%s %s %s", options.exp_name, options.model, options.dataset)
    net = parallelize(model, replicas=count_replicas(options, device_of(model)), amp=options.amp,
                      sync_bn=options.sync_bn, compiled=options.compile)
    optimizer, scheduler = build_training(options, model, net)
    attack = build_training_attack(options)
    run.refuse_full_disk(_estimate_checkpoint_bytes(options, model))
    saved = setup.checkpoint.content if options.continue_training else {}
    train_images = fingerprint(train_loader.dataset)
    weights = options.class_weights and find_class_weights(options.class_weights, train_loader.dataset,
                                                           train_images=train_images, saved=saved)
    training_step = TrainingStep(
        model, net, optimizer=optimizer, criterion=build_criterion(options, weights), adv_ratio=options.adv_ratio,
        attack=attack, attacked=precise(model, amp=options.attack_amp), accumulate=options.accumulate,
        micro=options.sam_mode == "micro", clip_grad=options.clip_grad, average=WeightAverage(model.model, options.ema),
        trades_beta=options.trades_beta if options.adv_loss == "trades" else None)
    if options.ema is not None:
        logger.info("Validations and checkpoints use the average of the weights, with decay %g", options.ema)
    _warn_about_slow_statistics(options, has_backbone=find_backbone(model.model) is not None)
    if options.attack_amp and attack is not None:
        log_sign_differences(model, *next(train_loader.iterate_from(0)))
    if distributed.world_size() > 1:  # after the weights, which must agree: dropout and attacks differ by process
        seed_everything((options.random_seed + distributed.rank()) % 2**32)
    class_pixels = ClassPixels(train_loader.dataset, train_images=train_images, saved=saved)
    trainer = Trainer(
        model, training_step, train_loader, scheduler=scheduler, keep=options.keep,
        progress=Progress(setup.dashboard, class_names=val_set.class_names, folder=run.folder),
        best_by=ROBUST if options.best_by == "robust" else "Mean IoU",
        continue_command=run.continue_command({name: getattr(options, name) for name in options.given}),
        validate=make_validation(
            precise(windowed(model, options.window, options.window_stride), amp=options.amp), setup.val_loader, val_set,
            setup.dashboard, class_pixels.count, samples=options.vis_num_samples,
            under_attack=build_attacked_validation(options, model)),
        paths={kind: checkpoints.make_path(run.folder, kind, model=options.model, dataset=options.dataset,
                                         output_stride=options.output_stride) for kind in ("latest", "best")},
        described={"options": options.to_dict(), "seed": options.random_seed, "normalization": model.normalization,
                   "class_names": val_set.class_names,
                   "class_colours": val_set.palette[:val_set.num_classes].tolist(),
                   "val_names": val_set.drawn or [], "train_images": train_images,
                   "val_images": fingerprint(val_set), **class_pixels.known, **({WEIGHTS: weights} if weights else {}),
                   "skipped_images": {"train": list(train_loader.dataset.skipped), "val": list(val_set.skipped)}})
    if options.continue_training:
        trainer.load_state_dict(setup.checkpoint.content, source=setup.checkpoint.path)
    return trainer


def count_replicas(options, device: torch.device) -> int:
    """Return how many GPUs share each part of the batch (1 under torchrun); UserError if one gets a single image."""
    count = 1 if launch.launched() or device.type != "cuda" else torch.cuda.device_count()
    refuse_small_shares(options, count)
    return count


def build_training(options, model: nn.Module, net: nn.Module):
    """Return (optimizer, scheduler) over the groups [backbone, the rest], or one group without a backbone."""
    if find_backbone(model.model) is None and "backbone_lr_mult" in options.given:
        raise UserError(f"--backbone_lr_mult is for a network with a backbone: {options.model} has no module of that "
                        "name")
    groups = group_parameters(model.model, lr=options.lr, backbone_lr=options.lr * options.backbone_lr_mult)
    settings = {"lr": options.lr, "weight_decay": options.weight_decay, "momentum": options.momentum,
                "nesterov": options.nesterov}
    if options.optimizer in SAM_FAMILY:
        optimizer = build_optimizer(options.optimizer, groups, base_optimizer=options.base_optimizer, model=model,
                                    **settings, **_collect_sam_settings(options, model))
    elif options.awp_gamma:
        optimizer = build_optimizer("AWP", groups, base_optimizer=options.optimizer, model=model, **settings,
                                    gamma=options.awp_gamma, start_step=find_start_itr(options.awp_start_itr,
                                                                              options.total_itrs))
    else:
        optimizer = build_optimizer(options.optimizer, groups, **settings)
    _log_optimizer(options, optimizer)
    if distributed.world_size() > 1 and options.sam_sync != "global" and getattr(optimizer, "takes_first_pass", False):
        logger.info("--sam_sync local: each process perturbs along its own gradient (docs/gpus.md#sam-under-torchrun)")
        optimizer.first_pass = net.no_sync  # entered around forward and backward
    scheduler = build_scheduler(options.lr_policy, optimizer, total_itrs=options.total_itrs,
                                step_size=options.step_size, warmup_itrs=options.warmup_itrs)
    return optimizer, scheduler


def build_criterion(options, weights: list[float] | None):
    """Return the loss that training lowers; weights: of --class_weights."""
    smoothing = {"label_smoothing": options.label_smoothing} if options.label_smoothing else {}
    return build_loss(options.loss_type, **smoothing, **({"class_weights": torch.tensor(weights)} if weights else {}))


def build_training_attack(options) -> Attack | None:
    """Return the attack on training images, and log it. It draws random starts from torch's global generator."""
    if not options.adv:
        return None
    settings = {"eps": options.train_eps, "norm": options.norm}
    if options.adv_attack != "fgsm":
        settings |= {"steps": options.train_step, "random_start": options.train_rand_init,
                     "step_size": compute_step_size(options.train_alpha, options.train_eps)}
    if options.adv_loss == "trades":
        attack = TradesPGD(**{name: value for name, value in settings.items() if name != "random_start"})
    else:
        attack = build_attack(options.adv_attack, **settings)
    logger.info("Using adversarial training on %g %% of each batch%s: %r", 100 * options.adv_ratio,
                f", TRADES with beta {options.trades_beta:g}" if options.adv_loss == "trades" else "", attack)
    return attack


def build_attacked_validation(options, model: nn.Module) -> UnderAttack | None:
    """Return what --val_attack attacks; None without one. Raises UserError for invalid settings."""
    if options.val_attack is None:
        return None
    try:
        attack = build_attack(options.val_attack, eps=options.val_eps, norm="linf", seed=options.attack_seed,
                              step_size=compute_step_size("eps/4", options.val_eps), best_iterate=True)
    except ValueError as error:
        raise UserError(f"--val_attack: {error}") from None
    form = precise(windowed(model, options.window, options.window_stride), amp=options.attack_amp)
    return UnderAttack(attack, form, options.val_attack_images)


def _estimate_checkpoint_bytes(options, model: nn.Module) -> int:
    """Return the most bytes that a run's checkpoints take: latest_*, previous ones, best_* and one being written."""
    slots = {"sgd": 1, "adam": 2, "adamw": 2}[find_base_optimizer(options.optimizer, options.base_optimizer)]
    slots += (options.optimizer in ("LookSAM", "FriendlySAM")) + (options.ema is not None)
    one = sum(4 * parameter.numel() * (1 + slots) for parameter in model.parameters())
    savings = options.total_itrs // min(options.save_interval or options.val_interval, options.val_interval) + 1
    return one * (2 + min(options.keep, savings))


def _collect_sam_settings(options, model: nn.Module) -> dict:
    """Return the keyword arguments of an optimizer of the SAM family."""
    norm, others = norm_parameters(model)
    settings = {"rho": options.rho, "start_step": find_start_itr(options.sam_start_itr, options.total_itrs),
                "adaptive": options.adaptive, "eta": options.eta if options.adaptive else 0.0,
                "unperturbed": {"all": [], "norm": others, "no_norm": norm}[options.sam_perturb]}
    settings |= {name: value for name, value in (("interval", options.sam_interval), ("alpha", options.sam_alpha))
                 if value is not None}
    if options.optimizer == "FriendlySAM":
        settings |= {"sigma": options.sam_sigma, "decay": options.sam_decay}
    return settings


def _log_optimizer(options, optimizer):
    """Log the optimizer and the iteration from which it perturbs."""
    if options.optimizer in SAM_FAMILY:
        logger.info("Using %s optimizer, rho=%g", options.optimizer, options.rho)
        if options.rho == 0:
            logger.info("With --rho 0 no step perturbs the weights")
            return
        details = [f"adaptive, eta={options.eta:g}"] * options.adaptive + [f"over {options.base_optimizer}"] * (
            options.base_optimizer != "sgd") + [f"perturbing {options.sam_perturb}"] * (options.sam_perturb != "all")
        details += [f"for each of {options.accumulate} parts"] * (options.sam_mode == "micro")
        logger.info("SAM is active from iteration %d%s%s", optimizer.start_step,
                    f", every {optimizer.interval} iterations" if optimizer.interval > 1 else "",
                    f" ({', '.join(details)})" if details else "")
        return
    names = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
    logger.info("Using %s optimizer", names.get(options.optimizer, options.optimizer))
    if options.awp_gamma:
        logger.info("Using adversarial weight perturbation, gamma=%g, from iteration %d", options.awp_gamma,
                    optimizer.start_step)


def _warn_about_slow_statistics(options, *, has_backbone: bool):
    """Warn if a new run is too short for its --bn_momentum: its validations would use initial statistics."""
    renewed = options.total_itrs * options.bn_momentum
    if has_backbone and options.ckpt is None and not options.freeze_backbone and renewed < BN_ITRS_TIMES_MOMENTUM:
        left = 100 * (1 - options.bn_momentum) ** options.total_itrs
        logger.warning("Warning: --total_itrs %d is too short for --bn_momentum %g: %.0f %% of the backbone's initial "
                       "BatchNorm statistics will remain; %s (docs/training.md#batchnorm-momentum)", options.total_itrs,
                       options.bn_momentum, left, "give --bn_momentum 0.1" if options.bn_momentum < 0.1 else
                       "train longer")
