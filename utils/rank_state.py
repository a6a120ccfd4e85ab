"""What differs from process to process, saved and restored."""
import torch
from torch import nn

from utils import distributed
from utils.logging import logger
from utils.seed import get_rng_state, set_rng_state


class RankState:
    """What differs from process to process: random numbers and, without --sync_bn, BatchNorm's statistics."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device

    def state_dict(self) -> dict:
        """Return this process's random state, and its buffers where there are several processes."""
        several = distributed.world_size() > 1
        return {"rng": get_rng_state(self._devices()),
                "buffers": [buffer.cpu() for buffer in self.model.buffers()] if several else []}

    def load_state_dict(self, own: dict):
        """Restore what state_dict() returned."""
        set_rng_state(own["rng"], self._devices())
        with torch.no_grad():
            for buffer, saved in zip(self.model.buffers(), own["buffers"], strict=bool(own["buffers"])):
                buffer.copy_(saved)

    def load_from(self, ranks: list[dict]):
        """Restore this process's part of what all processes saved; another number of processes restores nothing."""
        if len(ranks) == distributed.world_size():
            self.load_state_dict(ranks[distributed.rank()])
            return
        saver = f"{len(ranks)} processes" if ranks else "a program that doesn't save it"
        logger.info("Random state not restored: saved by %s (docs/resume.md#the-same-bits)", saver)

    def _devices(self) -> list[torch.device]:
        """Return the GPUs whose random numbers this process draws: its own, or all that DataParallel uses."""
        if self.device.type != "cuda":
            return [self.device] if self.device.type == "mps" else []
        alone = distributed.world_size() == 1
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if alone else [self.device]
