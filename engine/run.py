"""The run folder: what is in it, when it may be written, and the checkpoints it keeps."""
import argparse
import shlex
import shutil
from pathlib import Path

from engine import options
from engine.recipe import base_of
from utils import checkpoint, logging
from utils.distributed import is_main, together
from utils.errors import UserError
from utils.logging import logger

TRAINED = ("latest_*.pth", "best_*.pth", "opts.txt")  # what training leaves
OWN_FILES = (*TRAINED, "log.txt", "results*.json", "val_results*", "records", "report", "verify*.json")
KEPT = ("model", "dataset", "output_stride", "separable_conv")  # a continued run has the options it began with


class Run:
    """One folder, output_dir/exp_name, with log.txt, opts.txt, results.json and latest_* / best_* checkpoints."""

    def __init__(self, opts):
        self.folder = Path(opts.output_dir) / opts.exp_name

    def files(self, patterns=OWN_FILES) -> list[Path]:
        """What an earlier run left here."""
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def refuse_if_used(self, opts):
        """A new run never writes over an old one unless told to, and no run over another's checkpoints.

        Rank 0 sees to it: another may come when there is already something of this run.
        """
        if is_main():
            self._refuse_if_used(opts)

    def _refuse_if_used(self, opts):
        foreign = opts.ckpt is not None and Path(opts.ckpt).resolve().parent != self.folder.resolve()
        if opts.test_only or not self.files(TRAINED):
            return
        if not (opts.overwrite or opts.continue_training):
            raise UserError(f"{self.folder} holds an earlier run: choose another --exp_name, give --continue_training "
                            "to go on with it, or --overwrite to delete it")
        if opts.continue_training and foreign:
            raise UserError(f"{self.folder} holds a run of its own: leave out --ckpt to go on with that one, or choose "
                            f"another --exp_name to go on with {opts.ckpt}")
        if opts.overwrite and opts.ckpt is not None and not foreign:
            raise UserError(f"--overwrite would delete --ckpt {opts.ckpt}: choose another --exp_name")

    def open(self, opts):
        """Create the folder (emptied of the earlier run where --overwrite says so), log.txt and opts.txt.

        Rank 0 does, and the others wait.
        """
        with together():
            try:
                if is_main():
                    self._create(opts)
            except OSError as error:
                raise UserError(f"{self.folder} can't be written ({error}): choose another --output_dir") from None

    def _create(self, opts):
        for path in self.files() if opts.overwrite else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        logging.log_to_file(self.folder / "log.txt")
        if not opts.test_only:
            with open(self.folder / "opts.txt", "a", encoding="utf-8") as file:  # a continued run adds its own
                file.write(_as_text(options.to_dict(opts)))

    def continue_command(self) -> str:
        """What goes on with this run; all other options are in its checkpoint."""
        return shlex.join(["python", "main.py", "--continue_training", "--output_dir", str(self.folder.parent),
                           "--exp_name", self.folder.name])

    def checkpoint_path(self, kind: str, opts) -> Path:
        """Where the `kind` (latest or best) checkpoint is, named as VainF names it."""
        return self.folder / f"{kind}_{opts.model}_{opts.dataset}_os{opts.output_stride}.pth"

    def find(self, kind: str, opts) -> Path:
        """The folder's only `kind` checkpoint that --model and --dataset, where given, allow."""
        model, data_set = (getattr(opts, name) if name in opts.given else "*" for name in ("model", "dataset"))
        found = sorted(self.folder.glob(f"{kind}_{model}_{data_set}_os*.pth"))
        if not found:
            wanted = f"{kind}_{model}_{data_set}_*.pth".replace("*_*_*", "*")
            others = ", ".join(path.name for path in self.files(TRAINED[:2]))
            there = f" (only {others})" if others else ""
            raise UserError(f"no {wanted} in {self.folder}{there}: train first, or name weights with --ckpt or another "
                            "run with --exp_name")
        if len(found) > 1:
            raise UserError(f"several checkpoints in {self.folder} ({', '.join(path.name for path in found)}): "
                            "name one with --ckpt")
        return found[0]


def load_checkpoint(opts, run: Run) -> dict | None:
    """The checkpoint that opts asks for, or None; sets opts.ckpt to its path and completes opts from it."""
    if opts.ckpt is None and (opts.test_only or opts.continue_training):
        opts.ckpt = str(run.find("best" if opts.test_only else "latest", opts))
    if opts.ckpt is None:
        return None
    loaded = checkpoint.load(opts.ckpt)
    saved = loaded.get("options") or {}
    if opts.test_only or opts.continue_training:
        taken = options.adopt(opts, saved)
        if taken:
            logger.info("Options from the checkpoint: %s", options.as_flags(taken))
    if opts.continue_training:
        _refuse_another_run(opts, loaded, saved)
    return loaded


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


def _as_text(values: dict) -> str:
    lines = [f"{name}: {value}" for name, value in values.items()]
    return "\n".join(["------------ Options -------------", *lines, "-------------- End ----------------"]) + "\n"
