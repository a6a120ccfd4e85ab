"""What a training's flags mean together: defaults that hang on other flags, and contradictions."""
import math

import torch

from engine import build
from engine.values import step_size
from optim import BASE_OPTIMIZERS
from utils import distributed
from utils.errors import UserError

SAM_FAMILY = ("SAM", "LookSAM", "GSAM", "FriendlySAM")
# Flag -> the optimizers it is for. Given to another one it would do nothing, so it is refused.
FOR_OPTIMIZERS = {
    **dict.fromkeys(("rho", "base_optimizer", "adaptive", "eta", "sam_start_itr", "sam_interval", "sam_perturb",
                     "sam_sync"), SAM_FAMILY),
    "sam_mode": ("SAM",), "sam_alpha": ("LookSAM", "GSAM"),
    **dict.fromkeys(("sam_sigma", "sam_decay"), ("FriendlySAM",)),
}
FOR_ADV = ("adv_attack", "train_eps", "train_alpha", "train_step", "train_rand_init", "norm", "adv_ratio", "awp_gamma",
           "awp_start_itr")
NOT_FOR_FGSM = ("train_alpha", "train_step", "train_rand_init")
FOR_TORCHRUN = ("sam_sync", "sync_bn")
TRAIN_EPS = {"linf": 4 / 255, "l2": 0.5}


def base_of(opts) -> str:
    """sgd or adam: what takes the steps, under SAM or alone."""
    return opts.base_optimizer if opts.optimizer in SAM_FAMILY else opts.optimizer


def complete_recipe(opts):
    """Fill in what was left open; raises UserError for what can't be, or would be ignored."""
    opts.lr = opts.lr if opts.lr is not None else (5e-4 if base_of(opts) == "adam" else 0.01)
    opts.train_eps = opts.train_eps if opts.train_eps is not None else TRAIN_EPS[opts.norm]
    if not opts.test_only:
        _check_start("sam_start_itr", opts.sam_start_itr, opts.total_itrs,
                     what=opts.optimizer if opts.optimizer in SAM_FAMILY else "")
        _check_start("awp_start_itr", opts.awp_start_itr, opts.total_itrs, what="AWP" if opts.awp_gamma else "")
    for flag, remedy in idle_flags(opts).items():
        if flag in opts.given:
            raise UserError(f"--{flag}: {remedy}")
    _refuse_impossible(opts)


def start(given: float, total_itrs: int) -> int:
    """The iteration that a start flag means: below 1 it is a share of total_itrs."""
    return round(given * total_itrs) if 0 < given < 1 else int(given)


def _check_start(flag: str, given: float, total_itrs: int, *, what: str):
    """Raise UserError for no iteration, and where `what`, if anything, would never run."""
    itr = start(given, total_itrs)
    if itr != given and given > 1:
        raise UserError(f"--{flag} {given:g}: an iteration, or a share of --total_itrs below 1")
    if what and itr >= total_itrs:
        raise UserError(f"--{flag} {itr} is not before --total_itrs {total_itrs}: {what} would never run")


def idle_flags(opts) -> dict[str, str]:
    """The flags that have no effect beside the others, each with what would give it one."""
    idle = {}
    for flag, optimizers in FOR_OPTIMIZERS.items():
        if opts.optimizer not in optimizers and not (flag == "sam_sync" and opts.awp_gamma):
            idle[flag] = f"for --optimizer {' or '.join(optimizers)}, this run has {opts.optimizer}"
    if not opts.adaptive:
        idle.setdefault("eta", "for ASAM: add --adaptive")
    if not opts.adv:
        idle |= dict.fromkeys(FOR_ADV, "for adversarial training: add --adv")
    elif opts.adv_attack == "fgsm":
        idle |= dict.fromkeys(NOT_FOR_FGSM, "fgsm is one step of the whole eps from the image itself; for another "
                                            "choose --adv_attack pgd --train_step 1")
    if not opts.awp_gamma:
        idle.setdefault("awp_start_itr", "there is no weight perturbation without --awp_gamma")
    if opts.lr_policy != "step":
        idle["step_size"] = f"for --lr_policy step, this run has {opts.lr_policy}"
    if opts.accumulate == 1:
        idle.setdefault("sam_mode", "for a perturbation of each part of the batch: give their number with --accumulate")
    if opts.attack == ["none"] and not opts.adv:
        idle["attack_amp"] = "nothing is attacked, give --attack or --adv"
    if not distributed.launched():
        idle |= dict.fromkeys(FOR_TORCHRUN, "for several processes: start them with torchrun")
    return idle


