"""prepare(call): options, run folder, checkpoint, device, data and network for every entry."""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attacks import Attack
from datasets import DATASETS, build_datasets, build_loaders, cache_decoded, check_and_filter, describe
from engine.evaluation.plan import plan_attacks
from engine.options import EXPORT, PROTOCOLS, REPORT, TRAIN, WITHOUT_DATA, Call, Options, as_text
from engine.run.folder import Run
from engine.run.resume import (
    Loaded,
    check_classes,
    find_source,
    finish_options,
    load_checkpoint,
    read_skipped_images,
)
from engine.run.sources import NETWORK, build_sources, place_sources
from network import (
    CustomModel,
    as_scored,
    build_model,
    check_custom,
    choose_window,
    find_backbone,
    freeze_backbone,
    load_backbone,
    load_weights,
    set_bn_momentum,
    take_normalization,
)
from utils import distributed
from utils.checkpoint import load, model_state
from utils.dashboards import Dashboard, open_dashboards
from utils.device import choose_device
from utils.errors import UserError
from utils.logging import logger
from utils.seed import seed_everything

TRIAL_SIDE = 256  # of an image for a network of the user's own, where no data is read


@dataclass(frozen=True)
class Setup:
    """Everything that an entry works with; None where its mode doesn't need it.

    classes: names, palette and decode_target of the data set. source: where it is and what its labels mean. attacks:
    those of the evaluation. train_loader: only for training. skipped: {split: names} of the bad images that the
    checkpoint's run left out. transfer_from: {name: network} that attacks see instead of scored_model.
    """

    options: Options
    run: Run | None = None
    checkpoint: Loaded | None = None
    classes: object = None
    source: dict | None = None
    attacks: tuple[Attack, ...] = ()
    device: torch.device | None = None
    model: nn.Module | None = None
    train_loader: object = None
    val_loader: object = None
    val_set: object = None
    skipped: dict | None = None
    dashboard: Dashboard = Dashboard()
    transfer_from: dict[str, nn.Module] | None = None

    @property
    def scored_model(self) -> nn.Module:
        """Return the model as it is scored, attacked and segments images: in windows or augmented, if asked for."""
        return as_scored(self.model, **choose_form(self.options))

    def open_run(self):
        """Log the weights that the run starts from, and open its folder."""
        logger.info("[!] Retrain" if self.checkpoint is None else f"Model restored from {self.checkpoint.path}")
        self.run.open(training=self.options.mode == TRAIN, overwrite=self.options.overwrite,
                      options_text=as_text(self.options), drawn=self.val_set.drawn,
                      fallback=self.checkpoint.fallback if self.checkpoint else None)
        self.dashboard.table("Options", self.options.to_dict())


def prepare(call: Call) -> Setup:
    """Return what an entry needs for a call, after finding all errors before expensive work starts.

    Raises UserError for options that a checkpoint makes invalid, for files and for data.
    """
    if call.mode == REPORT:
        return Setup(finish_options(call, None))
    given = {"output_dir": "checkpoints", "exp_name": "exp", **call.given}
    run = Run(Path(given["output_dir"]) / given["exp_name"])
    call = run.continue_restarted(call)
    checkpoint = load_checkpoint(call, run.folder)
    options = finish_options(call, checkpoint)
    if options.protocol:
        logger.info("--protocol %s is %s", options.protocol, PROTOCOLS[options.protocol])
    source = find_source(options, checkpoint)
    classes = describe(options.dataset, **source)
    check_classes(options, checkpoint, classes)
    attacks = plan_attacks(options, num_classes=classes.num_classes)
    if call.mode not in WITHOUT_DATA:
        run.refuse_if_used(training=call.mode == TRAIN, ckpt=call.given.get("ckpt"), overwrite=options.overwrite,
                           continue_training=options.continue_training)
    sources = build_sources(options.transfer_from or (), own={name: getattr(options, name) for name in NETWORK},
                            given_model=call.given.get("model"), class_names=list(classes.names))
    seed_everything(options.random_seed)
    device = torch.device("cpu") if call.mode == EXPORT else choose_device(options.device, options.gpu_id)
    skipped = read_skipped_images(options, checkpoint)
    data = [None] * 3 if call.mode in WITHOUT_DATA else build_data(options, device, source=source, skipped=skipped)
    model = build_network(options, device, num_classes=classes.num_classes, checkpoint=checkpoint)
    if options.window is not None:
        (height, width), stride = choose_window(options.window, options.window_stride)
        logger.info("Images are scored in windows of %dx%d (height x width), %d pixels apart", height, width, stride)
    if isinstance(model, CustomModel):
        for size in choose_trial_sizes(options, data[-1]):
            check_custom(model, *size)
    return Setup(options, run.of_shard(options.shard), checkpoint, classes, source, attacks, device, model, *data,
                 skipped, build_dashboard(options, run.folder, checkpoint),
                 place_sources(sources, device, choose_form(options)))


