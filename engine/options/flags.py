"""FLAGS: every flag of every entry, declared once. docs/flags.md is made from it."""
import os
from functools import partial

from engine.options.attack_flags import ATTACK, OF_PREDICTION
from engine.options.declare import (
    ABOUT,
    EXPORT,
    PREDICT,
    REPORT,
    SCORING,
    SEGMENTING,
    TEST,
    TRAIN,
    VERIFY,
    WITH_NETWORK,
    WITHOUT_DATA,
    Flag,
    Need,
    dataset_with,
    given,
    named_model,
)
from engine.options.training_flags import ADVERSARIAL, SCALE, SCHEDULE, SHARPNESS
from engine.options.types import (
    device_name,
    function_in_file,
    gpu_ids,
    label_map,
    number,
    plain_text,
    run_name,
)
from utils.literals import list_registered

MODELS = list_registered("network/modeling.py", "MODELS")
WITH_DATA = (TRAIN, TEST, VERIFY)
WITH_MASKS = given(lambda options: options.mode != PREDICT or options.masks is not None,
                   "says what the labels in masks mean: add --masks FOLDER")

data = partial(Flag, group="data", modes=WITH_DATA)
DATA = (
    data("data_root", plain_text, "./datasets/data", "folder that holds the data set"),
    data("dataset", plain_text, "voc", "data set; synthetic needs no files", modes=WITH_NETWORK,
         choices=list_registered("datasets/__init__.py", "DATASETS"), fixed=True),
    data("year", plain_text, "2012", "of VOC; 2012_aug trains on SegmentationClassAug",
         choices=list_registered("datasets/voc.py", "YEARS"), needs=(dataset_with("year"),)),
    data("label_map", label_map, None, "labels that the masks have, and the classes they mean: a file of lines `from "
         "to`, or from:to,from:to", metavar="FILE|FROM:TO,...", modes=SEGMENTING,
         needs=(dataset_with("label_map"), WITH_MASKS), fixed=True),
    data("ignore_label", number(int, low=0, high=65535), 255, "label of pixels that are neither attacked nor scored, "
         "beside 255", modes=SEGMENTING, needs=(dataset_with("label_map"), WITH_MASKS), fixed=True),
    data("val_share", number(float, above=0, high=0.9), 0.2, "share of the training images that validate, if the data "
         "set has no val folder", needs=(dataset_with("val_share"),)),
    data("download", bool, False, "download VOC into data_root first, if it is not there", scope="once",
         needs=(dataset_with("download"),)),
    data("num_classes", number(int, low=1), None, "compared with the data set's own number", modes=WITH_NETWORK,
         scope="call"),
    data("crop_size", number(int, low=65, high=16384), None, "side of training crops, pixels (default: 513; cityscapes "
         "768)"),
    data("crop_val", bool, False, "validate on images resized and centre-cropped to crop_size, as VainF's published "
         "figures were; without it at native size"),
    data("batch_size", number(int, low=1), 16, "training images per iteration, over all GPUs, processes and parts"),
    data("val_batch_size", number(int, low=1), None, "validation images per batch (default: 4; cityscapes 1); 1 where "
         "their sizes differ (predict.py: images of one size, at most 8 megapixels)", modes=SEGMENTING),
    data("num_workers", number(int, low=0, high=256), 2, "processes that load images", scope="call"),
    data("cache", plain_text, "none", "keep decoded training images: ram, or disk, a folder in output_dir that later "
         "runs use too", choices=("none", "ram", "disk"), modes=(TRAIN,), scope="call", needs=(
             given(lambda options: options.dataset != "synthetic", "synthetic images are not decoded: leave it out"),)),
    data("cache_gb", number(float, above=0), 8.0, "at most this many GB of them: ram of each process, or the "
         "whole folder on disk",
         modes=(TRAIN,), scope="call", needs=(
             given(lambda options: options.cache != "none", "add --cache ram or disk"),)),
    data("random_seed", number(int, low=0, high=2**32 - 1), 1, "seed of weights and data"),
    data("check_data", bool, False, "before anything else read every image and mask, not only the first ones: list all "
         "bad ones, and the pixels of each class", scope="once"),
    data("skip_bad_images", bool, False, "like --check_data, but skip bad images and continue"),
)

