"""What the second forward pass of a SAM step needs: the same random numbers, and BatchNorm statistics left alone."""
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


class RandomState:
    """The states that the random generators have right now: the CPU's, and every GPU's if any of `devices` is one.

    Every GPU's, because DataParallel's replicas draw their dropout on GPUs that hold no parameter. torch's generators
    only: Python's and NumPy's go on.
    """

    def __init__(self, devices: Iterable[torch.device]):
        on_gpu = any(device.type == "cuda" for device in devices)
        self.cuda = list(range(torch.cuda.device_count())) if on_gpu else []
        self.states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.cuda)]

    @contextmanager
    def replayed(self):
        """Draw the random numbers that followed this state again; then go on as if they had not been."""
        with torch.random.fork_rng(self.cuda):
            torch.set_rng_state(self.states[0])
            for device, state in zip(self.cuda, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


@contextmanager
def second_pass(model: torch.nn.Module | None, random_state: RandomState | None = None):
    """Freeze the BatchNorm statistics of `model` and replay `random_state`; both end with the block, whatever happens.

    Training-mode BatchNorm still normalises with the batch's statistics, so outputs are what they would be.
    A momentum of 0 would not do: the batch counter would move, and 0 * NaN would still reach the statistics.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if model is not None else []
    tracking = [norm for norm in norms if norm.track_running_stats]  # what an outer block has frozen is left to it
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
