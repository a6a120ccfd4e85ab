"""FLAGS: every flag of every entry, declared once. docs/flags.md is made from it."""
from functools import partial

from engine.options.declare import PREDICT, REPORT, TEST, TRAIN, VERIFY, Flag, Need, list_attacks, list_registered
from engine.options.needs import attack_with, dataset_with, given, named_model
from engine.options.training_flags import ADVERSARIAL, NORMS, SCALE, SCHEDULE, SHARPNESS
from engine.options.types import function_in_file, gpu_ids, number, plain_text, run_name, share_of_eps, target

ATTACKS = list_registered("attacks/__init__.py", "ATTACKS")
LOSSES = list_registered("attacks/losses.py", "LOSSES")
MODELS = list_registered("network/modeling.py", "MODELS")
WITH_DATA, WITH_NETWORK = (TRAIN, TEST, VERIFY), (TRAIN, TEST, VERIFY, PREDICT)
SCORING = (TRAIN, TEST)

data = partial(Flag, group="data", modes=WITH_DATA)
DATA = (
    data("data_root", plain_text, "./datasets/data", "folder that holds the data set"),
    data("dataset", plain_text, "voc", "data set; synthetic needs no files", modes=WITH_NETWORK,
         choices=list_registered("datasets/__init__.py", "DATASETS"), fixed=True),
    data("year", plain_text, "2012", "of VOC; 2012_aug trains on SegmentationClassAug",
         choices=list_registered("datasets/voc.py", "YEARS"), needs=(dataset_with("year"),)),
    data("download", bool, False, "download VOC into data_root first, if it is not there", scope="once",
         needs=(dataset_with("download"),)),
    data("num_classes", number(int, low=1), None, "compared with the data set's own number", modes=WITH_NETWORK,
         scope="call"),
    data("crop_size", number(int, low=65, high=16384), 513, "side of training crops, pixels"),
    data("crop_val", bool, False, "validate on images resized and centre-cropped to crop_size, as VainF's published "
         "figures were; without it at native size"),
    data("batch_size", number(int, low=1), 16, "training images per iteration, over all GPUs, processes and parts"),
    data("val_batch_size", number(int, low=1), 4, "validation images per batch; 1 where their sizes differ"),
    data("num_workers", number(int, low=0, high=256), 2, "processes that load images", scope="call"),
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
          "--ckpt)", needs=(named_model(),)),
    model("ckpt", plain_text, None, "weights to start from: of this program, VainF, SAM_AT, or torchvision's "
          "deeplabv3_resnet", scope="call", metavar="FILE"),
    model("window", number(int, low=65, high=16384), None, "score, attack and segment images in overlapping windows of "
          "this side, or height and width, in the memory of one window", many=True, metavar="SIDE", scope="test"),
    model("window_stride", number(int, low=1, high=16384), None, "pixels from window to window (default: two thirds of "
          "its smaller side)", scope="test", needs=(WINDOW,)),
)

ATTACKED = Need(lambda options: (options.mode not in SCORING or list_attacks(options)
                                 or ("attack" in options.given and not options.adv)),
                lambda _: "for --attack, which is not given; the radius in training is --train_eps and --norm")
