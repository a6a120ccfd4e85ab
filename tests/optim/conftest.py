"""A network with everything that a SAM step can get wrong, small enough for a test to take hundreds of steps."""
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


@pytest.fixture(autouse=True)
def _quick(one_thread):
    """Every test here is of small tensors."""


@pytest.fixture
def make_net():
    """A function that builds the same network again and again."""

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
    """A function that returns the closure of one batch; its `calls` and `losses` tell what happened."""

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
    """A function that takes one step a batch and returns the losses."""

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
