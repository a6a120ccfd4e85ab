"""Which checkpoint a call means, what it takes from it, and whether a run may continue from it."""
from dataclasses import dataclass
from pathlib import Path

from engine.options import FLAGS, PREDICT, TEST, TRAIN, VERIFY, Options, adopted, as_flags, resolve, take_over
from engine.options.rules import base_of
from engine.run import checkpoints
from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read: where it is, what it holds, and what it replaces (see checkpoints.load_latest)."""

    path: str
    content: dict
    fallback: tuple[Path, Path] | None = None


def load_checkpoint(call, folder: Path) -> Loaded | None:
    """Return the checkpoint that a call means: --ckpt, else the run's best_* or latest_*; None for a new run."""
    ckpt, continues = call.given.get("ckpt"), call.given.get("continue_training")
    if ckpt is not None:
        return Loaded(ckpt, checkpoint.load(ckpt))
    if call.mode in (TEST, VERIFY, PREDICT):
        path, content = checkpoints.load_best(folder, call.given)
        return Loaded(str(path), content)
    if continues:
        path, content, fallback = checkpoints.load_latest(folder, call.given)
        return Loaded(str(path), content, fallback)
    return None


def finish_options(call, loaded: Loaded | None) -> Options:
    """Return the call's finished options, completed from a checkpoint where it is tested or continued."""
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
    if continues:
        _refuse_another_run(options, loaded, saved)
        _log_changes(options, saved)
    return options


def skipped_before(options: Options, loaded: Loaded | None) -> dict | None:
    """Return the names, by split, that --skip_bad_images left out in the checkpoint's run; None to read all images.

    All images are read where this call asks for it, or for other images.
    """
    asked = options.given & {"skip_bad_images", "check_data", "dataset", "data_root", "year"}
    if not options.skip_bad_images or asked or loaded is None or "skipped_images" not in loaded.content:
        return None
    names = loaded.content["skipped_images"]
    if not isinstance(names, dict) or not all(
            isinstance(split, list) and all(isinstance(name, str) for name in split) for split in names.values()):
        raise UserError(f"{loaded.path}: skipped_images is not a list of image names: give --skip_bad_images to read "
                        "all images again")
    return names


def _refuse_another_run(options: Options, loaded: Loaded, saved: dict):
    """Raise UserError unless network, data and kind of optimizer are the checkpoint's."""
    if "optimizer_state" not in loaded.content:
        raise UserError(f"{loaded.path} holds weights but no training state: leave out --continue_training")
    for name, flag in FLAGS.items():
        if flag.fixed and name in saved and getattr(options, name) != saved[name]:
            raise UserError(f"--{name} {getattr(options, name)}: {loaded.path} was trained with {saved[name]}; to "
                            "start a new run from its weights leave out --continue_training")
    before = base_of(saved.get("optimizer", "sgd"), saved.get("base_optimizer", "sgd"))  # VainF's is sgd
    if base_of(options.optimizer, options.base_optimizer) != before:
        raise UserError(f"--optimizer {options.optimizer} can't continue the state of {saved.get('optimizer', 'sgd')} "
                        f"in {loaded.path}: to start a new run from its weights leave out --continue_training")


def _log_changes(options: Options, saved: dict):
    """Log what this call gives and the run had otherwise."""
    for name in sorted(options.given & saved.keys()):
        now, before = getattr(options, name), saved[name]
        if now != before:
            rest = f"; the {options.lr_policy} schedule is rebuilt for it" if name == "total_itrs" else ""
            logger.info("Changed: --%s is %s from here on, it was %s%s", name, now, before, rest)
