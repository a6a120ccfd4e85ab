"""From options to parts: device, data, model, optimizer. Below this, everything is an explicit argument."""
import os
from pathlib import Path

import torch
from torch import nn

from datasets import build_datasets, build_loaders, vetted
from network import build_model, load_weights, set_bn_momentum
from utils import distributed
from utils.checkpoint import model_state
from utils.errors import UserError
from utils.logging import logger
from utils.visualizer import NullVisualizer, Visualizer

GPUS = Path("/proc/driver/nvidia/gpus")  # there wherever NVIDIA's driver has a GPU


def choose_device(gpu_id: str | None) -> torch.device:
    """The first GPU of --gpu_id, else of CUDA_VISIBLE_DEVICES, else GPU 0; the CPU where there is none.

    Under torchrun the process joins the others, and has the GPU of its own number there.
    """
    if distributed.launched():
        device = torch.device("cpu")
        if torch.cuda.is_available():
            if distributed.local_rank() >= (found := torch.cuda.device_count()):
                raise UserError(f"torchrun started more processes than there are GPUs: give --nproc_per_node={found}")
            device = torch.device("cuda", distributed.local_rank())
        distributed.start(device)
        logger.info("Device: %s, %d processes", device.type, distributed.world_size())
        return device
    if gpu_id is not None or "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0" if gpu_id is None else gpu_id
    if not torch.cuda.is_available():
        if gpu_id is not None and GPUS.is_dir():
            raise UserError(f"--gpu_id {gpu_id}: no such GPU here (nvidia-smi lists them; leave it out for the CPU)")
        logger.info("Device: cpu (no GPU is visible%s)", f", --gpu_id {gpu_id} changes nothing" if gpu_id else "")
        return torch.device("cpu")
    asked, found = len((gpu_id or "0").split(",")), torch.cuda.device_count()
    if found < asked:
        raise UserError(f"--gpu_id {gpu_id}: {found} of these {asked} GPUs are there")
    logger.info("Device: cuda (%s)", ", ".join(torch.cuda.get_device_name(index) for index in range(found)))
    return torch.device("cuda")


def build_data(opts, device: torch.device, *, skipped: dict | None = None):
    """(train_loader or None, val_loader, val_set); both splits are there, and their first images sound.

    With --check_data all images are, with --skip_bad_images all that the data sets keep; a data set's `skipped` has the
    names of the others. The argument, {"train": names, "val": names}, is such names that a run found before.
    """
    with distributed.main_first():  # one process downloads
        train_set, val_set = build_datasets(
            opts.dataset, data_root=opts.data_root, year=opts.year, download=opts.download, crop_size=opts.crop_size,
            crop_val=opts.crop_val, seed=opts.random_seed, train=not opts.test_only)
    if opts.num_classes not in (None, val_set.num_classes):
        raise UserError(f"--num_classes {opts.num_classes}: {opts.dataset} has {val_set.num_classes}")
    opts.num_classes = val_set.num_classes
    sets = {"val": val_set} if train_set is None else {"train": train_set, "val": val_set}
    sets = vetted(sets, check_all=opts.check_data, skip_bad=opts.skip_bad_images, skipped=skipped,
                  num_workers=opts.num_workers)
    train_set, val_set = sets.get("train"), sets["val"]
    train_size = "" if train_set is None else f"Train set: {len(train_set)}, "
    logger.info("Dataset: %s, %sVal set: %d", opts.dataset, train_size, len(val_set))
    loaders = build_loaders(
        train_set, val_set, batch_size=opts.batch_size,
        val_batch_size=opts.val_batch_size, val_images=opts.val_images, num_workers=opts.num_workers,
        seed=opts.random_seed, pin_memory=device.type == "cuda")
    return *loaders, val_set


def build_network(opts, device: torch.device, *, checkpoint: dict | None) -> nn.Module:
    """The normalised model with its starting weights: the checkpoint's, else the backbone's published ones."""
    with distributed.main_first():
        model = build_model(
            opts.model, num_classes=opts.num_classes, output_stride=opts.output_stride,
            separable_conv=opts.separable_conv, pretrained_backbone=opts.pretrained_backbone and checkpoint is None)
    set_bn_momentum(model.model.backbone, momentum=0.01)  # as VainF; the head keeps 0.1
    if checkpoint is not None:
        load_weights(model.model, model_state(checkpoint), source=opts.ckpt)
        if "normalization" in checkpoint:
            try:
                model.normalization = checkpoint["normalization"]
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                raise UserError(f"{opts.ckpt}: its normalization is none ({error})") from None
    return model.to(device, memory_format=torch.channels_last)  # faster convolutions on CPU and GPU


def say_start(opts):
    """Say from which weights the run starts."""
    if opts.ckpt is None:
        logger.info("[!] Retrain")
    else:
        logger.info("Model restored from %s", opts.ckpt)


def build_dashboard(opts):
    """A connected visdom dashboard, or one that shows nothing."""
    if opts.enable_vis and distributed.is_main():
        return Visualizer(port=opts.vis_port, env=opts.vis_env, go_on=opts.continue_training)
    return NullVisualizer()
