"""A run's folder: its files, when and by whom it may be written, and the command that continues the run."""
import shlex
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

from engine.options import FLAGS, TRAIN, Call, as_flags
from engine.run.checkpoints import CHECKPOINTS
from utils import checkpoint, files, launch, logging
from utils.distributed import fail_together, is_main
from utils.errors import UserError
from utils.logging import logger
from utils.user_code import is_code

HISTORY = "history.csv"
JOB = "torchrun.txt"  # the call of torchrun that trains here, which may restart its processes
OWN_FILES = (*CHECKPOINTS, "*.pth.tmp", "*.pth.damaged*", "opts.txt", "log.txt",
             "val_images.txt", JOB, "results*.json", "val_results*", "records", "shards", "report", "verify*.json",
             HISTORY, "tensorboard")


class Run:
    """A folder with log.txt, opts.txt, results.json, records/ and the latest_*, previous*_* and best_* checkpoints."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def of_shard(self, shard: str | None) -> "Run":
        """Return the run in the folder of a shard `I/N`; itself without one."""
        return self if shard is None else Run(files.find_shard(self.folder, shard))

    def continue_restarted(self, call: Call) -> Call:
        """Return the call as --continue_training if torchrun has begun this run and restarts it; else as it is."""
        if call.mode != TRAIN or not launch.count_restarts() or not self._is_of_this_job():
            return call
        logger.info("torchrun has restarted the processes: %s continues", self.folder)
        given = {name: value for name, value in call.given.items()
                 if FLAGS[name].scope != "once" and name not in ("ckpt", "new_head", "backbone_weights")}
        return replace(call, given={**given, "continue_training": True})

    def files(self, patterns=OWN_FILES) -> list[Path]:
        """Return the files and folders of an earlier run."""
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def refuse_if_used(self, *, training: bool, ckpt: str | None, overwrite: bool, continue_training: bool):
        """Raise UserError if the folder holds another run.

        All ranks check, before they join, so that none waits for one that has been refused.
        """
        if not self.files((*CHECKPOINTS, HISTORY) if training else CHECKPOINTS):
            return
        foreign = ckpt is not None and Path(ckpt).resolve().parent != self.folder.resolve()
        if not training:
            if foreign:
                raise UserError(f"{self.folder} holds another run: choose another --exp_name for the scores of {ckpt} "
                                "(docs/training.md#the-run-folder)")
            return
        if not (overwrite or continue_training):
            raise UserError(f"{self.folder} holds an earlier run: choose another --exp_name, give --continue_training "
                            "to continue it, or --overwrite to delete it (docs/training.md#the-run-folder)")
        if continue_training and foreign:
            raise UserError(f"{self.folder} holds another run: leave out --ckpt to continue that one, or choose "
                            f"another --exp_name to continue {ckpt} (docs/training.md#the-run-folder)")
        if overwrite and ckpt is not None and not foreign:
            raise UserError(f"--overwrite would delete --ckpt {ckpt}: choose another --exp_name")

    def open(self, *, training: bool, overwrite: bool = False, options_text: str = "", drawn=None,
             fallback=None):
        """Create the folder and start log.txt; a training locks the folder and appends options_text to opts.txt.

        drawn: the names of validation images that were drawn from the training images, for val_images.txt. overwrite:
        delete the earlier run. fallback: (valid checkpoint, the damaged latest_* that it replaces). Only rank 0 does
        this; the others wait.
        """
        with fail_together():
            if not is_main():
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if training:
                    self._lock_folder()
                for path in self.files() if overwrite else []:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if fallback:
                    checkpoint.reinstate(*fallback)
                logging.log_to_file(self.folder / "log.txt")
                if training and (job := launch.name_job()):
                    (self.folder / JOB).write_text(job, encoding="utf-8")
                if training:
                    with open(self.folder / "opts.txt", "a", encoding="utf-8") as file:  # a continued run adds its own
                        file.write(options_text)
                if training and drawn:
                    (self.folder / "val_images.txt").write_text("\n".join([*drawn, ""]), encoding="utf-8",
                                                              errors="surrogateescape")
            except OSError as error:
                raise UserError(f"{self.folder} can't be written ({error}): choose another --output_dir") from None

    def _is_of_this_job(self) -> bool:
        try:
            return (self.folder / JOB).read_text(encoding="utf-8") == launch.name_job()
        except OSError:
            return False

    def _lock_folder(self):
        """Lock the folder as long as this object is, or until the process is killed; loader workers don't lock it."""
        lock = open(self.folder / ".lock", "w")  # noqa: SIM115, the next line closes it
        weakref.finalize(self, lock.close)
        if not files.try_lock(lock, per_process=True):
            raise UserError(f"{self.folder} is being trained in by another process: wait for it to end, or end it "
                            "(docs/resume.md#checkpoints)")

    def continue_command(self, given: dict) -> str:
        """Return the command that continues this run.

        given: this call's flags; a checkpoint keeps those of the run, but doesn't choose what code is run.
        """
        start = ["torchrun", f"--nproc_per_node={launch.local_world_size()}"] if launch.launched() else ["python"]
        covered = {"continue_training", "output_dir", "exp_name"}  # by the words below
        covered |= {"ckpt", "new_head", "backbone_weights"}  # by the checkpoint that the run continues from
        repeated = {name: value for name, value in sorted(given.items())
                    if (FLAGS[name].scope == "call" or is_code(given.get("model")) and name == "model")
                    and name not in covered}
        return shlex.join([*start, "main.py", "--continue_training", f"--output_dir={self.folder.parent}",
                           f"--exp_name={self.folder.name}", *as_flags(repeated)])

    def refuse_full_disk(self, needed: int):
        """Raise UserError if checkpoints of `needed` bytes, replacing those here, don't fit on the disk."""
        here = sum(path.stat().st_size for path in self.files(CHECKPOINTS))
        folder = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if is_main() and needed - here > free:
            raise UserError(f"{self.folder}: the checkpoints of this run take {needed / 1e6:.0f} MB, but there is room "
                            f"for {(free + here) / 1e6:.0f}: make room, choose another --output_dir, or lower --keep "
                            "(docs/resume.md#checkpoints)")
