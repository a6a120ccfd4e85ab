"""The second pass of a SAM step: replay the first one's random numbers and freeze the BatchNorm statistics."""
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from utils.seed import get_gpu_state, set_gpu_state


class RandomState:
    """The current states of torch's random generators: the CPU's, and all GPUs' if any of `devices` is a GPU.

    All GPUs', because DataParallel's replicas draw dropout on GPUs that hold no parameter. Python's and NumPy's
    generators are not included.
    """

    def __init__(self, devices: Iterable[torch.device]):
        kinds = {device.type for device in devices}
        count = torch.cuda.device_count() if "cuda" in kinds else 0
        self.gpus = [torch.device("cuda", index) for index in range(count)] + [torch.device("mps")] * ("mps" in kinds)
        self.states = self._read()

    @contextmanager
    def replayed(self):
        """Replay the random numbers that followed this state; afterwards the generators continue as before."""
        later = self._read()
        self._write(self.states)
        try:
            yield
        finally:
            self._write(later)

    def _read(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *map(get_gpu_state, self.gpus)]

    def _write(self, states: list[torch.Tensor]):
        torch.set_rng_state(states[0])
        for device, state in zip(self.gpus, states[1:], strict=True):
            set_gpu_state(state, device)


@contextmanager
def second_pass(model: torch.nn.Module | None, random_state: RandomState | None = None):
    """Freeze the BatchNorm statistics of `model` and replay `random_state`, until the block ends or raises.

    BatchNorm in training mode still normalises with the batch's statistics, so the outputs don't change. Setting the
    momentum to 0 is not enough: the batch counter would advance, and 0 * NaN would still reach the statistics.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if model is not None else []
    tracking = [norm for norm in norms if norm.track_running_stats]  # an outer block restores those that it froze
    try:
        for norm in tracking:
            norm.track_running_stats = False
        if random_state is None:
            yield
        else:
            with random_state.replayed():
                yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