WINDOW = given(lambda options: options.window, "for windows: add --window")
model = partial(Flag, group="model", modes=WITH_NETWORK)
MODEL = (
    model("model", plain_text, "deeplabv3plus_mobilenet", "one of " + ", ".join(MODELS) + ", or a network of your own, "
          "path/to/file.py:function", choices=MODELS, otherwise=function_in_file, metavar="NAME", fixed=True),
    model("separable_conv", bool, False, "depthwise separable convolutions in the head", fixed=True,
          needs=(named_model(),)),
    model("output_stride", int, None, "input pixels per pixel of the last features (default: 16; HRNet takes 4 only)",
          choices=(4, 8, 16), fixed=True, needs=(named_model(),)),
    model("pretrained_backbone", bool, True, "start from published ImageNet weights where there are any (not with "
          "--ckpt)", modes=(TRAIN, TEST, VERIFY), needs=(named_model(),)),
    model("backbone_weights", plain_text, None, "local file of the backbone's ImageNet weights, instead of a download: "
          "of torchvision, timm or this program", scope="call", metavar="FILE", modes=(TRAIN,), needs=(named_model(),)),
    model("ckpt", plain_text, None, "weights to start from: of this program, VainF, SAM_AT, or torchvision's "
          "deeplabv3_resnet", scope="call", metavar="FILE"),
    model("new_head", bool, False, "take all but the last layer from --ckpt, which may have other classes; the last "
          "layer is new", scope="call", modes=(TRAIN,), needs=(
              named_model(),
              given(lambda options: options.ckpt, "takes all but the last layer from a file: give --ckpt FILE"))),
    model("freeze_backbone", bool, False, "train the head alone: the backbone's weights and BatchNorm statistics stay",
          modes=(TRAIN, TEST, VERIFY), needs=(
              named_model(),
              given(lambda options: options.ckpt or options.backbone_weights or (
                  options.pretrained_backbone and "hrnet" not in options.model), "for a trained backbone, this one is "
                  "random: give --ckpt or --backbone_weights FILE"))),
    model("window", number(int, low=65, high=16384), None, "score, attack and segment images in overlapping windows of "
          "this side, or height and width, in the memory of one window", many=True, metavar="SIDE", scope="test",
          modes=SEGMENTING),
    model("window_stride", number(int, low=1, high=16384), None, "pixels from window to window (default: two thirds of "
          "its smaller side)", scope="test", modes=SEGMENTING, needs=(WINDOW,)),
    model("tta", plain_text, None, "score the mean of the probabilities of the image and its mirror image (flip), or "
          "of both at three scales (multiscale); attacks go through it", modes=(TEST, VERIFY), scope="test",
          choices=list_registered("network/augmented.py", "VIEWS")),
)

report = partial(Flag, group="reports and checks", scope="call")
REPORTS = (
    report("report", plain_text, None, "compare recorded runs (folders, or names in output_dir): tables, curves, "
           "sheets; or groups of runs, A1,A2 B1,B2: means and intervals of differences. Nothing is attacked again; "
           "--attack, --attack_loss, --attack_norm, --eps choose records", many=True, metavar="RUN", modes=(REPORT,)),
    report("report_dir", plain_text, None, "where the report goes (default: RUN/report; of several runs "
           "output_dir/report)", metavar="FOLDER", modes=(REPORT,)),
    report("verify", bool, False, "check on a few images that attacks and their gradients can be trusted on this "
           "checkpoint; exit code 1 if not", modes=(VERIFY,)),
)

FINDS_WEIGHTS = given(lambda options: options.mode not in WITHOUT_DATA or "ckpt" not in options.given,
                      "chooses the run whose weights are used, and --ckpt names these: give one of them")
SAME_DEVICE = given(lambda options: options.device in ("auto", "cuda") or (
    options.device == f"cuda:{options.gpu_id}" and "CUDA_VISIBLE_DEVICES" not in os.environ),  # which cuda:1 counts
    "--device names another one: leave one of them out")
