"""From options to a Trainer: the optimizer and its schedule, the adversary, replicas, validation."""
import hashlib
from datetime import datetime

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attacks import Attack, build_attack
from engine import options, report
from engine.evaluate import evaluate
from engine.precision import InBfloat16, precise, say_sign_differences
from engine.recipe import SAM_FAMILY, base_of, replicas, start
from engine.train import Trainer
from engine.update import Update
from engine.values import step_size
from metrics import StreamSegMetrics
from network import synchronize_batchnorm
from optim import build_loss, build_optimizer, build_scheduler, norm_parameters
from utils import distributed
from utils.logging import logger
from utils.seed import seed_everything


def build_trainer(opts, run, model, train_loader, val_loader, val_set, dashboard) -> Trainer:
    """The training run: one step, its schedule, what a validation does and what a checkpoint describes."""
    logger.info("Experiment starts at %s", datetime.now().isoformat(sep=" ", timespec="seconds"))
    logger.info("%s %s %s", opts.exp_name, opts.model, opts.dataset)
    net = parallel(opts, model)
    optimizer, scheduler = build_training(opts, model, net)
    attack = build_adversary(opts)
    run.refuse_full_disk(_bytes_of_checkpoints(opts, model))
    update = Update(
        model, net, optimizer=optimizer, criterion=build_loss(opts.loss_type), adv_ratio=opts.adv_ratio,
        attack=attack, accumulate=opts.accumulate, micro=opts.sam_mode == "micro")
    if opts.attack_amp and attack is not None:
        say_sign_differences(model, *next(train_loader.starting_at(0)))
    if distributed.world_size() > 1:  # after all weights are drawn: dropout and attacks differ from process to process
        seed_everything((opts.random_seed + distributed.rank()) % 2**32)
    return Trainer(
        model, update, train_loader, scheduler=scheduler, dashboard=dashboard, keep=opts.keep,
        go_on=run.continue_command(opts), validate=_validation(opts, model, val_loader, val_set, dashboard),
        paths={kind: run.checkpoint_path(kind, opts) for kind in ("latest", "best")},
        described={"options": options.to_dict(opts), "seed": opts.random_seed, "normalization": model.normalization,
                   "class_names": val_set.class_names, "train_images": _names_of(train_loader.dataset),
                   "val_images": _names_of(val_set),
                   "skipped_images": {"train": list(train_loader.dataset.skipped), "val": list(val_set.skipped)}})


def _bytes_of_checkpoints(opts, model: nn.Module) -> int:
    """What all files of a run take at most: latest_*, those before it, best_*, and the one that is being written."""
    slots = {"sgd": 1, "adam": 2}[base_of(opts)] + (opts.optimizer in ("LookSAM", "FriendlySAM"))
    one = sum(4 * parameter.numel() * (1 + slots) for parameter in model.parameters())
    savings = opts.total_itrs // min(opts.save_interval or opts.val_interval, opts.val_interval) + 1
    return one * (2 + min(opts.keep, savings))


def _names_of(dataset) -> str:
    """What tells these images, in this order, from others; their content isn't read."""
    return hashlib.sha256("\n".join(map(dataset.name, range(len(dataset)))).encode()).hexdigest()[:16]


def parallel(opts, model: nn.Module) -> nn.Module:
    """`model` as one of torchrun's processes, over all visible GPUs (DataParallel), or itself; --amp: in bfloat16."""
    net = precise(model, amp=opts.amp)  # innermost: DataParallel's threads don't inherit autocast's dtype
    if distributed.world_size() > 1:
        if opts.sync_bn:
            synchronize_batchnorm(model)
        device = next(model.parameters()).device
        # Without broadcast_buffers: the trainer does that where it matters, before a validation.
        return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None,
                                       broadcast_buffers=False)
    return nn.DataParallel(net) if replicas(opts) > 1 else net


