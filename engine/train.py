"""The training loop: iterations, validations, checkpoints. It doesn't know which optimizer it has."""
import torch

from engine.interrupts import Interrupted, Interrupts
from engine.meter import Meter, line
from engine.update import Update
from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger

FORMAT = 1  # of the checkpoint dict
PATIENCE = 10  # skipped iterations in a row that end a run


class Trainer:
    """A run from `cur_itrs` to `total_itrs`.

    model: the module that is validated and saved. update: one step on a batch (engine.update). loader: starting_at(itr)
    gives the batches from that iteration on, without end; len() is an epoch. validate(trainer) -> results with
    'Mean IoU'. paths: {'latest': ..., 'best': ...}. described: plain values that a checkpoint carries besides the state
    (options, normalization, class names). go_on: the command that continues.
    """

    def __init__(self, model, update: Update, loader, *, scheduler, validate, dashboard, paths, described, go_on=""):
        self.model, self.update, self.loader, self.scheduler = model, update, loader, scheduler
        self.validate, self.dashboard, self.paths, self.described = validate, dashboard, paths, described
        self.go_on = go_on
        self.optimizer = update.optimizer
        self.cur_itrs = 0
        self.skipped, self.skipped_in_a_row = 0, 0
        self.best_score = -1.0  # below any mIoU

    @property
    def cur_epochs(self) -> int:
        """The epoch, from 1, of the last iteration."""
        return (max(self.cur_itrs, 1) - 1) // len(self.loader) + 1

    def train(self, total_itrs: int, *, print_interval: int, val_interval: int):
        """Train to `total_itrs`, validating every `val_interval` iterations and at the end.

        Ctrl-C, or an image that can't be read, saves latest_* and raises. Raises FloatingPointError, and touches no
        checkpoint, after PATIENCE iterations in a row whose loss or gradient wasn't finite.
        """
        if self.cur_itrs >= total_itrs:
            logger.info("Nothing to train: iteration %d of --total_itrs %d is reached", self.cur_itrs, total_itrs)
            return
        batches = self.loader.starting_at(self.cur_itrs)
        meter = Meter(images=self.loader.batch_size, device=self.update.device)
        self.update.net.train()
        with Interrupts() as interrupts:
            self._train(batches, meter, interrupts, total_itrs, print_interval, val_interval)

    def _train(self, batches, meter: Meter, interrupts: Interrupts, total_itrs: int, print_interval: int,
               val_interval: int):
        try:
            while self.cur_itrs < total_itrs:
                meter.start()
                with distributed.together():
                    interrupts.check()
                    images, labels = next(batches)
                with interrupts.held_back():
                    meter.stop(self.step(images, labels))
                if self.cur_itrs % print_interval == 0:
                    self._report(meter.take(itrs_left=total_itrs - self.cur_itrs), total_itrs)
                if self.cur_itrs % val_interval == 0 or self.cur_itrs == total_itrs:
                    self.validate_and_save()
        except (KeyboardInterrupt, Interrupted, UserError, distributed.ElsewhereError) as stop:
            self.save("latest")  # after a Ctrl-C, or an image that can't be read, here or in another process
            logger.info("Stopped after iteration %d/%d; to go on: %s", self.cur_itrs, total_itrs, self.go_on)
            raise KeyboardInterrupt if isinstance(stop, Interrupted) else stop from None

    def step(self, images, labels) -> dict:
        """One iteration; returns what was measured, nothing where it had to be skipped."""
        lr = self.optimizer.param_groups[-1]["lr"]  # the head's
        try:
            measured = {**self.update(images, labels), "Learning rate": torch.tensor(lr)}
            self.skipped_in_a_row = 0
        except FloatingPointError as error:
            self._skip(error)
            measured = {}
        self.scheduler.step()
        self.cur_itrs += 1
        self._count(self.cur_itrs)
        return measured

    def _count(self, itrs: int):
        """SAM's count is the iteration: also of those that were skipped before it began, or that SGD made."""
        for group in self.optimizer.param_groups:
            if "sam_step" in group:
                group["sam_step"] = itrs

    def _skip(self, error: FloatingPointError):
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        logger.warning("Iteration %d is skipped: %s (%d in a row, %d in all)", self.cur_itrs + 1, error,
                       self.skipped_in_a_row, self.skipped)
        if self.skipped_in_a_row == PATIENCE:
            raise FloatingPointError(
                f"{PATIENCE} iterations in a row, up to {self.cur_itrs + 1}, had a loss or gradient that is not "
                "finite: choose a lower --lr; checkpoints from before are as they were")

    def _report(self, seen: dict, total_itrs: int):
        logger.info("Epoch %d, Itrs %d/%d, %s", self.cur_epochs, self.cur_itrs, total_itrs, line(seen))
        for name, value in seen.items():
            if isinstance(value, float):
                self.dashboard.vis_scalar(name, self.cur_itrs, value)

    def validate_and_save(self):
        """Score the model, then write latest_* with the best score so far, and best_* when it is this one.

        Raises FloatingPointError, and writes nothing, for weights that are not finite.
        """
        distributed.broadcast_(self.model.buffers())  # without --sync_bn each process has statistics of its own
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise FloatingPointError(f"the weights are not finite at iteration {self.cur_itrs}: choose a lower --lr; "
                                     "checkpoints from before are as they were")
        logger.info("validation...")
        score = self.validate(self)["Mean IoU"]
        better = not score <= self.best_score  # nan, from labels that are all void, still leaves a best_*
        self.best_score = score if better else self.best_score
        self.save("latest")
        if better:
            self.save("best")

    def save(self, kind: str):
        """Write the `kind` checkpoint."""
        if not distributed.is_main():
            return
        checkpoint.save(self.paths[kind], self.state_dict())
        logger.info("Model saved as %s", self.paths[kind])

    def load_best(self):
        """Put the weights of best_* into the model: what is reported is what a later test of the file finds."""
        there = distributed.is_main() and self.paths["best"].exists()  # else nothing was trained in this folder
        best = distributed.from_main(checkpoint.load(self.paths["best"]) if there else None)
        if best is None:
            return
        self.model.model.load_state_dict(best["model_state"])
        logger.info("Scores of the best checkpoint, of iteration %d:", best["cur_itrs"])

    def state_dict(self) -> dict:
        """Everything a checkpoint holds: tensors and plain values."""
        return {
            "format": FORMAT, "cur_itrs": self.cur_itrs, "cur_epochs": self.cur_epochs, "skipped": self.skipped,
            "best_score": self.best_score,
            "model_state": self.model.model.state_dict(), "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(), **self.described,
        }

    def restore(self, state: dict, *, source: str):
        """Take up the training state of a checkpoint (the weights are loaded already)."""
        settings = [{key: value for key, value in group.items() if key not in ("params", "sam_step")}
                    for group in self.optimizer.param_groups]
        base_lrs = self.scheduler.base_lrs
        self.cur_itrs, self.skipped = state["cur_itrs"], state.get("skipped", 0)
        if self.paths["best"].exists():  # else the best of this folder is still to come
            self.best_score = state["best_score"]
        try:
            self.optimizer.load_state_dict(state["optimizer_state"])
            for group, now in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(now)  # lr, rho and the like are those of this call's options
            self._count(self.cur_itrs)
            # VainF saved its schedule one step behind; the iteration says where it stands.
            self.scheduler.load_state_dict(
                {**state["scheduler_state"], "last_epoch": self.cur_itrs, "base_lrs": base_lrs})
        except (KeyError, ValueError) as error:
            raise UserError(f"the training state in {source} doesn't fit this --optimizer: {error}") from None
        logger.info("Training state restored from %s", source)
