"""The exponential moving average of a network's weights (--ema)."""
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """The average of a network's weights over its training steps: average <- d * average + (1 - d) * weights.

    d is the smaller of `decay` and (1 + t) / (10 + t) after t steps, so that the first weights don't stay in a short
    training's average (tf.train.ExponentialMovingAverage, num_updates). Floating-point buffers, such as BatchNorm's
    statistics, are averaged too, others are the network's own. Without a decay there is no average: nothing happens.

    decay: in [0, 1), or None.
    """

    def __init__(self, network: nn.Module, decay: float | None):
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay {decay}: must be at least 0 and below 1")
        self.network, self.decay, self.count = network, decay, 0
        self.values = {name: value.clone() for name, value in self._find_values().items()}

    @torch.no_grad()
    def update(self):
        """Take in the weights after a step."""
        self.count += 1
        if self.values:
            decay = min(self.decay, (1 + self.count) / (10 + self.count))
            torch._foreach_lerp_([*self.values.values()], [*self._find_values().values()], 1 - decay)

    @contextmanager
    def in_use(self):
        """Let the network have the averages inside the `with` block, and afterwards its own weights again."""
        own = self._find_values()
        kept = {name: value.clone() for name, value in own.items()}
        _copy(self.values, own)
        try:
            yield
        finally:
            _copy(kept, own)

    def state_dict(self) -> dict:
        """Return the checkpoint's weights: model_state, what is tested; with an average also the trained ones."""
        trained = self.network.state_dict()
        if self.decay is None:
            return {"model_state": trained}
        return {"model_state": {**trained, **self.values}, "trained_state": trained, "averaged": self.count}

    def load_state_dict(self, state: dict):
        """Continue from a checkpoint whose model_state is in the network already.

        One without an average begins it with its weights. The average of one that goes on without --ema is dropped.
        """
        self.count = state.get("averaged", 0)
        _copy(self._find_values(), self.values)
        if "trained_state" in state:
            self.network.load_state_dict(state["trained_state"])

    def _find_values(self) -> dict[str, torch.Tensor]:
        """Return the network's floating-point values by name; none without a decay."""
        if self.decay is None:
            return {}
        return {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}


def _copy(source: dict[str, torch.Tensor], to: dict[str, torch.Tensor]):
    for name, value in source.items():
        to[name].copy_(value)
