"""Find a call's checkpoint, take its options, and check that a run may continue from it."""
from dataclasses import dataclass
from os.path import abspath, expanduser
from pathlib import Path
from textwrap import shorten

from datasets import Classes, make_palette
from datasets.folder import has_val
from engine.options import FLAGS, TEST, TRAIN, VERIFY, WITHOUT_DATA, Options, adopted, as_flags, resolve, take_over
from engine.options.types import find_base_optimizer
from engine.run import checkpoints
from utils import checkpoint
from utils.errors import UserError
from utils.label_pairs import combine
from utils.logging import logger
from utils.user_code import is_code, make_label


@dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint: path, content, and the file that it replaces (see checkpoints.load_latest)."""

    path: str
    content: dict
    fallback: tuple[Path, Path] | None = None


def load_checkpoint(call, folder: Path) -> Loaded | None:
    """Return the checkpoint that a call uses: --ckpt, else the run's best_* or latest_*; None for a new run."""
    ckpt, continues = call.given.get("ckpt"), call.given.get("continue_training")
    if ckpt is not None:
        return Loaded(ckpt, checkpoint.load(ckpt))
    if call.mode in (TEST, VERIFY, *WITHOUT_DATA):
        path, content = checkpoints.load_best(folder, call.given)
        return Loaded(str(path), content)
    if continues:
        path, content, fallback = checkpoints.load_latest(folder, call.given)
        return Loaded(str(path), content, fallback)
    return None


def finish_options(call, loaded: Loaded | None) -> Options:
    """Return the call's finished options, with those of a checkpoint that is tested or continued."""
    if loaded is None:
        return resolve(call)
    saved = take_over(call, loaded.content.get("options", {}), source=loaded.path)
    continues = bool(call.given.get("continue_training"))
    if call.mode == TRAIN and not continues:
        return resolve(call, ckpt=loaded.path)
    options = resolve(call, saved, ckpt=loaded.path)
    taken = {name: value for name, value in adopted(call, saved).items()
             if value != FLAGS[name].default and value == getattr(options, name)}
    if taken:
        logger.info("Options from the checkpoint: %s", " ".join(as_flags(taken)))
    if (window := saved.get("window")) and options.window is None:
        logger.info("Images are scored whole; the checkpoint's run scored them with %s",
                    " ".join(as_flags({"window": window})))
    if continues:
        _refuse_another_run(options, loaded, saved)
        _log_changes(options, saved)
    return options


def read_skipped_images(options: Options, loaded: Loaded | None) -> dict | None:
    """Return {split: names} that --skip_bad_images left out in the checkpoint's run.

    None, to read all images, if this call gives --skip_bad_images, --check_data or other data.
    """
    asked = options.given & {"skip_bad_images", "check_data", "dataset", "data_root"} or any(
        FLAGS[name].group == "data" and FLAGS[name].needs for name in options.given)  # --label_map and the like
    if not options.skip_bad_images or asked or loaded is None or "skipped_images" not in loaded.content:
        return None
    names = loaded.content["skipped_images"]
    if not isinstance(names, dict) or not all(
            isinstance(split, list) and all(isinstance(name, str) for name in split) for split in names.values()):
        raise UserError(f"{loaded.path}: skipped_images is not a list of image names: give --skip_bad_images to read "
                        "all images again")
    return names


def find_source(options: Options, checkpoint: Loaded | None) -> dict:
    """Return what tells a data set where its images are and what their labels mean.

    The classes and the validation images of a checkpoint's run are used by data sets that don't fix them.
    """
    known = read_described_data(options, checkpoint)
    names, colours = known.get("class_names"), known.get("class_colours")
    return {"data_root": options.data_root, "year": options.year, "val_share": options.val_share,
            "label_map": combine(options.label_map, options.ignore_label),
            "val_names": _find_val_names(options, checkpoint, known.get("val_names") or None),
            "classes": Classes(tuple(names), make_palette(colours)) if names and colours else None}


