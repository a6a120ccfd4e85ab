"""What a training's flags mean together: defaults that hang on other flags, and contradictions."""
import torch

from engine.values import step_size
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
FOR_ADV = ("adv_attack", "train_eps", "train_alpha", "train_step", "train_rand_init", "norm", "adv_ratio", "awp_gamma")
NOT_FOR_FGSM = ("train_alpha", "train_step", "train_rand_init")


def base_of(opts) -> str:
    """sgd or adam: what takes the steps, under SAM or alone."""
    return opts.base_optimizer if opts.optimizer in SAM_FAMILY else opts.optimizer


def complete_recipe(opts):
    """Fill in what was left open; raises UserError for what can't be, or would be ignored."""
    opts.lr = opts.lr if opts.lr is not None else (5e-4 if base_of(opts) == "adam" else 0.01)
    if opts.optimizer in SAM_FAMILY and not opts.test_only:
        opts.sam_start_itr = _start(opts, "sam_start_itr", what=opts.optimizer)
    if opts.awp_gamma and not opts.test_only:
        opts.awp_start_itr = _start(opts, "awp_start_itr", what="AWP")
    _refuse_idle_flags(opts)
    _refuse_impossible(opts)


def _start(opts, flag: str, *, what: str) -> int:
    """The iteration that a start flag means: of its share of total_itrs below 1."""
    start = getattr(opts, flag)
    itr = round(start * opts.total_itrs) if 0 < start < 1 else int(start)
    if itr != start and start > 1:
        raise UserError(f"--{flag} {start:g}: an iteration, or a share of --total_itrs below 1")
    if itr >= opts.total_itrs:
        raise UserError(f"--{flag} {itr} is not before --total_itrs {opts.total_itrs}: {what} would never run")
    return itr


def _refuse_idle_flags(opts):
    """What was given, but could have no effect."""
    awp = {"sam_sync"} if opts.awp_gamma else set()
    for flag in sorted(opts.given & FOR_OPTIMIZERS.keys() - awp):
        if opts.optimizer not in FOR_OPTIMIZERS[flag]:
            raise UserError(f"--{flag} is for --optimizer {' or '.join(FOR_OPTIMIZERS[flag])}, "
                            f"this run has {opts.optimizer}: leave it out, or choose one of those")
    if not opts.adv and (given := sorted(opts.given & set(FOR_ADV))):
        raise UserError(f"--{given[0]} is for adversarial training: add --adv")
    if opts.adv_attack == "fgsm" and (given := sorted(opts.given & set(NOT_FOR_FGSM))):
        raise UserError(f"--{given[0]}: fgsm is one step of the whole eps from the image itself; "
                        "for another choose --adv_attack pgd --train_step 1")
    if "awp_start_itr" in opts.given and not opts.awp_gamma:
        raise UserError("--awp_start_itr: there is no weight perturbation without --awp_gamma")
    if "eta" in opts.given and not opts.adaptive:
        raise UserError("--eta is ASAM's: add --adaptive")
    if opts.sam_mode == "micro" and opts.accumulate == 1 and not opts.test_only:
        raise UserError("--sam_mode micro perturbs for each part of the batch: give their number with --accumulate")
    if "attack_amp" in opts.given and opts.attack_amp and opts.attack == ["none"] and not opts.adv:
        raise UserError("--attack_amp: nothing is attacked, give --attack or --adv")


def _refuse_impossible(opts):
    """What can't be together, or isn't meant so."""
    if opts.norm == "linf" and opts.train_eps >= 1:
        raise UserError(f"--train_eps {opts.train_eps:g}: pixels are in [0, 1]; write {opts.train_eps:g}/255 for "
                        f"{opts.train_eps:g} grey levels")
    if opts.norm == "linf" and (alpha := step_size(opts.train_alpha, opts.train_eps)) > 1:
        raise UserError(f"--train_alpha {alpha:g}: pixels are in [0, 1]; write {alpha:g}/255 for {alpha:g} grey levels")
    if opts.awp_gamma and opts.optimizer in SAM_FAMILY:
        raise UserError(f"--awp_gamma perturbs the weights, so does --optimizer {opts.optimizer}: choose one")
    if opts.sam_sync == "local" and opts.optimizer in ("LookSAM", "GSAM"):
        raise UserError(f"--sam_sync local: {opts.optimizer}'s step holds the first gradient, which must be the whole "
                        "batch's: leave it out")
    if opts.adaptive and opts.sam_perturb == "norm":
        raise UserError("--adaptive scales weights, of which --sam_perturb norm perturbs none: leave one out")
    if opts.gpu_id is not None and distributed.launched():
        raise UserError("--gpu_id is for a single process: torchrun gives each its own GPU, of those in "
                        "CUDA_VISIBLE_DEVICES")
    if not opts.test_only:
        _refuse_small_parts(opts)


def _refuse_small_parts(opts):
    """BatchNorm after global pooling needs two images in each normalised piece of the batch."""
    processes = distributed.world_size()
    parts = processes * opts.accumulate
    if opts.batch_size % parts:
        raise UserError(f"--batch_size {opts.batch_size} can't be cut into equal parts for {processes} processes x "
                        f"--accumulate {opts.accumulate}: choose a multiple of {parts}")
    together = processes if opts.sync_bn else 1
    if opts.batch_size // parts * together < 2:
        raise UserError(f"--batch_size {opts.batch_size} leaves one image for each part, too few for the BatchNorm "
                        f"after global pooling: give a multiple of {2 * parts // together}")


def replicas(opts) -> int:
    """How many GPUs share each part of the batch (DataParallel); 1 for a process of its own.

    Raises UserError where one of them would get a single image.
    """
    count = 1 if distributed.launched() else torch.cuda.device_count() or 1
    shares = torch.empty(opts.batch_size // opts.accumulate).chunk(count)  # as DataParallel: 10 on 4 is 3, 3, 3, 1
    if count > 1 and len(shares[-1]) < 2:
        raise UserError(f"--batch_size {opts.batch_size} leaves a GPU with one image, too few for the BatchNorm after "
                        f"global pooling: give a multiple of {2 * count * opts.accumulate}")
    return count