def build_training(opts, model: nn.Module, net: nn.Module):
    """(optimizer, scheduler) over the groups [backbone, classifier]."""
    groups = [
        {"params": list(model.model.backbone.parameters()), "lr": opts.lr * opts.backbone_lr_mult},
        {"params": list(model.model.classifier.parameters()), "lr": opts.lr},
    ]
    settings = {"lr": opts.lr, "weight_decay": opts.weight_decay}
    if opts.optimizer in SAM_FAMILY:
        optimizer = build_optimizer(opts.optimizer, groups, base_optimizer=opts.base_optimizer, model=model, **settings,
                                    **sharpness(opts, model))
    elif opts.awp_gamma:
        optimizer = build_optimizer("AWP", groups, base_optimizer=opts.optimizer, model=model, **settings,
                                    gamma=opts.awp_gamma, start_step=start(opts.awp_start_itr, opts.total_itrs))
    else:
        optimizer = build_optimizer(opts.optimizer, groups, **settings)
    say_optimizer(opts, optimizer)
    if distributed.world_size() > 1 and opts.sam_sync != "global" and getattr(optimizer, "takes_first_pass", False):
        logger.info("Each process climbs along a gradient of its own (--sam_sync local)")
        optimizer.first_pass = net.no_sync  # around forward and backward: each process climbs its own gradient
    scheduler = build_scheduler(opts.lr_policy, optimizer, total_itrs=opts.total_itrs, step_size=opts.step_size)
    return optimizer, scheduler


def sharpness(opts, model: nn.Module) -> dict:
    """The keywords of an optimizer of the SAM family."""
    norm, others = norm_parameters(model)
    settings = {"rho": opts.rho, "start_step": start(opts.sam_start_itr, opts.total_itrs),
                "adaptive": opts.adaptive, "eta": opts.eta if opts.adaptive else 0.0,
                "unperturbed": {"all": [], "norm": others, "no_norm": norm}[opts.sam_perturb]}
    if opts.sam_interval is not None:
        settings["interval"] = opts.sam_interval
    if opts.sam_alpha is not None:
        settings["alpha"] = opts.sam_alpha
    if opts.optimizer == "FriendlySAM":
        settings |= {"sigma": opts.sam_sigma, "decay": opts.sam_decay}
    return settings


def say_optimizer(opts, optimizer):
    """Which one it is, and from when on it perturbs."""
    if opts.optimizer in SAM_FAMILY:
        logger.info("Using %s optimizer, rho=%g", opts.optimizer, opts.rho)
        if opts.rho == 0:
            logger.info("With --rho 0 every step is a plain one")
            return
        details = [f"adaptive, eta={opts.eta:g}"] * opts.adaptive + [f"over {opts.base_optimizer}"] * (
            opts.base_optimizer != "sgd") + [f"perturbing {opts.sam_perturb}"] * (opts.sam_perturb != "all")
        details += [f"for each of {opts.accumulate} parts"] * (opts.sam_mode == "micro")
        logger.info("SAM is active from iteration %d%s%s", optimizer.start_step,
                    f", every {optimizer.interval} iterations" if optimizer.interval > 1 else "",
                    f" ({', '.join(details)})" if details else "")
        return
    logger.info("Using %s optimizer", {"sgd": "SGD", "adam": "Adam"}[opts.optimizer])
    if opts.awp_gamma:
        logger.info("Using adversarial weight perturbation, gamma=%g, from iteration %d", opts.awp_gamma,
                    optimizer.start_step)


def build_adversary(opts) -> Attack | None:
    """The attack on training images; says what it is. Its random starts are those of torch's global generator."""
    if not opts.adv:
        return None
    settings = {"eps": opts.train_eps, "norm": opts.norm}
    if opts.adv_attack != "fgsm":
        settings |= {"steps": opts.train_step, "step_size": step_size(opts.train_alpha, opts.train_eps),
                     "random_start": opts.train_rand_init}
    attack = build_attack(opts.adv_attack, **settings)
    logger.info("Using adversarial training on %g %% of each batch: %r", 100 * opts.adv_ratio, attack)
    return InBfloat16(attack) if opts.attack_amp else attack


def _validation(opts, model, val_loader, val_set, dashboard):
    """A function that scores the model and shows what it found."""
    samples = report.Samples(dashboard, val_set, opts.vis_num_samples)
    scored = precise(model, amp=opts.amp)

    def validate(trainer):
        def on_batch(batch):
            samples(batch)
            trainer.interrupts.check()

        metrics = StreamSegMetrics(val_set.num_classes)
        results = evaluate(scored, val_loader, metrics, on_batch=on_batch, title="validation")
        logger.info(metrics.to_str(results))
        report.show_validation(dashboard, results, itr=trainer.cur_itrs, class_names=val_set.class_names)
        return results

    return validate
