"""The training loop: iterations, validations, checkpoints. It doesn't know which optimizer it has."""
import signal
from contextlib import contextmanager

import torch

from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger

FORMAT = 1  # of the checkpoint dict


class Trainer:
    """A run from `cur_itrs` to `total_itrs`.

    model: the module that is validated and saved; net: the same, or its DataParallel wrapper, that is trained.
    validate(trainer) -> results with 'Mean IoU'. paths: {'latest': ..., 'best': ...}. described: plain values that a
    checkpoint carries besides the state (options, normalization, class names). go_on: the command that continues.
    """

    def __init__(self, model, net, loader, *, optimizer, scheduler, criterion, validate, dashboard, paths, described,
                 go_on=""):
        self.model, self.net, self.loader = model, net, loader
        self.optimizer, self.scheduler, self.criterion = optimizer, scheduler, criterion
        self.validate, self.dashboard, self.paths, self.described = validate, dashboard, paths, described
        self.go_on = go_on
        self.device = next(model.parameters()).device
        self.cur_itrs, self.cur_epochs = 0, 0
        self.best_score = -1.0  # below any mIoU

    def train(self, total_itrs: int, *, print_interval: int, val_interval: int):
        """Train to `total_itrs`, validating every `val_interval` iterations and at the end.

        Ctrl-C, or an image that can't be read, saves latest_* and raises.
        """
        if self.cur_itrs >= total_itrs:
            logger.info("Nothing to train: iteration %d of --total_itrs %d is reached", self.cur_itrs, total_itrs)
        batches = self._batches()
        losses = []  # since the last line; tensors, because reading one waits for the GPU
        self.net.train()
        try:
            while self.cur_itrs < total_itrs:
                images, labels = next(batches)
                with _interrupt_later():
                    losses.append(self.step(images, labels))
                if self.cur_itrs % print_interval == 0:
                    logger.info("Epoch %d, Itrs %d/%d, Loss=%f", self.cur_epochs, self.cur_itrs, total_itrs,
                                torch.stack(losses).mean().item())
                    losses.clear()
                if self.cur_itrs % val_interval == 0 or self.cur_itrs == total_itrs:
                    self.validate_and_save()
        except (KeyboardInterrupt, UserError):  # a Ctrl-C, or an image that can't be read
            self.save("latest")
            logger.info("Stopped after iteration %d/%d; to go on: %s", self.cur_itrs, total_itrs, self.go_on)
            raise

    def step(self, images, labels):
        """One update; returns the loss before it, a scalar tensor on the device."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)

        def closure():
            self.optimizer.zero_grad()
            loss = self.criterion(self.net(images), labels)
            loss.backward()
            return loss.detach()

        loss = self.optimizer.step(closure)  # SAM calls the closure twice, at w and at w + e
        self.scheduler.step()
        self.cur_itrs += 1
        if self.dashboard.enabled:
            self.dashboard.vis_scalar("Loss", self.cur_itrs, loss.item())
        return loss

    def validate_and_save(self):
        """Score the model, then write latest_* with the best score so far, and best_* when it is this one.

        Raises FloatingPointError, and writes nothing, for weights that are not finite.
        """
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
        checkpoint.save(self.paths[kind], self.state_dict())
        logger.info("Model saved as %s", self.paths[kind])

    def load_best(self):
        """Put the weights of best_* into the model: what is reported is what a later test of the file finds."""
        if not self.paths["best"].exists():  # nothing was trained in this folder
            return
        best = checkpoint.load(self.paths["best"])
        self.model.model.load_state_dict(best["model_state"])
        logger.info("Scores of the best checkpoint, of iteration %d:", best["cur_itrs"])

    def state_dict(self) -> dict:
        """Everything a checkpoint holds: tensors and plain values."""
        return {
            "format": FORMAT, "cur_itrs": self.cur_itrs, "cur_epochs": self.cur_epochs, "best_score": self.best_score,
            "model_state": self.model.model.state_dict(), "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(), **self.described,
        }

    def restore(self, state: dict, *, source: str):
        """Take up the training state of a checkpoint (the weights are loaded already)."""
        settings = [{key: value for key, value in group.items() if key not in ("params", "sam_step")}
                    for group in self.optimizer.param_groups]
        base_lrs = self.scheduler.base_lrs
        self.cur_itrs, self.cur_epochs = state["cur_itrs"], state.get("cur_epochs", 0)
        if self.paths["best"].exists():  # else the best of this folder is still to come
            self.best_score = state["best_score"]
        try:
            self.optimizer.load_state_dict(state["optimizer_state"])
            for group, now in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(now)  # lr, rho and the like are those of this call's options
                if "sam_step" in group:
                    group["sam_step"] = self.cur_itrs  # counts iterations, also those that SGD made before
            # VainF saved its schedule one step behind; the iteration says where it stands.
            self.scheduler.load_state_dict(
                {**state["scheduler_state"], "last_epoch": self.cur_itrs, "base_lrs": base_lrs})
        except (KeyError, ValueError) as error:
            raise UserError(f"the training state in {source} doesn't fit this --optimizer: {error}") from None
        logger.info("Training state restored from %s", source)

    def _batches(self):
        while True:
            self.cur_epochs += 1
            yield from self.loader


@contextmanager
def _interrupt_later():
    """Hold a Ctrl-C back until the update is whole: no weights at w + e, no half-made step is ever saved."""
    pressed = []
    try:
        before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    except ValueError:  # not the main thread, where no Ctrl-C arrives either
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
