"""Parse a command line to a Call, or end with one line and exit code 2. Only this file imports argparse."""
import argparse
import difflib
import time
from dataclasses import dataclass

from engine.options.declare import ABOUT, OWN_MODES, REPORT, TEST, TRAIN, VERIFY, Flag
from engine.options.flags import FLAGS
from utils import launch

DESCRIPTIONS = {
    "main.py": """Train DeepLabV3 / DeepLabV3+ with SGD, Adam or SAM, and measure how robust the segmentation is.

  python main.py --optimizer SAM --rho 0.02          train
  python main.py --test_only --attack pgd            mIoU, clean and attacked, of what was trained
  python main.py --continue_training                 continue a run that was stopped (Ctrl-C is safe)
  python main.py --list attacks                      what there is; also models, datasets, losses, corruptions""",
    "predict.py": """Segment images: files, folders or lists in, label maps and overlays out; --attack attacks them too.

  python predict.py --input photos --exp_name sam                     with the run's best checkpoint
  python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc
  python predict.py --input photos --exp_name sam --attack pgd --eps 4/255""",
    "export.py": """Write a network to a file that runs without this program, as ONNX or torch.export's archive.

  python export.py --exp_name sam --format onnx --output sam.onnx     the run's best checkpoint
  python export.py --ckpt best.pth --model deeplabv3_resnet101 --dataset voc --format torch_export --output a.pt2""",
}
# Flags of other programs, without dashes and underscores -> ours.
FOREIGN = {
    **dict.fromkeys(("epochs", "epoch", "numepochs", "maxepochs", "iters", "maxiter", "maxiters", "numsteps"),
                    "--total_itrs, which counts iterations"),
    **dict.fromkeys(("learningrate", "baselr", "initlr"), "--lr"), **dict.fromkeys(("bs", "batch"), "--batch_size"),
    **dict.fromkeys(("workers", "numworker", "nworkers"), "--num_workers"),
    **dict.fromkeys(("datadir", "datapath", "data", "dataroot", "root"), "--data_root"),
    **dict.fromkeys(("wd", "decay"), "--weight_decay"), **dict.fromkeys(("seed", "manualseed"), "--random_seed"),
    **dict.fromkeys(("epsilon", "epsilons"), "--eps"), **dict.fromkeys(("gpu", "gpus"), "--gpu_id"),
    **dict.fromkeys(("arch", "net", "backbone", "network"), "--model"), "resume": "--continue_training, or --ckpt FILE",
    **dict.fromkeys(("checkpoint", "weights", "load", "pretrained"), "--ckpt FILE"),
    **dict.fromkeys(("test", "eval", "evaluate", "testonly"), "--test_only"), "cropsize": "--crop_size",
    **dict.fromkeys(("stepsize", "attackstepsize"), "--alpha"), "opt": "--optimizer", "name": "--exp_name",
    **dict.fromkeys(("outdir", "savedir", "logdir", "workdir"), "--output_dir"),
}


# The flags that choose a mode, the first one given.
CHOOSING = {"list": ABOUT, "version": ABOUT, "report": REPORT, "verify": VERIFY, "test_only": TEST}


@dataclass(frozen=True)
class Call:
    """A parsed command line: the entry, its mode, and {name: value} of the flags given."""

    entry: str
    mode: str
    given: dict


def parse(argv=None, entry: str = "main.py") -> Call:
    """Return the Call; an invalid flag ends with one line and exit code 2. Of a repeated flag the last value counts."""
    parser = build_parser(entry, every_flag=True)
    given = {name: tuple(value) if isinstance(value, list) else value
             for name, value in vars(parser.parse_args(argv)).items()}
    if entry in OWN_MODES:
        return Call(entry, OWN_MODES[entry], given)
    return Call(entry, next((mode for flag, mode in CHOOSING.items() if given.get(flag)), TRAIN), given)


def build_parser(entry: str = "main.py", *, every_flag: bool = False) -> argparse.ArgumentParser:
    """Return an entry's parser; with every_flag it also knows other entries' flags, to refuse them by name."""
    parser = _Parser(entry, description=DESCRIPTIONS[entry], formatter_class=argparse.RawDescriptionHelpFormatter,
                     allow_abbrev=False, argument_default=argparse.SUPPRESS)
    groups = {}
    for flag in FLAGS.values():
        shown = OWN_MODES[entry] in flag.modes if entry in OWN_MODES else flag.is_for_main
        if shown or every_flag:
            group = groups.setdefault(flag.group, parser.add_argument_group(flag.group) if shown else parser)
            _add(group, flag, shown=shown)
    return parser


def _add(group, flag: Flag, *, shown: bool):
    text = format_help(flag).replace("%", "%%") if shown else argparse.SUPPRESS
    if flag.kind is bool:
        group.add_argument(f"--{flag.name}", action=argparse.BooleanOptionalAction, help=text)
        return
    nargs = "+" if flag.many else "?" if flag.bare else None
    group.add_argument(f"--{flag.name}", type=_make_type(flag), nargs=nargs, const=flag.bare or None, help=text,
                       metavar=flag.metavar or (f"{{{','.join(map(str, flag.choices))}}}" if flag.choices else None))


def format_help(flag: Flag) -> str:
    """Return the help with bounds and default, except defaults None and False."""
    notes = [] if flag.default is None or flag.default is False else [f"default: {format_value(flag.default)}"]
    notes += [flag.bounds] if flag.bounds else []
    if not notes:
        return flag.help
    return f"{flag.help} ({'; '.join(notes)})" if flag.default is not None else f"{flag.help}; {flag.bounds}"


def format_value(value) -> str:
    """Return a value as typed on a command line."""
    return " ".join(map(format_value, value)) if isinstance(value, tuple | list) else str(value)


def as_flags(values: dict) -> list[str]:
    """Return options as the words of a command line, without those that are None."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(("--" if value else "--no-") + name)
        elif value is not None:
            typed = list(map(format_value, value if isinstance(value, tuple | list) else [value]))
            words += [f"--{name}={typed[0]}"] if typed[0].startswith("-") else [f"--{name}", *typed]
    return words


def _make_type(flag: Flag):
    """Return the flag's type for argparse, which shows only the message of an ArgumentTypeError."""
    def read(text: str):
        try:
            return flag.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like errors found later."""

    def error(self, message: str):
        """Exit with code 2; under torchrun only rank 0 reports the error."""
        if launch.rank():
            time.sleep(launch.RANK0_REPORTS_FIRST_SECONDS)
        line = " ".join(message.removeprefix("argument ").split())
        self.exit(2, None if launch.rank() else f"error: {line}{self._suggest(line)}\n")

    def _suggest(self, line: str) -> str:
        if not line.startswith("unrecognized arguments: "):
            return ""
        typed = line.split()[2].partition("=")[0]
        plain = typed.lstrip("-").replace("-", "").replace("_", "").lower()
        same = [f"--{name}" for name in FLAGS if name.replace("_", "") == plain]
        begun = [flag for flag in self._option_string_actions if len(plain) > 2 and flag.startswith(typed)]
        near = same or begun or difflib.get_close_matches(typed, self._option_string_actions, n=1, cutoff=0.7)
        if plain in FOREIGN and not same:
            return f" (here it is {FOREIGN[plain]})"
        return f" (did you mean {near[0]}?)" if near else " (--help lists all flags)"
