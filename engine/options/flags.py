"""Every flag: its type, bounds, default and help; the only place in engine that knows argparse."""
import argparse
import difflib
import time

from attacks import ATTACKS, LOSSES, NORMS
from datasets import DATASETS
from datasets.voc import YEARS
from engine.errors import TURN
from engine.training_flags import add_adversarial, add_scale, add_sharpness, add_training
from engine.values import gpu_ids, number, plain_text, run_name, share_of_eps, target
from network import MODELS
from utils.distributed import is_main

DESCRIPTION = """Train DeepLabV3 / DeepLabV3+ with SGD, Adam or SAM, and measure how robust the segmentation is.

  python main.py --optimizer SAM --rho 0.02          train
  python main.py --test_only --attack pgd            mIoU, clean and attacked, of what was trained
  python main.py --continue_training                 go on with a run that was stopped (Ctrl-C is safe)"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of main.py."""
    parser = _Parser("main.py", description=DESCRIPTION, formatter_class=_Help, allow_abbrev=False)
    for add in (_data_flags, _model_flags, add_training, add_sharpness, add_adversarial, add_scale, _attack_flags,
                _report_flags, _run_flags, _dashboard_flags):
        add(parser)
    return parser


def _data_flags(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--data_root", default="./datasets/data", help="folder that the data set lies in")
    group.add_argument("--dataset", default="voc", choices=list(DATASETS), help="data set; synthetic needs no files")
    group.add_argument("--year", default="2012", choices=YEARS, help="of VOC; 2012_aug trains on SegmentationClassAug")
    group.add_argument("--download", action="store_true", help="download VOC into data_root first, if it is not there")
    group.add_argument("--num_classes", type=number(int, low=1), help="checked against the data set's own number")
    group.add_argument("--crop_size", type=number(int, low=65, high=16384), default=513,
                       help="side of training crops, pixels")
    group.add_argument("--crop_val", action=argparse.BooleanOptionalAction, default=False,
                       help="validate on images resized and centre-cropped to crop_size, as VainF's published figures "
                            "were; without it at native size")
    group.add_argument("--batch_size", type=number(int, low=1), default=16,
                       help="training images per iteration, all GPUs, processes and parts together")
    group.add_argument("--val_batch_size", type=number(int, low=1), default=4,
                       help="validation images per batch; 1 where their sizes differ")
    group.add_argument("--num_workers", type=number(int, low=0, high=256), default=2, help="processes that load images")
    group.add_argument("--check_data", action="store_true",
                       help="before anything else read every image and mask, not only the first ones: list all that "
                            "are bad, and the pixels of each class")
    group.add_argument("--skip_bad_images", action=argparse.BooleanOptionalAction, default=False,
                       help="do the same, and go on without the bad images")


def _model_flags(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="deeplabv3plus_mobilenet", choices=list(MODELS), metavar="NAME",
                       help="one of " + ", ".join(MODELS))
    group.add_argument("--separable_conv", action=argparse.BooleanOptionalAction, default=False,
                       help="depthwise separable convolutions in the head")
    group.add_argument("--output_stride", type=int, choices=[4, 8, 16],
                       help="input pixels per pixel of the last features (default: 16; HRNet has 4 alone)")
    group.add_argument("--pretrained_backbone", action=argparse.BooleanOptionalAction, default=True,
                       help="start from ImageNet weights where there are published ones (not with --ckpt)")
    group.add_argument("--ckpt", metavar="FILE",
                       help="weights to start from: of this program, VainF, SAM_AT, or torchvision's deeplabv3_resnet")


def _attack_flags(parser):
    group = parser.add_argument_group("attacked evaluation")
    group.add_argument("--test_only", action="store_true",
                       help="evaluate, without training; model, data and seed are the checkpoint's unless given")
    group.add_argument("--attack", nargs="+", default=["none"], choices=["none", *ATTACKS], metavar="NAME",
                       help="attacks to evaluate under, of none, " + ", ".join(ATTACKS) + "; clean comes always first")
    group.add_argument("--eps", nargs="+", type=number(float, low=0),
                       help="radii: 4/255 or a number in [0, 1]; for l2 any (default: 2/255 4/255 8/255; l2 0.5 1 2)")
    group.add_argument("--attack_norm", default="linf", choices=list(NORMS), help="norm of the radius")
    group.add_argument("--attack_loss", nargs="+", choices=list(LOSSES), metavar="NAME",
                       help="losses that fgsm, pgd and apgd ascend, of " + ", ".join(LOSSES) + " (default: ce); the "
                            "other attacks have their own")
    group.add_argument("--steps", type=number(int, low=1),
                       help="gradient steps (default: pgd, segpgd, cospgd 10, apgd 100, sea and ensemble 300 for each "
                            "loss), queries of square (1000)")
    group.add_argument("--alpha", type=share_of_eps, default="eps/4",
                       help="step size of pgd, segpgd, cospgd: a share of eps, or a number")
    group.add_argument("--best_iterate", action="store_true",
                       help="pgd, segpgd, cospgd: each image's best iterate instead of the last, as apgd does anyway")
    group.add_argument("--red_eps", action="store_true",
                       help="apgd: steps shared out over radii of 2, 1.5 and 1 eps, as sea and ensemble do anyway")
    group.add_argument("--restarts", type=number(int, low=1), default=1,
                       help="attempts from new random points; each image keeps its worst")
    group.add_argument("--attack_seed", type=number(int, low=0, high=2**32 - 1), default=1,
                       help="seed of the attacks' random numbers")
    group.add_argument("--target_class", type=target, metavar="K|FILE",
                       help="drive predictions to class K, or to a label map (an image of class numbers)")
    group.add_argument("--warm_start", action="store_true",
                       help="begin at the result for the next smaller --eps: no image then gets better with eps")
    group.add_argument("--val_images", type=number(int, low=1), metavar="N",
                       help="evaluate on N validation images, evenly spaced, instead of all")
    group.add_argument("--save_val_results", action="store_true",
                       help="write image, target, pred, overlay and perturbation PNGs of every result and image")
    group.add_argument("--sheet_images", type=number(int, low=0), default=3,
                       help="images whose PNGs are written in any case, for the sheets of --report")


def _report_flags(parser):
    group = parser.add_argument_group("reports and checks")
    group.add_argument("--report", nargs="+", metavar="RUN",
                       help="compare recorded runs (folders, or names in output_dir): tables, curves, sheets; nothing "
                            "is attacked again. --attack, --attack_loss, --attack_norm, --eps choose records")
    group.add_argument("--report_dir", metavar="FOLDER",
                       help="where the report goes (default: RUN/report; of several runs output_dir/report)")
    group.add_argument("--verify", action="store_true",
                       help="check on a few images that attacks and their gradients can be trusted on this checkpoint; "
                            "exit code 1 if not")


def _run_flags(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default="checkpoints", help="folder of all runs")
    group.add_argument("--exp_name", type=run_name, default="exp", help="name of this run, its folder in output_dir")
    group.add_argument("--overwrite", action="store_true", help="delete the run of that name and start again")
    group.add_argument("--continue_training", action="store_true",
                       help="go on with the run of that name, or in a new folder with the training state in --ckpt; "
                            "options are the run's own unless given")
    group.add_argument("--gpu_id", type=gpu_ids,
                       help="GPUs, such as 0 or 0,1,2,3 for DataParallel (default: 0, or what CUDA_VISIBLE_DEVICES "
                            "says; torchrun gives each process its own)")


def _dashboard_flags(parser):
    group = parser.add_argument_group("visdom dashboard")
    group.add_argument("--enable_vis", action="store_true", help="show the run on a visdom server")
    group.add_argument("--vis_port", type=number(int, low=1, high=65535), default=13570, help="port of the server")
    group.add_argument("--vis_env", default="main", help="visdom environment")
    group.add_argument("--vis_num_samples", type=number(int, low=0), default=8, help="validation images to show")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as what is found later is said; flags without a type take plain text."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register("type", None, plain_text)

    def error(self, message: str):
        """End with exit code 2; of several processes rank 0 says why."""
        if not is_main():
            time.sleep(TURN)
        line = " ".join(message.removeprefix("argument ").split())
        self.exit(2, f"error: {line}{self._meant(line)}\n" if is_main() else None)

    def _meant(self, line: str) -> str:
        if not line.startswith("unrecognized arguments: "):
            return ""
        typed = line.split()[2].partition("=")[0]
        near = difflib.get_close_matches(typed, self._option_string_actions, n=1, cutoff=0.7)
        return f" (did you mean {near[0]}?)" if near else " (--help lists all flags)"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Defaults are shown, except those that say nothing (None and False), and so are bounds."""

    def _get_help_string(self, action):
        default, bounds = action.default, getattr(action.type, "bounds", "")
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help + (f"; {bounds}" if bounds else "")
        said = f"default: {' '.join(default) if isinstance(default, list) else default}"
        return f"{action.help} ({said}; {bounds})" if bounds else f"{action.help} ({said})"
