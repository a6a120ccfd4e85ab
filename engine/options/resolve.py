"""What a call asks for: flags, what they leave to the checkpoint, what hangs on one another, contradictions."""
import argparse
import inspect
from pathlib import Path

from datasets import DATASETS
from engine.errors import refuse_ranks
from engine.flags import build_parser
from engine.plan import plan_attacks
from engine.recipe import complete_recipe, idle_flags
from engine.values import number, step_size
from utils.errors import UserError

DEFAULT_EPS = {"linf": [2 / 255, 4 / 255, 8 / 255], "l2": [0.5, 1.0, 2.0]}
# What belongs to one call; everything else a test or a continued run takes from the checkpoint unless told otherwise.
OF_ONE_CALL = ("ckpt", "continue_training", "overwrite", "test_only", "output_dir", "exp_name", "gpu_id", "download",
               "attack", "eps", "attack_norm", "attack_loss", "steps", "alpha", "best_iterate", "red_eps", "restarts",
               "attack_seed", "target_class", "warm_start", "val_images", "save_val_results", "sheet_images", "report",
               "report_dir", "verify", "check_data", "num_workers", "enable_vis", "vis_port", "vis_env",
               "vis_num_samples", "num_classes")
OF_ONE_TEST = ("amp", "attack_amp")  # a continued run keeps them, a test is in float32 unless told otherwise
# Flags that --verify has no use for, and all that --report has.
NOT_FOR_VERIFY = ("attack", "attack_loss", "steps", "alpha", "best_iterate", "red_eps", "restarts", "target_class",
                  "warm_start", "save_val_results", "sheet_images", "amp", "attack_amp")
FOR_REPORT = ("report", "report_dir", "output_dir", "attack", "attack_loss", "attack_norm", "eps")


def parse_options(argv=None) -> argparse.Namespace:
    """argv -> validated options; `opts.given` is the set of names that argv itself sets.

    What is wrong with one flag ends with its line and exit code 2, what is wrong with two together in a UserError.
    """
    parser = build_parser()
    opts = parser.parse_args(argv)
    untouched = argparse.Namespace(**dict.fromkeys(vars(opts), None))  # argparse gives a default only where none is
    untouched = vars(parser.parse_args(argv, untouched))
    opts.given = frozenset(name for name, value in untouched.items() if value is not None)
    opts.test_only |= opts.verify
    if not opts.report:  # report_arguments() knows what that has use for
        _refuse_call(opts)
    return opts


def _refuse_call(opts):
    """Contradictions within one call, which no checkpoint mends: seen before one is read."""
    test = "--verify" if opts.verify else "--test_only"
    if opts.test_only and (opts.continue_training or opts.overwrite):
        raise UserError(f"{test} trains nothing: leave out --continue_training and --overwrite")
    if opts.continue_training and opts.overwrite:
        raise UserError("--continue_training keeps the run that --overwrite would delete: give one of them")
    if opts.val_images is not None and not opts.test_only:
        raise UserError("--val_images is for --test_only and --verify: training validates on all images")
    if opts.report_dir is not None:
        raise UserError("--report_dir is where --report writes: name the runs to compare with that")
    radii = opts.eps or DEFAULT_EPS[opts.attack_norm]
    for flag, size in (("eps", max(radii)), ("alpha", step_size(opts.alpha, max(radii)))):
        if opts.attack_norm == "linf" and size > 1:
            raise UserError(f"--{flag} {size:g}: for linf at most 1, pixels are in [0, 1]; "
                            f"write {size:g}/255 for {size:g} grey levels")
    if opts.verify:
        _refuse_for_verify(opts)
    elif "attack" not in opts.given:
        for flag, of_training in (("eps", "train_eps"), ("attack_norm", "norm")):
            if flag in opts.given:
                raise UserError(f"--{flag} is for --attack, which is not given; a training's own is --{of_training}")


def _refuse_for_verify(opts):
    refuse_ranks("--verify")
    if given := sorted(opts.given & set(NOT_FOR_VERIFY)):
        raise UserError(f"--verify runs attacks of its own: leave out --{', --'.join(given)}")
    if opts.attack_norm != "linf":
        raise UserError("--verify checks linf attacks (and the l2 ball): leave out --attack_norm, give --eps as 4/255")
    if opts.eps is not None and opts.eps[0] == 0:
        raise UserError("--eps 0: --verify checks attacks at a radius above 0, at most 1")


