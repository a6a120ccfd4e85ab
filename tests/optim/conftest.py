"""A network with everything that a SAM step must handle, small enough for hundreds of steps in a test."""
import io

import numpy as np
import pytest
import torch
from torch import nn

from optim import cross_entropy


class TinyNet(nn.Module):
    """Images [B, 3, 8, 8] -> logits [B, 4, 8, 8] through BatchNorm and dropout."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, momentum=momentum)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images):
        return self.head(self.drop(torch.relu(self.norm(self.conv(images)))))


class Bowl:
    """L_t(w) = w.A.w / 2 - b_t.w in float64 over two matrices and a vector; the slope b_t differs in each step t."""

    shapes = ((2, 2), (3, 2), (4,))
    parts = (slice(0, 4), slice(4, 10), slice(10, 14))

    def __init__(self):
        rng = np.random.default_rng(3)
        factor = rng.standard_normal((14, 14))
        self.hessian, self.slopes = factor @ factor.T / 14 + np.eye(14), 3 * rng.standard_normal((12, 14))
        self.start = rng.standard_normal(14)
        self.params = [nn.Parameter(torch.tensor(self.start[part].reshape(shape)))
                       for part, shape in zip(self.parts, self.shapes, strict=True)]

    def loss(self, w, t):
        return 0.5 * w @ self.hessian @ w - self.slopes[t] @ w

    def grad(self, w, t):
        return self.hessian @ w - self.slopes[t]

    def closure(self, t):
        def run():
            w = torch.cat([p.flatten() for p in self.params])
            loss = 0.5 * w @ torch.tensor(self.hessian) @ w - torch.tensor(self.slopes[t]) @ w
            loss.backward()
            return loss

        return run

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.params]).numpy()

    def descend(self, gradient, steps):
        """Return the weights after `steps` of NumPy SGD (lr 0.05, momentum 0.9, decay 0.01) along gradient(w, t)."""
        w, velocity = self.start, 0.0
        for t in range(steps):
            velocity = 0.9 * velocity + gradient(w, t) + 0.01 * w
            w = w - 0.05 * velocity
        return w


@pytest.fixture(autouse=True)
def _quick(one_thread):
    """Use one thread, as every test here uses small tensors."""


@pytest.fixture
def make_net():
    """A function that builds the same network at every call."""

    def make(seed=0, **kwargs):
        torch.manual_seed(seed)
        return TinyNet(**kwargs)

    return make


@pytest.fixture
def batches():
    """Twelve batches of images [4, 3, 8, 8] and labels [4, 8, 8], a fifth of them ignored."""
    generator = torch.Generator().manual_seed(7)
    out = []
    for _ in range(12):
        labels = torch.randint(0, 4, (4, 8, 8), generator=generator)
        ignored = torch.rand(labels.shape, generator=generator) < 0.2
        out.append((torch.rand(4, 3, 8, 8, generator=generator), labels.masked_fill(ignored, 255)))
    return out


@pytest.fixture
def make_closure():
    """A function that returns the closure of one batch; it records its `calls` and `losses`."""

    def make(net, batch):
        def closure():
            loss = cross_entropy(net(batch[0]), batch[1])
            loss.backward()
            closure.calls += 1
            closure.losses.append(loss.item())
            return loss

        closure.calls, closure.losses = 0, []
        return closure

    return make


@pytest.fixture
def train(make_closure):
    """A function that takes one step per batch and returns the losses."""

    def run(net, optimizer, batches):
        return [float(optimizer.step(make_closure(net, batch))) for batch in batches]

    return run


@pytest.fixture
def snapshot():
    """A function that copies every parameter and buffer of a network."""
    return lambda net: {name: value.clone() for name, value in net.state_dict().items()}


@pytest.fixture
def assert_same():
    """A function that asserts that two state dicts are equal bit for bit."""

    def check(first, second):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.equal(value, second[name]), name

    return check


@pytest.fixture
def bowl():
    """Parameters in float64 whose loss has a known gradient."""
    return Bowl()


@pytest.fixture
def through_a_file():
    """A function that saves a value and loads it like a checkpoint."""

    def run(value):
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return run