attack = partial(Flag, group="attacked evaluation", modes=SCORING, scope="call")
ATTACK = (
    attack("test_only", bool, False, "evaluate, without training; model, data and seed are the checkpoint's unless "
           "given", modes=(TEST, VERIFY)),
    attack("attack", plain_text, ("none",), "attacks to evaluate under: none, " + ", ".join(ATTACKS) + "; clean images "
           "always come first", choices=("none", *ATTACKS), many=True, metavar="NAME", modes=(*SCORING, REPORT)),
    attack("eps", number(float, low=0), None, "radii: 4/255 or a number in [0, 1]; for l2 any (default: 2/255 4/255 "
           "8/255; l2 0.5 1 2)", many=True, modes=(*WITH_DATA, REPORT), needs=(ATTACKED,)),
    attack("attack_norm", plain_text, "linf", "norm of the radius", choices=NORMS, modes=(*SCORING, REPORT),
           needs=(ATTACKED,)),
    attack("attack_loss", plain_text, None, "losses that fgsm, pgd and apgd ascend: " + ", ".join(LOSSES) +
           " (default: ce); the other attacks have their own", choices=LOSSES, many=True, metavar="NAME",
           modes=(*SCORING, REPORT), needs=(attack_with("attack_loss"),)),
    attack("steps", number(int, low=1), None, "gradient steps (default: pgd, segpgd, cospgd 10, apgd 100, sea and "
           "ensemble 300 for each loss), queries of square (1000)", needs=(attack_with("steps"),)),
    attack("alpha", share_of_eps, "eps/4", "step size of pgd, segpgd, cospgd: a share of eps, or a number",
           needs=(attack_with("step_size"),)),
    attack("best_iterate", bool, False, "pgd, segpgd, cospgd: each image's best iterate instead of the last one; apgd "
           "always keeps the best", needs=(attack_with("best_iterate"),)),
    attack("red_eps", bool, False, "apgd: steps shared out over radii of 2, 1.5 and 1 eps; sea and ensemble always do "
           "so", needs=(attack_with("red_eps"),)),
    attack("restarts", number(int, low=1), 1, "attempts from new random points; each image keeps its worst",
           needs=(attack_with("restarts"),)),
    attack("attack_seed", number(int, low=0, high=2**32 - 1), 1, "seed of the attacks' random numbers",
           modes=WITH_DATA),
    attack("target_class", target, None, "drive predictions to class K, or to a label map (an image of class numbers)",
           metavar="K|FILE", needs=(attack_with("target"),)),
    attack("warm_start", bool, False, "begin at the result for the next smaller --eps: no image then gets better as "
           "eps grows", needs=(attack_with("eps"),)),
    attack("val_images", number(int, low=1), None, "evaluate on N validation images, evenly spaced, instead of all",
           metavar="N", modes=(TEST, VERIFY)),
    attack("save_val_results", bool, False, "write image, target, pred, overlay and perturbation PNGs of every result "
           "and image"),
    attack("sheet_images", number(int, low=0), 3, "number of images whose PNGs are always written, for the sheets of "
           "--report"),
)

report = partial(Flag, group="reports and checks", scope="call")
REPORTS = (
    report("report", plain_text, None, "compare recorded runs (folders, or names in output_dir): tables, curves, "
           "sheets; nothing is attacked again. --attack, --attack_loss, --attack_norm, --eps choose records", many=True,
           metavar="RUN", modes=(REPORT,)),
    report("report_dir", plain_text, None, "where the report goes (default: RUN/report; of several runs "
           "output_dir/report)", metavar="FOLDER", modes=(REPORT,)),
    report("verify", bool, False, "check on a few images that attacks and their gradients can be trusted on this "
           "checkpoint; exit code 1 if not", modes=(VERIFY,)),
)

run = partial(Flag, group="run", scope="call")
RUN = (
    run("output_dir", plain_text, "checkpoints", "folder of all runs", modes=(*WITH_NETWORK, REPORT)),
    run("exp_name", run_name, "exp", "name of this run, its folder in output_dir", modes=WITH_NETWORK),
    run("overwrite", bool, False, "delete the run of that name and start again", scope="once", modes=(TRAIN,)),
    run("continue_training", bool, False, "continue the run of that name, or in a new folder the training state in "
        "--ckpt; options are the run's own unless given", modes=(TRAIN,)),
    run("options", plain_text, None, "run again what an opts.txt describes, under another --exp_name; other flags that "
        "are given win", scope="once", metavar="FILE", modes=(TRAIN,)),
    run("gpu_id", gpu_ids, None, "GPUs, such as 0 or 0,1,2,3 for DataParallel (default: 0, or those of "
        "CUDA_VISIBLE_DEVICES; torchrun gives each process its own)", modes=WITH_NETWORK),
)

WATCHED = given(lambda options: options.enable_vis, "for the dashboard: add --enable_vis")
dashboard = partial(Flag, group="visdom dashboard", scope="call", modes=SCORING, needs=(WATCHED,))
DASHBOARD = (
    dashboard("enable_vis", bool, False, "show the run on a visdom server", needs=()),
    dashboard("vis_port", number(int, low=1, high=65535), 13570, "port of the server"),
    dashboard("vis_env", plain_text, "main", "visdom environment"),
    dashboard("vis_num_samples", number(int, low=0), 8, "validation images to show", modes=(TRAIN,)),
)

predict = partial(Flag, group="segmented images", scope="call", modes=(PREDICT,))
SEGMENTED = (
    predict("input", plain_text, None, "an image, or a folder that is searched throughout"),
    predict("save_val_results_to", plain_text, "predictions", "folder for the results", metavar="FOLDER"),
)

FLAGS = {flag.name: flag for flag in (*DATA, *MODEL, *SCHEDULE, *SHARPNESS, *ADVERSARIAL, *SCALE, *ATTACK, *REPORTS,
                                      *RUN, *DASHBOARD, *SEGMENTED)}
