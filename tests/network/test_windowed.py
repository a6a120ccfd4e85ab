"""Windowed against a brute-force average, the dense network, finite differences, and its own promise on memory."""
import pytest
import torch
from torch import nn

from attacks import PGD
from network import Bfloat16
from network.windowed import Windowed, choose_window, find_starts, windowed


def brute_force(model, images, size, stride):
    """The definition, pixel by pixel: the mean over all windows that cover a pixel."""
    height, width = images.shape[-2:]
    size = min(size[0], height), min(size[1], width)
    starts = [{min(k * stride, length - side) for k in range(length)}
              for length, side in zip((height, width), size, strict=True)]
    found = {(top, left): model(images[..., top:top + size[0], left:left + size[1]])
             for top in starts[0] for left in starts[1]}
    rows = [[torch.stack([logits[..., y - top, x - left] for (top, left), logits in found.items()
                          if top <= y < top + size[0] and left <= x < left + size[1]]).mean(0)
             for x in range(width)] for y in range(height)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class Global(nn.Module):
    """Logits that depend on the whole window: its mean is added to each pixel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        return self.conv(images) * (1 + images.mean((1, 2, 3), keepdim=True)) ** 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Global().double().eval()


@pytest.mark.parametrize(("length", "window", "stride", "starts"), [
    (10, 4, 2, [0, 2, 4, 6]), (10, 4, 3, [0, 3, 6]), (10, 4, 4, [0, 4, 6]), (10, 10, 4, [0]), (9, 10, 4, [0]),
    (11, 10, 10, [0, 1]), (5, 1, 1, [0, 1, 2, 3, 4])])
def test_starts_by_hand(length, window, stride, starts):
    assert find_starts(length, window, stride) == starts


@pytest.mark.parametrize(("shape", "size", "stride"), [
    ((11, 14), (5, 6), 3), ((11, 14), (5, 6), 5), ((6, 14), (8, 6), 6), ((13, 5), (4, 9), 2), ((7, 7), (6, 6), 1)])
def test_logits_are_the_average_over_the_windows_that_cover_a_pixel(model, shape, size, stride):
    images = torch.rand(2, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        found = Windowed(model, size, stride)(images)
    assert torch.allclose(found, brute_force(model, images, size, stride), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(6, 8), (5, 8), (6, 3), (1, 1)])
def test_one_window_is_the_whole_image_bit_by_bit(model, shape):
    images = torch.rand(2, 3, *shape, dtype=torch.float64)
    assert torch.equal(Windowed(model, (6, 8), 2)(images), model(images))


@pytest.mark.slow
def test_the_gradient_goes_through_all_windows(model):
    """By finite differences, and against autograd through the brute-force average without recomputation."""
    images = torch.rand(1, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    net = Windowed(model, (4, 5), 3)
    assert torch.autograd.gradcheck(net, images)
    weights = torch.randn(1, 4, 7, 9, dtype=torch.float64)
    ours, = torch.autograd.grad(net(images), images, weights)
    theirs, = torch.autograd.grad(brute_force(model, images, (4, 5), 3), images, weights)
    assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)


class Local(nn.Module):
    """A network with a receptive field of 5x5."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, images):
        return self.second(self.first(images).tanh())


def test_away_from_a_windows_border_logits_and_gradients_are_the_dense_networks():
    """Windows of 12 pixels, 8 apart: at pixel 6 one window covers it, further from its border than the field's 2."""
    net, images = Local().double(), torch.rand(1, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    middle = (..., slice(2, 8), slice(2, 8))
    dense, slid = net(images), Windowed(net, (12, 12), 8)(images)
    assert torch.allclose(dense[middle], slid[middle], atol=1e-12, rtol=0) and not torch.allclose(dense, slid)
    weights = torch.randn_like(dense[middle])
    ours, theirs = (torch.autograd.grad(logits[middle], images, weights)[0] for logits in (slid, dense))
    assert torch.allclose(ours, theirs, atol=1e-12, rtol=0) and theirs.abs().sum() > 0


def test_a_linear_network_without_padding_effects_is_attacked_as_the_dense_one():
    """A 1x1 network's windows agree everywhere, so PGD takes the same steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 4, 1)).eval()
    images, labels = torch.rand(2, 3, 17, 13), torch.randint(0, 4, (2, 17, 13))
    attack = PGD(eps=0.05, steps=4)
    ours, theirs = (attack(model, images, labels, image_ids=[0, 1]) for model in (Windowed(net, (8, 8), 5), net))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_activations_kept_for_the_backward_pass_do_not_grow_with_the_number_of_windows():
    """What autograd saves: the windows' inputs and nothing of the network's 64 channels."""
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 2, 3, padding=1)).eval()

    def saved_by(model, side: int) -> int:
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        images = torch.rand(1, 3, side, side, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images)
        return sum(sizes)

    weights = sum(parameter.numel() for parameter in net.parameters())
    for side in (32, 64):
        pixels = side * side
        assert saved_by(net, side) > 64 * pixels
        assert saved_by(Windowed(net, (16, 16), 16), side) <= weights + 4 * pixels


def test_bfloat16_logits_are_summed_in_float32():
    net = Bfloat16(Windowed(nn.Conv2d(3, 2, 1), (4, 4), 1)).eval()
    images = torch.rand(1, 3, 9, 9)
    whole = Bfloat16(net.model.model)(images)
    assert net(images).dtype == torch.float32 and torch.equal(net(images), whole), "equal terms have an equal mean"


def test_window_and_stride_as_typed(model):
    assert choose_window((512,), None) == ((512, 512), 342) and choose_window((300, 600), None) == ((300, 600), 200)
    assert choose_window((512,), 512) == ((512, 512), 512)
    assert windowed(model, None, None) is model and "size=(8, 9), stride=4" in str(windowed(model, (8, 9), 4))
    with pytest.raises(ValueError, match="stride 9: must be 1 to 8"):
        Windowed(model, (8, 12), 9)


def test_receptive_field_of_the_dense_comparison_is_what_it_says():
    """Else the comparison above would prove nothing: a change at distance 2 is seen, one at distance 3 is not."""
    net, images = Local().double(), torch.rand(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    gradient, = torch.autograd.grad(net(images)[0, :, 4, 4].sum(), images)
    seen = gradient[0].abs().sum(0).nonzero()
    assert seen.min() == 2 and seen.max() == 6
