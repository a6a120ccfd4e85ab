"""Which checkpoint a call means, what it takes from it, and whether a run may go on with it."""
import argparse
from contextlib import suppress
from pathlib import Path

from engine import options
from engine.recipe import base_of
from engine.run import Run
from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger

KEPT = ("model", "dataset", "output_stride", "separable_conv")  # a continued run has the options it began with


def load_checkpoint(opts, run: Run) -> dict | None:
    """The checkpoint that opts asks for, or None; sets opts.ckpt to its path and completes opts from it."""
    if opts.ckpt is None and not (opts.test_only or opts.continue_training):
        return None
    if opts.ckpt is None and opts.continue_training:
        opts.ckpt, loaded = _last_good(run, opts)
    else:
        loaded = _named(run, opts)
    saved = options.sound(loaded.get("options", {}), given=opts.given, source=opts.ckpt)
    if opts.test_only or opts.continue_training:
        taken = options.adopt(opts, saved)
        if taken:
            logger.info("Options from the checkpoint: %s", options.as_flags(taken))
    if opts.continue_training:
        _refuse_another_run(opts, loaded, saved)
        _say_changes(opts, saved)
    return loaded


def _named(run: Run, opts) -> dict:
    """What is in --ckpt, or for a test in best_*."""
    own = opts.ckpt is None
    opts.ckpt = opts.ckpt or str(run.find("best", opts))
    try:
        return checkpoint.load(opts.ckpt)
    except UserError as problem:
        if own and (others := run.named("latest", opts)):
            raise UserError(f"{problem}; to test the run's last state give --ckpt {others[0]}") from None
        raise


def skipped_before(opts, loaded: dict | None) -> dict | None:
    """The names, by split, that --skip_bad_images left out in the run of a checkpoint; None where all is to be read.

    That is where this call asks for it, or for other images.
    """
    asked = opts.given & {"skip_bad_images", "check_data", "dataset", "data_root", "year"}
    if not opts.skip_bad_images or asked or not loaded or "skipped_images" not in loaded:
        return None
    names = loaded["skipped_images"]
    if not isinstance(names, dict) or not all(
            isinstance(split, list) and all(isinstance(name, str) for name in split) for split in names.values()):
        raise UserError(f"{opts.ckpt}: its skipped_images are no names: give --skip_bad_images to read all images anew")
    return names


def _last_good(run: Run, opts) -> tuple[str, dict]:
    """latest_* and what is in it; where it can't be gone on with, the latest state that can, with a warning."""
    latest = _latest(run, opts)
    try:
        return str(latest), _training_state(latest)
    except UserError as error:
        problem = error
    best = latest.with_name("best_" + latest.name.removeprefix("latest_"))
    found = []
    for path in (*checkpoint.earlier(latest), best):
        with suppress(UserError):
            found.append((path, _training_state(path)))
    if not found:
        raise UserError(f"{problem}; nor can any other checkpoint of this run be gone on with")
    path, loaded = max(found, key=lambda one: _iteration(one[1]))  # the first of those: a previous one, not best_*
    logger.warning("Warning: %s. Going on with %s, of iteration %s", problem, path, _iteration(loaded))
    run.fallback = (path, latest)
    return str(path), loaded


def _training_state(path: Path) -> dict:
    loaded = checkpoint.load(path)
    if "optimizer_state" not in loaded:
        raise UserError(f"{path} holds weights but no training state")
    return loaded


def _iteration(loaded: dict) -> int:
    """A stranger's may be anything."""
    return loaded["cur_itrs"] if isinstance(loaded.get("cur_itrs"), int) else -1


def _latest(run: Run, opts) -> Path:
    """Where latest_* is; or should be, where only those before it are there."""
    others = run.named("previous*", opts) or run.named("best", opts)
    if run.named("latest", opts) or not others:
        return run.find("latest", opts)
    return others[0].with_name("latest_" + others[0].name.partition("_")[2])


def _refuse_another_run(opts, loaded: dict, saved: dict):
    """To continue means the same network, data and kind of optimizer."""
    if "optimizer_state" not in loaded:
        raise UserError(f"{opts.ckpt} holds weights but no training state: leave out --continue_training")
    for name in KEPT:
        if name in saved and getattr(opts, name) != saved[name]:
            raise UserError(f"--{name} {getattr(opts, name)}: {opts.ckpt} was trained with {saved[name]}; to start a "
                            "new run from its weights leave out --continue_training")
    before = argparse.Namespace(**{"optimizer": "sgd", "base_optimizer": "sgd", **saved})  # VainF has no other
    if base_of(opts) != base_of(before):
        raise UserError(f"--optimizer {opts.optimizer} can't go on with the state of {before.optimizer} in "
                        f"{opts.ckpt}: to start a new run from its weights leave out --continue_training")


def _say_changes(opts, saved: dict):
    """What this call gives and the run did not have before."""
    for name in sorted(opts.given & saved.keys() - set(options.OF_ONE_CALL)):
        if getattr(opts, name) != saved[name]:
            rest = f"; the {opts.lr_policy} schedule is rebuilt for it" if name == "total_itrs" else ""
            logger.info("Changed: --%s is %s from here on, it was %s%s", name, getattr(opts, name), saved[name], rest)