run = partial(Flag, group="run", scope="call")
RUN = (
    run("output_dir", plain_text, "checkpoints", "folder of all runs", modes=(*WITH_NETWORK, REPORT),
        needs=(FINDS_WEIGHTS,)),
    run("exp_name", run_name, "exp", "name of this run, its folder in output_dir", modes=WITH_NETWORK,
        needs=(FINDS_WEIGHTS,)),
    run("overwrite", bool, False, "delete the run of that name and start again; predict.py and export.py: "
        "replace their own earlier files", scope="once", modes=(TRAIN, PREDICT, EXPORT)),
    run("continue_training", bool, False, "continue the run of that name, or in a new folder the training state in "
        "--ckpt; options are the run's own unless given", modes=(TRAIN,)),
    run("options", plain_text, None, "run again what an opts.txt describes, under another --exp_name; other flags that "
        "are given win", scope="once", metavar="FILE", modes=(TRAIN,)),
    run("device", device_name, "auto", "where to compute; auto is cuda, else mps (Apple's GPU), else cpu; cuda:1 "
        "is the second GPU",
        modes=SEGMENTING),
    run("gpu_id", gpu_ids, None, "GPUs, such as 0 or 0,1,2,3 for DataParallel (default: 0, or those of "
        "CUDA_VISIBLE_DEVICES; torchrun gives each process its own; predict.py uses the first)", modes=SEGMENTING,
        needs=(SAME_DEVICE,)),
)

WATCHED = given(lambda options: options.enable_vis, "for the visdom dashboard: add --enable_vis")
SHOWN = given(lambda options: options.enable_vis or options.tensorboard is not None,
              "for a dashboard: add --enable_vis or --tensorboard")
dashboard = partial(Flag, group="dashboards", scope="call", modes=SCORING, needs=(WATCHED,))
DASHBOARD = (
    dashboard("enable_vis", bool, False, "show the run on a visdom server", needs=()),
    dashboard("vis_port", number(int, low=1, high=65535), 13570, "port of the server"),
    dashboard("vis_env", plain_text, "main", "visdom environment"),
    dashboard("vis_num_samples", number(int, low=0), 8, "validation images to show", modes=(TRAIN,), needs=(SHOWN,)),
    dashboard("tensorboard", plain_text, None, "write event files for TensorBoard, to the run's folder or to a folder "
              "of the run's name in DIR", bare=True, metavar="DIR", needs=()),
)

about = partial(Flag, group="about this program", scope="once", modes=(ABOUT,))
ANSWERS = (
    about("list", plain_text, None, "show what there is, as a table: parameters, strides and weights of the models, "
          "classes and layout of the data sets, cost of the attacks in gradients",
          choices=list_registered("engine/about/catalogue.py", "TABLES")),
    about("version", bool, False, "show the versions of this program and its packages, the device and the commit: "
          "what a report of an error needs"),
)

predict = partial(Flag, group="segmented images", scope="once", modes=(PREDICT,))
SEGMENTED = (
    predict("input", plain_text, None, "images, folders that are searched throughout, .txt lists of one image a line",
            many=True, metavar="PATH", required="name an image, a folder of images, or a .txt list of images"),
    predict("save_val_results_to", plain_text, "predictions", "folder for the results", metavar="FOLDER"),
    predict("save_logits", bool, False, "write each image's logits too, float32 [C, H, W]: NAME_logits.npz"),
    predict("overlay_alpha", number(float, low=0, high=1), 0.7, "opacity of the class colours over the image"),
    predict("masks", plain_text, None, "the images' masks, in a tree like theirs: the labels for --attack (default: "
            "the clean predictions)", metavar="FOLDER", needs=(OF_PREDICTION,)),
)

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}  # of the files of each --format
RIGHT_ENDING = Need(lambda options: options.output.endswith(ENDINGS[options.format]),
                    lambda options: f"the name must end in {ENDINGS[options.format]} for --format {options.format}")
export = partial(Flag, group="exported networks", scope="once", modes=(EXPORT,))
EXPORTED = (
    export("format", plain_text, None, "of the file: ONNX (.onnx), or PyTorch's archive of torch.export (.pt2)",
           choices=list_registered("network/export.py", "FORMATS"), required="give onnx or torch_export"),
    export("output", plain_text, None, "the file to write", metavar="FILE", needs=(RIGHT_ENDING,),
           required="name the file to write"),
    export("height", number(int, low=1, high=16384), None, "of all images that the file takes, pixels (default: any)",
           needs=(given(lambda options: options.width, "--width fixes the size with it: give both or neither"),)),
    export("width", number(int, low=1, high=16384), None, "of all images that the file takes, pixels (default: any)",
           needs=(given(lambda options: options.height, "--height fixes the size with it: give both or neither"),)),
)

FLAGS = {flag.name: flag for flag in (*DATA, *MODEL, *SCHEDULE, *SHARPNESS, *ADVERSARIAL, *SCALE, *ATTACK, *REPORTS,
                                      *RUN, *DASHBOARD, *SEGMENTED, *EXPORTED, *ANSWERS)}