def sound(saved, *, given: frozenset[str], source: str) -> dict:
    """Those of a checkpoint's options that a run adopts or compares, as if they had been typed.

    Raises UserError for one that no command line could have set, unless it is `given` anew: a checkpoint may be a
    stranger's. What is no flag, or one of OF_ONE_CALL, is left out.
    """
    if not isinstance(saved, dict):
        raise UserError(f"{source}: its options are no dict")
    kept = {}
    for action in build_parser()._actions:
        if action.dest in saved and action.dest not in OF_ONE_CALL:
            try:
                kept[action.dest] = _typed(action, saved[action.dest])
            except (ValueError, argparse.ArgumentTypeError) as error:
                if action.dest not in given:
                    raise UserError(f"{source}: the option {action.dest} in it is none ({error}): give "
                                    f"--{action.dest}") from None
    return kept


def _typed(action: argparse.Action, value):
    """`value`, if the flag could have it; ValueError or argparse's error else."""
    if value is None and action.default is None:
        return value
    if isinstance(action.default, bool):
        kinds = (bool,)
    elif isinstance(action.type, number):
        kinds = (int, float)
    else:
        kinds = tuple({type(choice) for choice in action.choices or [""]})
    if type(value) not in kinds:
        raise ValueError(f"it is of type {type(value).__name__}")
    if action.choices and value not in action.choices:
        raise ValueError(f"choose from {', '.join(map(str, action.choices))}")
    if isinstance(value, str) and not (value.isprintable() and len(value) < 4096):
        raise ValueError("it has characters that no name has, or too many")
    return action.type(str(value)) if action.type else value


def adopt(opts: argparse.Namespace, saved: dict) -> dict:
    """Take from a checkpoint's options what describes its run and argv didn't give; returns what that changed."""
    own = {*OF_ONE_CALL, *opts.given, *(OF_ONE_TEST if opts.test_only else ())}
    own |= {"data_root"} if opts.download else set()  # a stranger's says where to read, never where to write
    new = {name: value for name, value in saved.items()
           if hasattr(opts, name) and name not in own and getattr(opts, name) != value}
    vars(opts).update(new)
    defaults = vars(build_parser().parse_args([]))
    for name in idle_flags(opts).keys() - opts.given:  # another --optimizer has no use for what this one's was told
        setattr(opts, name, defaults[name])
        new.pop(name, None)
    return new


def as_flags(values: dict) -> str:
    """Options as one would type them."""
    return " ".join(("--" if value else "--no-") + name if isinstance(value, bool) else f"--{name} {value}"
                    for name, value in values.items())


def complete(opts: argparse.Namespace) -> argparse.Namespace:
    """Fill in the defaults that hang on other flags, and refuse flags that contradict each other."""
    stride_4 = "hrnet" in opts.model
    opts.output_stride = opts.output_stride or (4 if stride_4 else 16)
    if stride_4 != (opts.output_stride == 4):
        raise UserError(f"--output_stride {opts.output_stride}: {opts.model} takes {4 if stride_4 else '8 or 16'}")
    _refuse_data(opts)
    opts.eps = opts.eps or DEFAULT_EPS[opts.attack_norm]
    plan_attacks(opts)
    complete_recipe(opts)
    return opts


def _refuse_data(opts):
    """What the data set has no use for, or has otherwise."""
    dataset = DATASETS[opts.dataset]
    if opts.num_classes not in (None, dataset.num_classes):
        raise UserError(f"--num_classes {opts.num_classes}: {opts.dataset} has {dataset.num_classes}")
    for flag in ("year", "download"):
        if flag in opts.given and flag not in inspect.signature(dataset).parameters:
            able = " or ".join(name for name in DATASETS if flag in inspect.signature(DATASETS[name]).parameters)
            raise UserError(f"--{flag}: for --dataset {able}, this run has {opts.dataset}")


def report_arguments(opts: argparse.Namespace) -> dict:
    """What engine.compare.compare() takes: the runs of --report, where the report goes, and which records it is of."""
    if useless := sorted(opts.given - set(FOR_REPORT)):
        raise UserError(f"--report only reads records: leave out --{', --'.join(useless)}")
    named = [Path(opts.output_dir) / run for run in opts.report]
    runs = [path if path.is_dir() else Path(run) for path, run in zip(named, opts.report, strict=True)]
    if missing := [str(run) for run in runs if not run.is_dir()]:
        raise UserError(f"--report: no folder {', '.join(missing)}: give runs' folders, or their names in --output_dir")
    folder = opts.report_dir or (runs[0] if len(runs) == 1 else Path(opts.output_dir)) / "report"
    filters = {"attacks": "attack", "losses": "attack_loss", "norm": "attack_norm", "eps": "eps"}
    return {"runs": runs, "folder": Path(folder),
            **{name: getattr(opts, flag) for name, flag in filters.items() if flag in opts.given}}


def to_dict(opts: argparse.Namespace) -> dict:
    """The options as plain values, for results.json and checkpoints."""
    return {name: value for name, value in sorted(vars(opts).items()) if name != "given"}
