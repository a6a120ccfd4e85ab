"""The run folder: what is in it, when it may be written, and the checkpoints it keeps."""
import errno
import shlex
import shutil
from pathlib import Path

from engine import options
from utils import checkpoint, logging
from utils.distributed import is_main, launched, local_world_size, together
from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing there keeps a second process out
    fcntl = None

CHECKPOINTS = ("latest_*.pth", "previous*.pth", "best_*.pth")
OWN_FILES = (*CHECKPOINTS, "*.pth.tmp", "*.pth.damaged*", "opts.txt", "log.txt",
             "results*.json", "val_results*", "records", "report", "verify*.json")
# Flags of one call that the command which continues doesn't repeat.
NOT_AGAIN = ("ckpt", "continue_training", "overwrite", "output_dir", "exp_name", "download", "check_data",
             "num_classes")


class Run:
    """One folder, output_dir/exp_name, with log.txt, opts.txt, results.json and latest_* / best_* checkpoints."""

    def __init__(self, opts):
        self.folder = Path(opts.output_dir) / opts.exp_name
        self.fallback = None  # (the checkpoint that is gone on with, the latest_* that it stands in for)

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
        if not self.files(CHECKPOINTS):
            return
        if opts.test_only:
            if foreign:
                raise UserError(f"{self.folder} holds a run of its own: choose another --exp_name for the scores of "
                                f"{opts.ckpt}")
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
        self.folder.mkdir(parents=True, exist_ok=True)
        if not opts.test_only:
            self._lock()
        for path in self.files() if opts.overwrite else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.fallback:
            checkpoint.reinstate(*self.fallback)
        logging.log_to_file(self.folder / "log.txt")
        if not opts.test_only:
            with open(self.folder / "opts.txt", "a", encoding="utf-8") as file:  # a continued run adds its own
                file.write(_as_text(options.to_dict(opts)))

    def _lock(self):
        """Keep a second training out of this folder until this process ends, however it ends.

        The lock is the process's own: the loader's processes don't hold it for a run that was killed.
        """
        if fcntl is None:
            return
        self._locked = open(self.folder / ".lock", "w")  # noqa: SIM115, open for as long as we live
        try:
            fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"{self.folder} is being trained in by another process: wait for it to end, or end "
                                "it") from None  # other errors: a disk that knows no locks

    def continue_command(self, opts) -> str:
        """What goes on with this run; options that are not this call's own are in its checkpoint."""
        start = ["python"] if not launched() else ["torchrun", f"--nproc_per_node={local_world_size()}"]
        return shlex.join([*start, "main.py", "--continue_training", f"--output_dir={self.folder.parent}",
                           f"--exp_name={self.folder.name}", *_of_this_call(opts)])

    def refuse_full_disk(self, needed: int):
        """UserError where `needed` more bytes of checkpoints than what is there now would not fit."""
        there = sum(path.stat().st_size for path in self.files(CHECKPOINTS))
        folder = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if is_main() and needed - there > free:
            raise UserError(f"{self.folder}: the checkpoints of this run take {needed / 1e6:.0f} MB, but there is room "
                            f"for {(free + there) / 1e6:.0f}: make room, choose another --output_dir, or lower --keep")

    def checkpoint_path(self, kind: str, opts) -> Path:
        """Where the `kind` (latest or best) checkpoint is, named as VainF names it."""
        return self.folder / f"{kind}_{opts.model}_{opts.dataset}_os{opts.output_stride}.pth"

    def named(self, kind: str, opts) -> list[Path]:
        """The folder's `kind` checkpoints that --model and --dataset, where given, allow."""
        return sorted(self.folder.glob(_pattern(kind, opts)))

    def find(self, kind: str, opts) -> Path:
        """The only one of named()."""
        found = self.named(kind, opts)
        if not found:
            others = ", ".join(path.name for path in self.files(CHECKPOINTS))
            there = f" (only {others})" if others else ""
            raise UserError(f"no {_pattern(kind, opts)} in {self.folder}{there}: train first, or name "
                            "weights with --ckpt or another run with --exp_name")
        if len(found) > 1:
            raise UserError(f"several checkpoints in {self.folder} ({', '.join(path.name for path in found)}): "
                            "name one with --ckpt")
        return found[0]


def _pattern(kind: str, opts) -> str:
    model, data_set = (getattr(opts, name) if name in opts.given else "*" for name in ("model", "dataset"))
    return f"{kind}_{model}_{data_set}_os*.pth".replace("*_*_os*", "*")


def _of_this_call(opts) -> list[str]:
    """The given flags that no checkpoint carries on, as one would type them again."""
    flags = []
    for name in sorted(opts.given & set(options.OF_ONE_CALL) - set(NOT_AGAIN)):
        value = getattr(opts, name)
        values = [] if value is True else map(str, value if isinstance(value, list) else [value])
        flags += [f"--{name}", *values]
    return flags


def _as_text(values: dict) -> str:
    lines = [f"{name}: {value}" for name, value in values.items()]
    return "\n".join(["------------ Options -------------", *lines, "-------------- End ----------------"]) + "\n"
