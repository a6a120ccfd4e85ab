"""Rules for flags together: flags that don't apply to a mode, flags without effect, contradictions."""
import math
import os

from engine.options.declare import MODES, PREDICT, SAM_FAMILY, TEST, TRAIN, VERIFY, WITH_NETWORK, list_attacks
from engine.options.flags import FLAGS
from engine.options.types import compute_step_size, find_start_itr
from utils import launch
from utils.errors import UserError
from utils.user_code import is_code, split_name


def check_call(call, options):
    """Raise UserError for contradictions within a call, whatever its checkpoint holds."""
    refuse_useless(call)
    if call.mode not in (TRAIN, TEST) and launch.world_size() > 1:
        raise UserError(f"{MODES[call.mode][1]} runs in one process: start it with python {call.entry}")
    if call.mode not in WITH_NETWORK:
        return
    for name, flag in FLAGS.items():
        if flag.required and call.mode in flag.modes and name not in call.given:
            raise UserError(f"--{name}: {flag.required}")
    _check_start_weights(options)
    for name in call.given:
        if FLAGS[name].scope in ("call", "once") and not _is_off(name, options) and (
                remedy := FLAGS[name].unmet(options)):
            raise UserError(f"--{name}: {remedy}")
    if is_code(options.model) and not split_name(options.model)[0].is_file():
        raise UserError(f"--model {options.model}: no such file")
    if options.continue_training and options.overwrite:
        raise UserError("--continue_training keeps the run that --overwrite would delete: give only one of them")
    if call.mode == PREDICT:
        _check_prediction(options)
    for flag, size in (("eps", max(options.eps)), ("alpha", compute_step_size(options.alpha, max(options.eps)))):
        if options.attack_norm == "linf" and size > 1:
            raise UserError(f"--{flag} {size:g}: for linf at most 1, as pixels are in [0, 1]; write {size:g}/255 for "
                            f"{size:g} grey levels (docs/evaluation.md#eps-and-norms)")
    if call.mode == VERIFY:
        if len(options.eps) > 1:
            raise UserError("--eps: --verify checks attacks at one radius: give one")
        if options.eps[0] == 0:
            raise UserError("--eps 0: --verify checks attacks at a radius above 0, at most 1")
    _check_window(options)
    _check_attacks(options)


def _check_start_weights(options):
    """Raise UserError if two flags name different weights to start from."""
    for flag in ("new_head", "backbone_weights"):
        if options.continue_training and getattr(options, flag):
            raise UserError(f"--{flag} is for the start of a run, which --continue_training continues with the weights "
                            "that it has: leave one of them out (docs/weights.md)")
    if options.backbone_weights and options.ckpt:
        raise UserError("--backbone_weights and --ckpt both have weights of the backbone: give one of them "
                        "(docs/weights.md)")


def refuse_useless(call):
    """Raise UserError for given flags that don't apply to the mode, except switches that are given as off."""
    useless = [name for name, value in sorted(call.given.items())
               if call.mode not in FLAGS[name].modes and not (value is False and FLAGS[name].default is False)]
    if not useless:
        return
    does, _ = MODES[call.mode]
    if call.mode == TRAIN:
        wanted = " or ".join(MODES[mode][1] for mode in FLAGS[useless[0]].modes)
        raise UserError(f"--{useless[0]} is for {wanted}: leave it out of {does} "
                        "(docs/differences.md#flags-that-are-refused)")
    raise UserError(f"{does}: leave out --{', --'.join(useless)} (docs/differences.md#flags-that-are-refused)")


def check(options):
    """Raise UserError for options that contradict each other or would be ignored."""
    for name in sorted(options.given):
        if not _is_off(name, options) and (remedy := FLAGS[name].unmet(options)):
            raise UserError(f"--{name}: {remedy}")
    stride_4 = "hrnet" in options.model
    if not is_code(options.model) and stride_4 != (options.output_stride == 4):
        raise UserError(f"--output_stride {options.output_stride}: {options.model} takes "
                        f"{4 if stride_4 else '8 or 16'}")
    if options.gpu_id is not None and launch.launched():
        raise UserError("--gpu_id is for a single process: under torchrun leave it out and name GPUs in "
                        "CUDA_VISIBLE_DEVICES")
    _check_recipe(options)
    _check_window(options)
    if options.mode == TRAIN:
        _check_start("sam_start_itr", options.sam_start_itr, options.total_itrs,
                     what=options.optimizer if options.optimizer in SAM_FAMILY else "")
        _check_start("awp_start_itr", options.awp_start_itr, options.total_itrs,
                     what="AWP" if options.awp_gamma else "")
        _refuse_small_parts(options)


def _is_off(name: str, options) -> bool:
    """Return whether a switch is given as off, as it is by default: that asks for nothing."""
    return getattr(options, name) is False and FLAGS[name].default is False