def _find_val_names(options: Options, checkpoint: Loaded | None, names: list[str] | None) -> list[str] | None:
    """Return `names`, the validation images of the checkpoint's run, where they are used; None where others are.

    With another --data_root they are drawn anew, and a line says so. Raises UserError for a --val_share that would be
    ignored.
    """
    if has_val(options.data_root):
        if "val_share" in options.given:
            raise UserError(f"--val_share {options.val_share:g}: {Path(options.data_root) / 'val'} holds the "
                            "validation images: leave out --val_share, or move that folder away")
        if names is not None:
            logger.warning("Warning: the validation images are those in %s, not those that %s drew from the training "
                           "images", Path(options.data_root) / "val", checkpoint.path)
        return None
    if names is None:
        return None
    saved = checkpoint.content["options"]
    before = str(saved.get("data_root", options.data_root))
    if abspath(expanduser(options.data_root)) != abspath(expanduser(before)):
        logger.info("Validation images are drawn anew, a share of %g: --data_root is %s, and those of %s were drawn in "
                    "%s", options.val_share, options.data_root, checkpoint.path, before)
        return None
    if "val_share" in options.given and options.val_share != saved.get("val_share"):
        raise UserError(f"--val_share {options.val_share:g}: the validation images are those that {checkpoint.path} "
                        "names, as it was not trained on them: leave out --val_share")
    return names


def read_described_data(options: Options, loaded: Loaded | None) -> dict:
    """Return those of class_names, class_colours and val_names that the tested or continued checkpoint has.

    Empty for another data set, and for those that fix their classes. Raises UserError for an invalid value: the file
    may come from a stranger.
    """
    if loaded is None or options.dataset != "folder" or (options.mode == TRAIN and not options.continue_training) or (
            loaded.content.get("options", {}).get("dataset") != options.dataset):
        return {}
    found = {key: loaded.content[key] for key in DATA_KEYS if loaded.content.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, list) or not all(map(DATA_KEYS[key], value)):
            raise UserError(f"{loaded.path}: invalid {key}: give another checkpoint")
    if "class_colours" in found and len(found["class_colours"]) != len(found.get("class_names", ())):
        raise UserError(f"{loaded.path}: class_colours and class_names differ in number: give another checkpoint")
    return found


def check_classes(options: Options, loaded: Loaded | None, classes: Classes):
    """Raise UserError if --num_classes or the classes of the tested checkpoint are not the data's."""
    if options.num_classes not in (None, classes.num_classes):
        raise UserError(f"--num_classes {options.num_classes}: {options.dataset} has {classes.num_classes}")
    names = read_described_data(options, loaded).get("class_names", list(classes.names))
    if names != list(classes.names):
        raise UserError(f"{Path(options.data_root) / 'classes.txt'} has the classes {_shorten(classes.names)}, but "
                        f"{loaded.path} was trained for {_shorten(names)}: write these, in this order "
                        "(docs/data.md#your-own-images)")


def _shorten(names) -> str:
    return shorten(", ".join(names), 100, placeholder=" ...")


def _is_colour(value) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(
        type(level) is int and 0 <= level <= 255 for level in value)


# What a checkpoint says of its data: lists, whose elements are checked by these.
DATA_KEYS = {"class_names": lambda name: isinstance(name, str), "class_colours": _is_colour,
             "val_names": lambda name: isinstance(name, str)}


def _refuse_another_run(options: Options, loaded: Loaded, saved: dict):
    """Raise UserError if network, data or kind of optimizer differ from the checkpoint's."""
    if "optimizer_state" not in loaded.content:
        raise UserError(f"{loaded.path} holds weights but no training state: leave out --continue_training")
    for name, flag in FLAGS.items():
        if flag.fixed and name in saved and _identify(getattr(options, name)) != _identify(saved[name]):
            raise UserError(f"--{name} {getattr(options, name)}: {loaded.path} was trained with {saved[name]}; to "
                            "start a new run from its weights leave out --continue_training "
                            "(docs/resume.md#what-may-change)")
    before = find_base_optimizer(saved.get("optimizer", "sgd"), saved.get("base_optimizer", "sgd"))  # VainF's is sgd
    if find_base_optimizer(options.optimizer, options.base_optimizer) != before:
        raise UserError(f"--optimizer {options.optimizer} can't continue the state of {saved.get('optimizer', 'sgd')} "
                        f"in {loaded.path}: to start a new run from its weights leave out --continue_training "
                        "(docs/resume.md#what-may-change)")


def _identify(value):
    """Return what tells a network from others; a file may have moved."""
    return make_label(value) if is_code(value) else value


def _log_changes(options: Options, saved: dict):
    """Log the options that this call changes."""
    for name in sorted(saved):
        now, before = getattr(options, name), saved[name]
        if now != before:
            rest = f"; the {options.lr_policy} schedule is rebuilt for it" if name == "total_itrs" else ""
            logger.info("Changed: --%s is %s from here on, it was %s%s", name, now, before, rest)
