"""The training loop: iterations, validations, checkpoints, the same for every optimizer."""
from contextlib import closing
from pathlib import Path

import torch

from engine.run import checkpoints
from engine.run.interrupts import Interrupts, Stopped
from engine.training.comparison import MISFITS, compare_data, read_best_score
from engine.training.divergence import Skips, describe_divergence
from engine.training.meter import Meter, Progress
from engine.training.step import TrainingStep
from optim import WeightAverage, load_optimizer, load_schedule, set_sam_step
from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger
from utils.rank_state import RankState


class Trainer:
    """A run from `cur_itrs` to `total_itrs`. Stopped anywhere and continued, it ends with the same bits.

    model: the module that is validated and saved. training_step: one step on a batch. loader: iterate_from(itr) yields
    batches from that iteration on, endlessly; len() is an epoch. validate(trainer) -> results with `best_by`; it may
    call interrupts.check(). paths: {'latest': ..., 'best': ...}. described: plain values for the checkpoint besides the
    state (options, class names). keep: how many latest checkpoints to keep. continue_command: for the log.
    """

    def __init__(self, model, training_step: TrainingStep, loader, *, scheduler, validate, progress: Progress, paths,
                 described, keep: int = 2, continue_command: str = "", best_by: str = "Mean IoU"):
        self.model, self.training_step, self.loader, self.scheduler = model, training_step, loader, scheduler
        self.validate, self.progress, self.paths, self.described = validate, progress, paths, described
        self.keep, self.continue_command, self.best_by = keep, continue_command, best_by
        self.optimizer = training_step.optimizer
        self.average = training_step.average or WeightAverage(model.model, None)
        self.meter = Meter(images=loader.batch_size, device=training_step.device)
        self.rank_state = RankState(model, training_step.device)
        self.interrupts = Interrupts(held=True)
        self.cur_itrs, self.validated, self.skips = 0, 0, Skips()  # validated: the iteration of the last validation
        self.best_score = -1.0  # below any mIoU
        self.latest_itr = self._written = None  # the iteration, and (iteration, last validation), in latest_*
        self._unwritable = False

    @property
    def cur_epochs(self) -> int:
        """Return the epoch, from 1, of the last iteration."""
        return (max(self.cur_itrs, 1) - 1) // len(self.loader) + 1

    def train(self, total_itrs: int, *, print_interval: int, val_interval: int, save_interval: int | None = None):
        """Train to `total_itrs`, validating every `val_interval` iterations and at the end.

        Writes latest_* at the start, before and after a validation, every `save_interval` iterations, and before a
        signal or an unreadable image raises. Raises FloatingPointError if it diverges, WriteError if it can't write.
        """
        if self.cur_itrs >= total_itrs and not self._owes_validation(total_itrs, val_interval):
            logger.info("Nothing to train: iteration %d has reached --total_itrs %d (counted from the start; raise it "
                        "to train longer)", self.cur_itrs, total_itrs)
            return
        self.training_step.net.train()
        # closing() ends the loader's processes; they start first, as torch then sets a handler that we replace.
        with closing(self.loader.iterate_from(self.cur_itrs)) as batches, self.interrupts:
            try:
                continues = self.latest_itr is not None or self.cur_itrs > 0
                if not distributed.broadcast_object(self.paths["latest"].exists()):
                    self.save("latest")  # so that one always exists and the folder is known to be writable
                with distributed.fail_together():
                    self.progress.open(itr=self.cur_itrs, validated=self.validated, continues=continues)
                self._train(batches, total_itrs, print_interval, val_interval, save_interval)
            except (Stopped, UserError, distributed.OtherRankFailed) as stop:  # in this process or another
                if not self._unwritable:
                    self.save("latest")
                self._log_how_to_continue(total_itrs)
                self.interrupts.check()  # a signal decides the exit code
                raise stop from None
            except FloatingPointError as error:
                raise FloatingPointError(describe_divergence(self.cur_itrs, error, self.paths["best"])) from None

    def _train(self, batches, total_itrs: int, print_interval: int, val_interval: int, save_interval: int | None):
        while (due := self._owes_validation(total_itrs, val_interval)) or self.cur_itrs < total_itrs:
            self.meter.start()
            with distributed.fail_together():
                self.interrupts.check()
                batch = None if due else next(batches)
            if due:
                self.validate_and_save()
                continue
            self.meter.stop(self.step(*batch))
            if self.cur_itrs % print_interval == 0:
                self.progress.add_line(self.meter.take(itrs_left=total_itrs - self.cur_itrs), itr=self.cur_itrs,
                                       epoch=self.cur_epochs, total_itrs=total_itrs)
            if save_interval and self.cur_itrs % save_interval == 0:
                self.save("latest")
        with distributed.fail_together():
            self.interrupts.check()

    def _log_how_to_continue(self, total_itrs: int):
        saved = "" if self.latest_itr == self.cur_itrs else f", iteration {self.latest_itr} is saved"
        if self.latest_itr is not None:
            logger.info("Stopped after iteration %d/%d%s; to continue: %s", self.cur_itrs, total_itrs, saved,
                        self.continue_command)

    def _owes_validation(self, total_itrs: int, val_interval: int) -> bool:
        """Return whether this iteration's validation is still due, as after a stop before it."""
        return self.cur_itrs > self.validated and (self.cur_itrs % val_interval == 0 or self.cur_itrs == total_itrs)

    def step(self, images, labels) -> dict:
        """Run one iteration; return what was measured, {} if it was skipped."""
        lr = self.optimizer.param_groups[-1]["lr"]  # the head's
        try:
            measured = {**self.training_step(images, labels), "Learning rate": torch.tensor(lr)}
            self.skips.in_a_row = 0
        except FloatingPointError as error:
            self.skips.add(self.cur_itrs + 1, error)
            measured = {}
        self.scheduler.step()
        self.cur_itrs += 1
        set_sam_step(self.optimizer, self.cur_itrs)
        return measured

    def validate_and_save(self):
        """Score the model; write latest_* before (a kill loses no iteration) and after, best_* if it is the best."""
        distributed.broadcast_tensors([*self.model.buffers(), *self.average.values.values()])  # ranks may differ
        self.save("latest")
        logger.info("validation...")
        with self.average.in_use():
            results = self.validate(self)
        self.progress.add_validation(results, itr=self.cur_itrs, epoch=self.cur_epochs)
        score = results[self.best_by]
        better = not score <= self.best_score  # also for nan, from void labels: best_* must exist
        self.best_score = score if better else self.best_score
        self.validated = self.cur_itrs
        if better:
            self.save("best")
        self.save("latest")  # last: a run killed before it validates again, with the same result

    def save(self, kind: str):
        """Write the `kind` checkpoint unless it is already written; all ranks call it.

        Raises FloatingPointError, and writes nothing, if a weight is not finite.
        """
        now = (self.cur_itrs, self.validated)
        if kind == "latest" and self._written == now:
            return
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise FloatingPointError("the weights are not finite")
        state = self.state_dict()
        keep = self.keep if kind == "latest" and self.latest_itr != self.cur_itrs else None
        self._unwritable = True
        with distributed.fail_together():
            if distributed.is_main():
                checkpoint.save(self.paths[kind], state, keep=keep)
        self._unwritable = False
        if self.cur_itrs and (keep is not None or kind == "best"):
            logger.info("Model saved as %s", self.paths[kind])
        if kind == "latest":
            self._written, self.latest_itr = now, self.cur_itrs

    def load_best(self):
        """Load the weights of best_* into the model, so that a later test finds the same scores."""
        exists = distributed.is_main() and self.paths["best"].exists()  # else nothing was trained in this folder
        best = distributed.broadcast_object(checkpoint.load(self.paths["best"]) if exists else None)
        if best is not None:
            self.model.model.load_state_dict(best["model_state"])
            logger.info("Scores of the best checkpoint, of iteration %d:", best["cur_itrs"])

    def state_dict(self) -> dict:
        """Return what checkpoints.KEYS lists; all ranks call it, and only rank 0 gets "ranks", all processes' state."""
        return checkpoints.stamp({
            "cur_itrs": self.cur_itrs, "cur_epochs": self.cur_epochs, "best_score": self.best_score,
            "validated": self.validated, "skipped": self.skips.count, "skipped_in_a_row": self.skips.in_a_row,
            **self.average.state_dict(), "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(), "measured": self.meter.state_dict(),
            "ranks": distributed.gather_to_main(self.rank_state.state_dict()), **self.described})

    def load_state_dict(self, state: dict, *, source: str):
        """Continue from a checkpoint whose weights are loaded; settings from the options (lr, rho, ...) stay.

        Raises UserError, naming `source`, for another kind of optimizer, other classes or a damaged state.
        """
        same_images = compare_data(self.described, state, source=source)
        try:
            checkpoints.check_types(state)
            self.cur_itrs = state["cur_itrs"]
            self.skips = Skips(state.get("skipped", 0), state.get("skipped_in_a_row", 0))
            self.validated = state.get("validated", self.cur_itrs)  # older files were written after validations
            best = read_best_score(self.paths["best"])
            if best is not None and same_images:  # else this folder's best score is still unknown
                self.best_score = best
            self.average.load_state_dict(state)
            load_optimizer(self.optimizer, state["optimizer_state"])
            set_sam_step(self.optimizer, self.cur_itrs)
            load_schedule(self.scheduler, self.cur_itrs)
            self.meter.load_state_dict(state.get("measured", {}))
            self.rank_state.load_from(state.get("ranks", []))
        except MISFITS as error:
            raise UserError(f"the training state in {source} doesn't fit this --optimizer, or is damaged "
                            f"({type(error).__name__}: {error}; docs/resume.md#what-may-change)") from None
        if Path(source).absolute() == self.paths["latest"].absolute():
            self.latest_itr = self.cur_itrs
        logger.info("Training state restored from %s, iteration %d", source, self.cur_itrs)
