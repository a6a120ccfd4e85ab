"""The training loop: iterations, validations, checkpoints. It doesn't know which optimizer it has."""
from contextlib import closing
from pathlib import Path

import torch

from engine.interrupts import Interrupts, Stopped
from engine.meter import Meter, line
from engine.state import capture, take_up
from engine.update import Update
from utils import checkpoint, distributed
from utils.errors import UserError
from utils.logging import logger

PATIENCE = 10  # skipped iterations in a row that end a run


class Trainer:
    """A run from `cur_itrs` to `total_itrs`. Stopped anywhere and taken up again, it ends with the same bits.

    model: the module that is validated and saved. update: one step on a batch (engine.update). loader: starting_at(itr)
    gives the batches from that iteration on, without end; len() is an epoch. validate(trainer) -> results with
    'Mean IoU'; it may call interrupts.check(). paths: {'latest': ..., 'best': ...}. described: plain values that a
    checkpoint carries besides the state (options, normalization, class names). keep: how many of the last checkpoints
    stay. go_on: the command that continues.
    """

    def __init__(self, model, update: Update, loader, *, scheduler, validate, dashboard, paths, described,
                 keep: int = 2, go_on: str = ""):
        self.model, self.update, self.loader, self.scheduler = model, update, loader, scheduler
        self.validate, self.dashboard, self.paths, self.described = validate, dashboard, paths, described
        self.keep, self.go_on = keep, go_on
        self.optimizer = update.optimizer
        self.meter = Meter(images=loader.batch_size, device=update.device)
        self.interrupts = Interrupts(held=True)
        self.cur_itrs = 0
        self.validated = 0  # the iteration of the last validation
        self.skipped, self.skipped_in_a_row = 0, 0
        self.best_score = -1.0  # below any mIoU
        self.latest_itr = None  # of what is in latest_*
        self._written = None  # the state that this process wrote there
        self._unwritable = False

    @property
    def cur_epochs(self) -> int:
        """The epoch, from 1, of the last iteration."""
        return (max(self.cur_itrs, 1) - 1) // len(self.loader) + 1

    def train(self, total_itrs: int, *, print_interval: int, val_interval: int, save_interval: int | None = None):
        """Train to `total_itrs`, validating every `val_interval` iterations and at the end.

        latest_* is written at the start, before and after a validation, and every `save_interval` iterations. A signal,
        or an image that can't be read, saves it and raises. Raises FloatingPointError, and touches no checkpoint, after
        PATIENCE iterations in a row whose loss or gradient wasn't finite; WriteError where a checkpoint can't be
        written.
        """
        if self.cur_itrs >= total_itrs and not self._owes_validation(total_itrs, val_interval):
            logger.info("Nothing to train: iteration %d of --total_itrs %d is reached (it counts from the beginning: "
                        "give more to train longer)", self.cur_itrs, total_itrs)
            return
        self.update.net.train()
        # The loader's processes end with it, also after an error; torch has its signal handler from when they start.
        with closing(self.loader.starting_at(self.cur_itrs)) as batches, self.interrupts:
            try:
                if not distributed.from_main(self.paths["latest"].exists()):
                    self.save("latest")  # so that there always is one, and that the folder can be written
                self._train(batches, total_itrs, print_interval, val_interval, save_interval)
            except (Stopped, UserError, distributed.ElsewhereError) as stop:  # in this process or another
                if not self._unwritable:
                    self.save("latest")
                self._say_how_to_go_on(total_itrs)
                self.interrupts.check()  # where several stop, which of them was first doesn't matter
                raise stop from None

    def _train(self, batches, total_itrs: int, print_interval: int, val_interval: int, save_interval: int | None):
        while (due := self._owes_validation(total_itrs, val_interval)) or self.cur_itrs < total_itrs:
            self.meter.start()
            with distributed.together():
                self.interrupts.check()
                batch = None if due else next(batches)
            if due:
                self.validate_and_save()
                continue
            self.meter.stop(self.step(*batch))
            if self.cur_itrs % print_interval == 0:
                self._report(self.meter.take(itrs_left=total_itrs - self.cur_itrs), total_itrs)
            if save_interval and self.cur_itrs % save_interval == 0:
                self.save("latest")
        with distributed.together():
            self.interrupts.check()

    def _say_how_to_go_on(self, total_itrs: int):
        saved = "" if self.latest_itr == self.cur_itrs else f", saved is iteration {self.latest_itr}"
        if self.latest_itr is not None:
            logger.info("Stopped after iteration %d/%d%s; to go on: %s", self.cur_itrs, total_itrs, saved, self.go_on)

    def _owes_validation(self, total_itrs: int, val_interval: int) -> bool:
        """Whether this iteration's validation is still to come: also of a run that was stopped before or in it."""
        due = self.cur_itrs % val_interval == 0 or self.cur_itrs == total_itrs
        return due and self.cur_itrs > self.validated

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
        self.count(self.cur_itrs)
        return measured

    def count(self, itrs: int):
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
        """Score the model, write best_* when it is the best so far, and latest_* before (a kill costs no iteration)
        and after.
        """
        distributed.broadcast_(self.model.buffers())  # without --sync_bn each process has statistics of its own
        self.save("latest")
        logger.info("validation...")
        score = self.validate(self)["Mean IoU"]
        better = not score <= self.best_score  # nan, from labels that are all void, still leaves a best_*
        self.best_score = score if better else self.best_score
        self.validated = self.cur_itrs
        if better:
            self.save("best")
        self.save("latest")  # the last: killed before it, the run validates again and finds the same

    def save(self, kind: str):
        """Write the `kind` checkpoint, unless it is there already; all ranks call it.

        Raises FloatingPointError, and writes nothing, for weights that are not finite.
        """
        now = (self.cur_itrs, self.validated)
        if kind == "latest" and self._written == now:
            return
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise FloatingPointError(f"the weights are not finite at iteration {self.cur_itrs}: choose a lower --lr; "
                                     "checkpoints from before are as they were")
        state = capture(self)
        keep = self.keep if kind == "latest" and self.latest_itr != self.cur_itrs else None
        self._unwritable = True
        with distributed.together():
            if distributed.is_main():
                checkpoint.save(self.paths[kind], state, keep=keep)
        self._unwritable = False
        if self.cur_itrs and (keep is not None or kind == "best"):
            logger.info("Model saved as %s", self.paths[kind])
        if kind == "latest":
            self._written, self.latest_itr = now, self.cur_itrs

    def load_best(self):
        """Put the weights of best_* into the model: what is reported is what a later test of the file finds."""
        there = distributed.is_main() and self.paths["best"].exists()  # else nothing was trained in this folder
        best = distributed.from_main(checkpoint.load(self.paths["best"]) if there else None)
        if best is None:
            return
        self.model.model.load_state_dict(best["model_state"])
        logger.info("Scores of the best checkpoint, of iteration %d:", best["cur_itrs"])

    def restore(self, state: dict, *, source: str):
        """Take up the training state of a checkpoint (the weights are loaded already)."""
        take_up(self, state, source=source)
        if Path(source).absolute() == Path(self.paths["latest"]).absolute():
            self.latest_itr = self.cur_itrs
        logger.info("Training state restored from %s, iteration %d", source, self.cur_itrs)