def _refuse_impossible(opts):
    """What can't be together, or isn't meant so."""
    if opts.adv and opts.attack == ["none"] and "eps" in opts.given:
        raise UserError("--eps is for --attack after the training: the training's own radius is --train_eps")
    if opts.norm == "linf" and opts.train_eps >= 1:
        raise UserError(f"--train_eps {opts.train_eps:g}: pixels are in [0, 1]; write {opts.train_eps:g}/255 for "
                        f"{opts.train_eps:g} grey levels")
    if opts.norm == "linf" and (alpha := step_size(opts.train_alpha, opts.train_eps)) > 1:
        raise UserError(f"--train_alpha {alpha:g}: pixels are in [0, 1]; write {alpha:g}/255 for {alpha:g} grey levels")
    if opts.awp_gamma and opts.optimizer in SAM_FAMILY:
        raise UserError(f"--awp_gamma perturbs the weights, so does --optimizer {opts.optimizer}: choose one")
    if opts.sam_sync == "local" and opts.optimizer not in (*BASE_OPTIMIZERS, "SAM"):
        raise UserError(f"--sam_sync local: {opts.optimizer} keeps or combines the first gradient, which must be the "
                        "whole batch's: give --sam_sync global")
    if opts.adaptive and opts.sam_perturb == "norm":
        raise UserError("--adaptive scales weights, of which --sam_perturb norm perturbs none: leave one out")
    if opts.gpu_id is not None and distributed.launched():
        raise UserError("--gpu_id is for a single process: torchrun gives each its own GPU, of those in "
                        "CUDA_VISIBLE_DEVICES")
    if not opts.test_only:
        _refuse_small_parts(opts)


def _refuse_small_parts(opts):
    """BatchNorm after global pooling needs two images in each normalised piece of the batch, an attack one."""
    if opts.adv and opts.batch_size * opts.adv_ratio + 1e-9 < 1:  # as engine.update.is_chosen counts
        raise UserError(f"--adv_ratio {opts.adv_ratio:g} of --batch_size {opts.batch_size} is no image: raise either")
    processes = distributed.world_size()
    parts = processes * opts.accumulate
    if opts.batch_size % parts:
        raise UserError(f"--batch_size {opts.batch_size} can't be cut into equal parts for {processes} processes x "
                        f"--accumulate {opts.accumulate}: choose a multiple of {parts}")
    together = processes if opts.sync_bn else 1
    if opts.batch_size // parts * together < 2:
        raise UserError(f"--batch_size {opts.batch_size} leaves one image for each part, too few for the BatchNorm "
                        f"after global pooling: give a multiple of {2 * parts // together}")
    if opts.gpu_id is not None and build.GPUS.is_dir():  # where they aren't all there, build.choose_device() says so
        _refuse_small_shares(opts, len(opts.gpu_id.split(",")))


def replicas(opts) -> int:
    """How many GPUs share each part of the batch (DataParallel); 1 for a process of its own.

    Raises UserError where one of them would get a single image.
    """
    count = 1 if distributed.launched() else torch.cuda.device_count() or 1
    _refuse_small_shares(opts, count)
    return count


def _refuse_small_shares(opts, gpus: int):
    images = opts.batch_size // opts.accumulate
    share = math.ceil(images / gpus)  # DataParallel cuts 10 for 4 into 3, 3, 3, 1
    if gpus > 1 and (images - 1) % share + 1 < 2:
        raise UserError(f"--batch_size {opts.batch_size} leaves a GPU with one image, too few for the BatchNorm after "
                        f"global pooling: give a multiple of {2 * gpus * opts.accumulate}")