def refuse_small_shares(options, gpus: int):
    """Raise UserError if one of `gpus` that share each part of the batch (DataParallel) would get one image."""
    images = options.batch_size // options.accumulate
    share = math.ceil(images / gpus)  # DataParallel cuts 10 images for 4 GPUs into 3, 3, 3, 1
    if gpus > 1 and (images - 1) % share + 1 < 2:
        raise UserError(f"--batch_size {options.batch_size} leaves a GPU with one image, too few for the BatchNorm "
                        f"after global pooling: give a multiple of {2 * gpus * options.accumulate} "
                        "(docs/gpus.md#batch-size-and-batchnorm)")


def _check_attacks(options):
    if options.warm_start and len(set(options.eps)) < 2:
        raise UserError("--warm_start starts from the result of a smaller --eps: give several --eps")
    if options.target_class is None:
        return
    from attacks import takes  # here, so that reading the flags doesn't import torch

    if untargeted := [name for name in list_attacks(options) if not takes(name, "target")]:
        raise UserError(f"--target_class: {', '.join(untargeted)} has no targeted form, leave it out of --attack "
                        "(docs/attacks.md#options)")


def _check_window(options):
    """Raise UserError for more than two sides, or windows that leave pixels between them."""
    if options.window is None:
        return
    if len(options.window) > 2:
        raise UserError(f"--window {' '.join(map(str, options.window))}: give one side, or a height and a width")
    if options.window_stride is not None and options.window_stride > min(options.window):
        raise UserError(f"--window_stride {options.window_stride} leaves pixels between windows: at most the smaller "
                        f"side of --window, {min(options.window)}")


def _check_recipe(options):
    if options.norm == "linf":
        alpha = compute_step_size(options.train_alpha, options.train_eps)
        for flag, size, is_large in (("train_eps", options.train_eps, options.train_eps >= 1),
                                     ("train_alpha", alpha, alpha > 1)):
            if is_large:
                raise UserError(f"--{flag} {size:g}: pixels are in [0, 1]; write {size:g}/255 for {size:g} grey levels "
                                "(docs/adversarial.md#eps-as-a-number-of-grey-levels)")
    if options.awp_gamma and options.optimizer in SAM_FAMILY:
        raise UserError(f"--awp_gamma and --optimizer {options.optimizer} both perturb the weights: choose one "
                        "(docs/adversarial.md#weight-perturbation)")
    if options.sam_sync == "local" and options.optimizer in {*SAM_FAMILY} - {"SAM"}:
        raise UserError(f"--sam_sync local: {options.optimizer} reuses the first gradient, which must be that of the "
                        "whole batch: give --sam_sync global (docs/gpus.md#sam-under-torchrun)")
    if options.adaptive and options.sam_perturb == "norm":
        raise UserError("--adaptive has no effect on the weights that --sam_perturb norm perturbs: leave one out")


def _check_start(flag: str, given: float, total_itrs: int, *, what: str):
    """Raise UserError if a start is not a whole iteration, or so late that `what` (if not "") would never run."""
    itr = find_start_itr(given, total_itrs)
    if itr != given and given > 1:
        raise UserError(f"--{flag} {given:g}: give an iteration, or a share of --total_itrs below 1")
    if what and itr >= total_itrs:
        raise UserError(f"--{flag} {itr} is not before --total_itrs {total_itrs}: {what} would never run")


def _refuse_small_parts(options):
    """Raise UserError for a batch part with one image, too few for BatchNorm, or a batch without attacked images."""
    if options.adv and options.batch_size * options.adv_ratio + 1e-9 < 1:  # as training.step.is_chosen counts
        raise UserError(f"--adv_ratio {options.adv_ratio:g} of --batch_size {options.batch_size} selects no images: "
                        "raise either")
    processes = launch.world_size()
    parts = processes * options.accumulate
    if options.batch_size % parts:
        raise UserError(f"--batch_size {options.batch_size} can't be cut into equal parts for {processes} processes x "
                        f"--accumulate {options.accumulate}: choose a multiple of {parts}")
    together = processes if options.sync_bn else 1
    if options.batch_size // parts * together < 2:
        raise UserError(f"--batch_size {options.batch_size} leaves one image for each part, too few for the BatchNorm "
                        f"after global pooling: give a multiple of {2 * parts // together} "
                        "(docs/gpus.md#batch-size-and-batchnorm)")
    if options.gpu_id is not None and launch.NVIDIA_GPUS.is_dir():  # choose_device() reports GPUs that are missing
        refuse_small_shares(options, len(options.gpu_id.split(",")))


def _check_prediction(options):
    for path in options.input:
        if not os.path.exists(path):  # Path.exists() raises PermissionError in a folder that can't be read
            raise UserError(f"--input {path}: no such file or folder, or it can't be read: correct the path")
    if options.masks is not None and not os.path.isdir(options.masks):
        raise UserError(f"--masks {options.masks}: no such folder, or it can't be read: correct the path")
    for flag, values in (("attack", list_attacks(options)), ("eps", options.eps),
                         ("attack_loss", options.attack_loss or ())):
        if len(values) > 1:
            raise UserError(f"--{flag}: predict.py writes one adversarial image for each image: give one value")
