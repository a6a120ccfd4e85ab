"""One training step on one batch: attack it, run forward and backward, let the optimizer step, say what was seen."""
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from optim import grad_norm, valid_pixels
from utils import distributed


class Update:
    """update(images, labels) takes one step of `optimizer` and returns what it measured.

    model: [0, 1] images -> logits, the module itself; net: the same, in parallel or in bfloat16. The step is that of
    the mean loss over the whole batch's valid pixels, however it is cut: into `accumulate` parts that run one after
    the other, over the processes of torchrun, or both. micro: the optimizer gets the parts one by one and perturbs the
    weights for each alone (m-sharpness), instead of once for all.
    attack: (model, images, labels) -> images, crafted at the weights w before the step; adv_ratio: the share of the
    images that it gets.

    Whatever isn't finite (the attack, a loss, a gradient) raises FloatingPointError in all processes alike, and leaves
    weights, optimizer and BatchNorm statistics as they were.
    """

    def __init__(self, model: nn.Module, net: nn.Module, *, optimizer, criterion, attack=None, adv_ratio: float = 1.0,
                 accumulate: int = 1, micro: bool = False):
        self.model, self.net, self.optimizer, self.criterion = model, net, optimizer, criterion
        self.attack, self.adv_ratio = attack, adv_ratio
        self.accumulate, self.micro = accumulate, micro
        self.device = next(model.parameters()).device
        self._unsynchronised = getattr(net, "no_sync", nullcontext)  # DistributedDataParallel's
        self._passes: list[tuple[bool, Tensor, Tensor]] = []

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """images [B, 3, H, W] in [0, 1], labels int64 [B, H, W] -> 0-dim tensors by name, see _measured."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        self._passes.clear()
        try:
            parts = self._parts(self._attacked(images, labels), labels)
            if self.micro:
                self.optimizer.step([partial(self._gradient, [part]) for part in parts])
            else:
                self.optimizer.step(partial(self._gradient, parts))  # SAM calls it twice, at w and at w + e
        except FloatingPointError:
            torch._foreach_copy_(buffers, before)  # statistics that have seen a NaN would never lose it again
            raise
        return self._measured()

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        count = round(self.adv_ratio * len(images))
        if self.attack is None or count == 0:
            return images
        failure = None
        try:
            attacked = self.attack(self.model, images[:count], labels[:count])
        except FloatingPointError as error:
            failure = error
        if distributed.any_rank(failure is not None):
            raise FloatingPointError(f"{failure or 'the attack of another process is not finite'}")
        return torch.cat([attacked, images[count:]]) if count < len(images) else attacked

    def _parts(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(images, labels, weight) of each part: weighted with their shares, means over parts are the batch's mean."""
        cut = labels.chunk(self.accumulate)
        pixels = torch.stack([valid_pixels(part) for part in cut])
        # Times the number of processes, over which DistributedDataParallel takes the mean.
        weights = pixels.double() * distributed.world_size() / distributed.total(pixels.sum()).clamp(min=1)
        return list(zip(images.chunk(self.accumulate), cut, weights, strict=True))

    def _gradient(self, parts: list) -> Tensor:
        """The closure: fills the gradients with those of the loss of `parts`, and returns it."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._unsynchronised():
                loss = loss + self._backward(*part)
        norm = grad_norm(self.model.parameters())
        seen = torch.stack([loss, (~(loss.isfinite() & norm.isfinite())).to(loss)])
        loss, broken = distributed.total(seen)  # what one process has seen ends the step of all
        if broken:
            raise FloatingPointError("the loss or its gradient is not finite")
        self._passes.append((getattr(self.optimizer, "perturbed", False), loss / distributed.world_size(), norm))
        return loss

    def _backward(self, images: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        loss = self.criterion(self.net(images), labels)
        loss = loss * weight.to(loss)
        loss.backward()
        return loss.detach()

    def _measured(self) -> dict[str, Tensor]:
        """The loss at w and its gradient's norm; where the step climbed, ||e|| and the sharpness L(w + e) - L(w)."""
        at_w = [(loss, norm) for perturbed, loss, norm in self._passes if not perturbed]
        above = [loss for perturbed, loss, _ in self._passes if perturbed]
        losses, norms = map(torch.stack, zip(*at_w, strict=True))
        measured = {"Loss": losses.sum(), "Gradient norm": norms.mean()}
        if above:
            measured["Perturbation"] = torch.as_tensor(self.optimizer.radius)
            measured["Sharpness"] = torch.stack(above).sum() - losses.sum()
        return measured