def build_data(options: Options, device: torch.device, *, source: dict, skipped: dict | None = None):
    """Return (train_loader or None, val_loader, val_set), whose first images have been checked.

    source: of find_source(). --check_data reads all images, --skip_bad_images leaves bad ones out. skipped:
    {"train": names, "val": names} that an earlier call left out.
    """
    training = options.mode == TRAIN
    with distributed.main_first():  # so that only one process downloads
        train_set, val_set = build_datasets(
            options.dataset, **source, download=options.download, crop_size=options.crop_size,
            crop_val=options.crop_val, seed=options.random_seed, train=training)
    sets = {"train": train_set, "val": val_set} if training else {"val": val_set}
    sets = check_and_filter(sets, check_all=options.check_data, skip_bad=options.skip_bad_images, skipped=skipped,
                            num_workers=options.num_workers)
    train_set, val_set = sets.get("train"), sets["val"]
    logger.info("Dataset: %s, %sVal set: %d", options.dataset,
                f"Train set: {len(train_set)}, " if training else "", len(val_set))
    cache_decoded(train_set, options.cache, limit_gb=options.cache_gb, num_workers=options.num_workers,
                  folder=Path(options.output_dir, ".decoded"))
    return *build_loaders(
        train_set, val_set, batch_size=options.batch_size, val_batch_size=options.val_batch_size,
        val_images=options.val_images, num_workers=options.num_workers, seed=options.random_seed,
        pin_memory=device.type == "cuda"), val_set


def build_network(options: Options, device: torch.device, *, num_classes: int,
                  checkpoint: Loaded | None = None) -> nn.Module:
    """Return the normalised model with initial weights: the checkpoint's, else the backbone's published or given ones.

    --new_head takes all but the last layer of the checkpoint, --freeze_backbone keeps the backbone from being trained.
    """
    with distributed.main_first():
        model = build_model(
            options.model, num_classes=num_classes, output_stride=options.output_stride,
            separable_conv=options.separable_conv, pretrained_backbone=(
                options.pretrained_backbone and checkpoint is None and options.backbone_weights is None))
    if (backbone := find_backbone(model.model)) is not None:
        set_bn_momentum(backbone, momentum=options.bn_momentum)  # the head keeps 0.1
    elif "bn_momentum" in options.given:
        raise UserError(f"--bn_momentum is for a network with a backbone: {options.model} has no module of that name")
    if checkpoint is not None:
        load_weights(model.model, model_state(checkpoint.content), source=checkpoint.path, new_head=options.new_head)
        take_normalization(model, checkpoint.content, source=checkpoint.path)
    elif options.backbone_weights is not None:
        content = load(options.backbone_weights, flag="--backbone_weights")
        model.normalization = load_backbone(model.model.backbone, options.model.partition("_")[2],
                                            model_state(content), source=options.backbone_weights,
                                            whole=options.freeze_backbone)
        take_normalization(model, content, source=options.backbone_weights)
    if checkpoint is None:
        model.normalization = DATASETS[options.dataset].normalization or model.normalization
    if options.freeze_backbone and options.mode == TRAIN:
        freeze_backbone(model.model)
    return model.to(device, memory_format=torch.channels_last)  # faster convolutions on CPU and GPU


def choose_form(options: Options) -> dict:
    """Return what as_scored() takes from the options."""
    return {"tta": options.tta, "window": options.window, "stride": options.window_stride}


def choose_trial_sizes(options: Options, val_set) -> list[tuple[int, int]]:
    """Return the sizes to try a network of the user's own on: a training crop's and the first validation image's."""
    crops = [(options.crop_size, options.crop_size)] if options.mode == TRAIN else []
    scored = tuple(val_set[0][0].shape[-2:]) if val_set else (options.height or TRIAL_SIDE, options.width or TRIAL_SIDE)
    if options.window is not None:
        scored = tuple(map(min, scored, choose_window(options.window, options.window_stride)[0]))
    return [*crops, scored]


def build_dashboard(options: Options, folder: Path, checkpoint: Loaded | None) -> Dashboard:
    """Return the dashboards that the options ask for; only rank 0 has some."""
    return open_dashboards(
        vis_port=options.vis_port if options.enable_vis else None, vis_env=options.vis_env, folder=folder,
        tensorboard=options.tensorboard, run=options.exp_name, named="exp_name" in options.given,
        start=checkpoint.content.get("cur_itrs", 0) if options.continue_training else None
    ) if distributed.is_main() else Dashboard()
