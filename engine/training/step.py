"""One training step on one batch: attack, forward and backward, the optimizer's step, measurements."""
import math
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from optim import WeightAverage, count_valid_pixels, divergence, grad_norm
from utils import distributed
from utils.divergence import LIMIT
from utils.images import to_unit_range
from utils.wide import widest


class TrainingStep:
    """A callable (images, labels) that takes one step of `optimizer` and returns what it measured.

    model: [0, 1] images -> logits, the plain module; net: its parallel or bfloat16 form. The loss is the mean over the
    whole batch's valid pixels, even if the batch is cut into `accumulate` successive parts, over torchrun's processes,
    or both. micro: the optimizer perturbs the weights for each part alone (m-sharpness), not once for all.
    attack: (model, images, labels) -> images, run part by part at the weights w before the step; attacked: the model
    that it attacks (default: `model`); adv_ratio: the share of the whole batch that is attacked, evenly spread.
    clip_grad: a gradient with a longer norm is scaled to this one; what is measured is the norm before. trades_beta:
    the loss is that of the images themselves plus trades_beta times the divergence of the attacked ones' predictions.
    average: takes in the weights after each step.

    An attack, loss or gradient that is not finite, or a loss beyond LIMIT, raises FloatingPointError in all processes
    alike, and leaves weights, optimizer and BatchNorm statistics unchanged.
    """

    def __init__(self, model: nn.Module, net: nn.Module, *, optimizer, criterion, attack=None, attacked=None,
                 adv_ratio: float = 1.0, accumulate: int = 1, micro: bool = False, clip_grad: float | None = None,
                 trades_beta: float | None = None, average: WeightAverage | None = None):
        self.model, self.net, self.optimizer, self.criterion = model, net, optimizer, criterion
        self.attack, self.attacked, self.adv_ratio = attack, attacked or model, adv_ratio
        self.accumulate, self.micro, self.clip_grad = accumulate, micro, clip_grad
        self.trades_beta, self.average = trades_beta, average
        self.device = next(model.parameters()).device
        self._unsynchronised = getattr(net, "no_sync", nullcontext)  # DistributedDataParallel's
        self._share = None  # of the batch's images, attacked
        self._passes: list[tuple[bool, Tensor, Tensor, Tensor | None]] = []  # second, loss, |g|, |e|

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """images [B, 3, H, W] in [0, 1] or uint8, labels integers [B, H, W] -> {name: 0-dim tensor}, see _measure."""
        images = to_unit_range(images.to(self.device, non_blocking=True, memory_format=torch.channels_last))
        labels = labels.to(self.device, non_blocking=True).long()
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        self._passes.clear()
        try:
            attacked = images if self.attack is None else self._attack(images, labels)
            parts = self._cut(images, attacked, labels)
            if self.micro:
                self.optimizer.step([partial(self._differentiate, [part]) for part in parts])
            else:
                self.optimizer.step(partial(self._differentiate, parts))  # SAM calls it twice, at w and at w + e
        except FloatingPointError:
            torch._foreach_copy_(buffers, before)  # a NaN would stay in BatchNorm's running statistics forever
            raise
        if self.average is not None:
            self.average.update()
        return self._measure()

    def _attack(self, images: Tensor, labels: Tensor) -> Tensor:
        rank, processes = distributed.rank(), distributed.world_size()
        every = [is_chosen(place, self.adv_ratio) for place in range(len(images) * processes)]  # of all processes
        chosen, self._share = torch.tensor(every[rank::processes]), torch.tensor(sum(every) / len(every))
        parts = zip(*(whole.chunk(self.accumulate) for whole in (images, labels, chosen)), strict=True)
        failure = ""
        try:
            attacked = torch.cat([self._attack_part(*part) for part in parts])
        except FloatingPointError as error:
            failure = str(error)
        if distributed.any_rank(bool(failure)):
            raise FloatingPointError(failure or "the attack of another process is not finite")
        return attacked

    def _attack_part(self, images: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        if chosen.all():
            return self.attack(self.attacked, images, labels)
        attacked, chosen = images.clone(), chosen.to(images.device)
        if chosen.any():
            attacked[chosen] = self.attack(self.attacked, images[chosen], labels[chosen])
        return attacked

    def _cut(self, images: Tensor, attacked: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return (images, attacked, labels, weight) of the parts; their losses' weighted sum is the batch's mean."""
        cut = labels.chunk(self.accumulate)
        pixels = torch.stack([count_valid_pixels(part) for part in cut])
        # DistributedDataParallel takes the mean over processes, so multiply by their number.
        pixels, total = pixels.to(widest(self.device)), distributed.sum_over_ranks(pixels.sum())
        weights = pixels * distributed.world_size() / total.clamp(min=1)
        return list(zip(images.chunk(self.accumulate), attacked.chunk(self.accumulate), cut, weights, strict=True))

    def _differentiate(self, parts: list) -> Tensor:
        """Set the gradients to those of the loss of `parts` and return the loss: the optimizer's closure."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._unsynchronised():
                loss = loss + self._backward(*part)
        norm = grad_norm(self.model.parameters())
        if self.micro:  # the norm for the part's own mean loss
            norm = norm / parts[0][-1].clamp(min=1e-12).to(norm)
        sane = (loss.abs() <= LIMIT) & norm.isfinite()
        seen = torch.stack([loss.to(norm), norm, (~sane).to(norm)])
        loss, norm, broken = distributed.sum_over_ranks(seen)  # an error in one process ends the step of all
        if broken:
            raise FloatingPointError(f"the loss is beyond {LIMIT:g}" if loss.isfinite() and norm.isfinite() else
                                     "the loss or its gradient is not finite")
        processes = distributed.world_size()
        self._clip(norm / processes)
        self._passes.append((getattr(self.optimizer, "in_second_pass", False), loss / processes, norm / processes,
                             getattr(self.optimizer, "radius", None)))
        return loss

    def _clip(self, norm: Tensor):
        """Scale the gradients, whose norm is given, to at most clip_grad."""
        if self.clip_grad is not None and norm > self.clip_grad:
            torch._foreach_mul_([parameter.grad for parameter in self.model.parameters() if parameter.grad is not None],
                                self.clip_grad / norm)

    def _backward(self, images: Tensor, attacked: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        if self.trades_beta is None:
            loss = self.criterion(self.net(attacked), labels)
        else:
            logits = self.net(images)
            loss = self.criterion(logits, labels) + self.trades_beta * divergence(logits, self.net(attacked), labels)
        loss = loss * weight.to(loss)
        loss.backward()
        return loss.detach()

    def _measure(self) -> dict[str, Tensor]:
        """Return the loss at w and its gradient's norm; if the step perturbed, also ||e|| and L(w + e) - L(w); with
        an attack the share of the images that were attacked.

        Norms are means over processes and parts that have their own gradient; ||e|| over this process's parts.
        """
        _, losses, norms, _ = zip(*(one for one in self._passes if not one[0]), strict=True)
        measured = {"Loss": torch.stack(losses).sum(), "Gradient norm": torch.stack(norms).mean()}
        if above := [loss for second, loss, _, _ in self._passes if second]:
            measured["Sharpness"] = torch.stack(above).sum() - measured["Loss"]
        if radii := [radius for second, _, _, radius in self._passes if second and radius is not None]:
            measured["Perturbation"] = torch.stack([torch.as_tensor(radius) for radius in radii]).mean()
        if self._share is not None:
            measured["Adversarial share"] = self._share
        return measured


def is_chosen(place: int, ratio: float) -> bool:
    """Return whether to attack the image at `place` in the batch: a share `ratio`, rounded down, evenly spread."""
    return math.floor((place + 1) * ratio + 1e-9) > math.floor(place * ratio + 1e-9)
