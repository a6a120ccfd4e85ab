"""From options to parts: device, data, model, optimizer. Below this, everything is an explicit argument."""
import os
from datetime import datetime
from pathlib import Path

import torch
from torch import nn

from datasets import build_datasets, build_loaders, check_dataset
from engine import options, report
from engine.evaluate import evaluate
from engine.train import Trainer
from metrics import StreamSegMetrics
from network import build_model, load_weights, set_bn_momentum
from optim import build_loss, build_optimizer, build_scheduler
from utils.checkpoint import model_state
from utils.errors import UserError
from utils.logging import logger
from utils.visualizer import NullVisualizer, Visualizer

GPUS = Path("/proc/driver/nvidia/gpus")  # there wherever NVIDIA's driver has a GPU
CHECKED_IMAGES = 8  # of each split, before a run; --check_data reads all


def choose_device(gpu_id: str | None) -> torch.device:
    """The first GPU of --gpu_id, else of CUDA_VISIBLE_DEVICES, else GPU 0; the CPU where there is none."""
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


def build_data(opts, device: torch.device):
    """(train_loader or None, val_loader, val_set); both splits are there and their first images are sound."""
    train_set, val_set = build_datasets(
        opts.dataset, data_root=opts.data_root, year=opts.year, download=opts.download, crop_size=opts.crop_size,
        crop_val=opts.crop_val, seed=opts.random_seed, train=not opts.test_only)
    if opts.num_classes not in (None, val_set.num_classes):
        raise UserError(f"--num_classes {opts.num_classes}: {opts.dataset} has {val_set.num_classes}")
    opts.num_classes = val_set.num_classes
    for dataset in filter(None, (train_set, val_set)):
        check_dataset(dataset, limit=None if opts.check_data else CHECKED_IMAGES)
    train_size = "" if train_set is None else f"Train set: {len(train_set)}, "
    logger.info("Dataset: %s, %sVal set: %d", opts.dataset, train_size, len(val_set))
    loaders = build_loaders(
        train_set, val_set, batch_size=opts.batch_size,
        val_batch_size=opts.val_batch_size, val_images=opts.val_images, num_workers=opts.num_workers,
        seed=opts.random_seed, pin_memory=device.type == "cuda")
    return *loaders, val_set


def build_network(opts, device: torch.device, *, checkpoint: dict | None) -> nn.Module:
    """The normalised model with its starting weights: the checkpoint's, else the backbone's published ones."""
    model = build_model(
        opts.model, num_classes=opts.num_classes, output_stride=opts.output_stride, separable_conv=opts.separable_conv,
        pretrained_backbone=opts.pretrained_backbone and checkpoint is None)
    set_bn_momentum(model.model.backbone, momentum=0.01)  # as VainF; the head keeps 0.1
    if checkpoint is not None:
        load_weights(model.model, model_state(checkpoint), source=opts.ckpt)
        if "normalization" in checkpoint:
            model.normalization = checkpoint["normalization"]
    return model.to(device, memory_format=torch.channels_last)  # faster convolutions on CPU and GPU


def build_training(opts, model: nn.Module):
    """(optimizer, scheduler) over the groups [backbone, classifier]."""
    groups = [
        {"params": list(model.model.backbone.parameters()), "lr": opts.lr * opts.backbone_lr_mult},
        {"params": list(model.model.classifier.parameters()), "lr": opts.lr},
    ]
    optimizer = build_optimizer(
        opts.optimizer, groups, lr=opts.lr, weight_decay=opts.weight_decay, rho=opts.rho, adaptive=opts.adaptive,
        start_step=opts.sam_start_itr, model=model)
    scheduler = build_scheduler(opts.lr_policy, optimizer, total_itrs=opts.total_itrs, step_size=opts.step_size)
    if opts.optimizer == "SAM":
        logger.info("Using SAM optimizer, rho=%g", opts.rho)
        logger.info("SAM is active from iteration %d%s", opts.sam_start_itr, " (adaptive)" if opts.adaptive else "")
    elif opts.optimizer == "adam":
        logger.info("Using Adam optimizer")
    return optimizer, scheduler


def parallel(model: nn.Module, *, batch_size: int) -> nn.Module:
    """`model` over all visible GPUs (DataParallel), or itself on one device."""
    replicas = torch.cuda.device_count() or 1
    shares = torch.empty(batch_size).chunk(replicas)  # as DataParallel cuts a batch: 10 on 4 GPUs is 3, 3, 3, 1
    if len(shares[-1]) < 2:
        raise UserError(f"--batch_size {batch_size} leaves a GPU (or the CPU) with one image, too few for the "
                        f"BatchNorm after global pooling: give a multiple of {2 * replicas}")
    return nn.DataParallel(model) if replicas > 1 else model


def build_trainer(opts, run, model, train_loader, val_loader, val_set, dashboard) -> Trainer:
    """The training run: optimizer, schedule, loss, what a validation does and what a checkpoint describes."""
    samples = report.Samples(dashboard, val_set, opts.vis_num_samples)

    def validate(trainer):
        metrics = StreamSegMetrics(val_set.num_classes)
        results = evaluate(model, val_loader, metrics, on_batch=samples, title="validation")
        logger.info(metrics.to_str(results))
        report.show_validation(dashboard, results, itr=trainer.cur_itrs, class_names=val_set.class_names)
        return results

    logger.info("Experiment starts at %s", datetime.now().isoformat(sep=" ", timespec="seconds"))
    logger.info("%s %s %s", opts.exp_name, opts.model, opts.dataset)
    optimizer, scheduler = build_training(opts, model)
    return Trainer(
        model, parallel(model, batch_size=opts.batch_size), train_loader, optimizer=optimizer,
        scheduler=scheduler, criterion=build_loss(opts.loss_type), validate=validate, dashboard=dashboard,
        paths={kind: run.checkpoint_path(kind, opts) for kind in ("latest", "best")}, go_on=run.continue_command(),
        described={"options": options.to_dict(opts), "normalization": model.normalization,
                   "class_names": val_set.class_names})


def say_start(opts):
    """Say from which weights the run starts."""
    if opts.ckpt is None:
        logger.info("[!] Retrain")
    else:
        logger.info("Model restored from %s", opts.ckpt)


def build_dashboard(opts):
    """A connected visdom dashboard, or one that shows nothing."""
    return Visualizer(port=opts.vis_port, env=opts.vis_env) if opts.enable_vis else NullVisualizer()
