"""Networks to attack, and functions that count results."""
import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _quick(one_thread):
    """Use one thread, as every test here uses small tensors."""


class Smooth(nn.Module):
    """A network that is differentiable everywhere, in float64, so that gradient signs don't depend on rounding."""

    def __init__(self, seed, *, num_classes=4, width=6):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Tanh(),
                                  nn.Conv2d(width, num_classes, 3, padding=1)).double()
        with torch.no_grad():
            self.body[2].weight.mul_(4)

    def forward(self, images):
        return self.body((images - 0.45) / 0.22)


@pytest.fixture
def smooth():
    """A function seed -> (model, images [3, 3, 9, 8], labels), in float64: 4 of 5 pixels correct, a void corner."""

    def make(seed, images=3, height=9, width=8):
        model, generator = Smooth(seed), torch.Generator().manual_seed(seed)
        points = torch.rand(images, 3, height, width, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            labels = model(points).argmax(1)
        other = torch.rand(labels.shape, generator=generator) < 0.2
        labels = torch.where(other, torch.randint(0, 4, labels.shape, generator=generator), labels)
        labels[:, :3, :2] = 255
        return model, points, labels

    return make


@pytest.fixture(scope="session")
def trained():
    """(model, images, labels): a small network trained to segment noisy blocks of four colours, and 6 new images.

    In float64: in float32 each CPU's rounding would train another network, with other weak points.
    """
    generator = torch.Generator().manual_seed(1)
    colours = torch.tensor([[0.35, 0.4, 0.45], [0.6, 0.45, 0.4], [0.45, 0.6, 0.5], [0.5, 0.45, 0.65]]).double()

    def draw(count):
        labels = torch.randint(0, 4, (count, 4, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        clean = colours[labels].permute(0, 3, 1, 2)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return (clean + 0.1 * noise).clamp(0, 1), labels

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                              nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                              nn.Conv2d(12, 4, 3, padding=1)).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, total_iters=120)
        for _ in range(120):
            images, labels = draw(8)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
    torch.set_num_threads(threads)
    images, labels = draw(6)
    labels[:, :2, :3] = 255
    return model.eval().requires_grad_(False), images, labels


@pytest.fixture
def right():
    """A function (model, images, labels) -> correct pixels, float64 [B]; weights: one per class."""

    def count(model, images, labels, weights=(1.0,) * 4):
        with torch.no_grad():
            hits = model(images).argmax(1) == labels  # 255 is never predicted
        counted = torch.tensor(weights, dtype=torch.float64)[labels.clamp_max(3)]
        return (hits * counted).flatten(1).sum(1)

    return count


@pytest.fixture
def queries():
    """A function model -> list that collects the model's inputs from then on."""

    def listen(model):
        asked = []
        model.register_forward_pre_hook(lambda _, args: asked.append(args[0].detach().clone()))
        return asked

    return listen
