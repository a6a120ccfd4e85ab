"""Images smaller than a network takes: padded inside NormalizedModel, scored on their own pixels alone."""
import pytest
import torch
import torch.nn.functional as F

from attacks import PGD
from network import MODELS, NormalizedModel, build_model

CASES = [(name, stride) for name in MODELS for stride in ((4,) if "hrnet" in name else (8, 16))]


def build(name: str, stride: int) -> NormalizedModel:
    torch.manual_seed(0)
    return build_model(name, num_classes=5, output_stride=stride).eval()


def accepts(model, size: tuple[int, int]) -> bool:
    try:
        return model(torch.zeros(1, 3, *size)).shape == (1, 5, *size)
    except RuntimeError:  # a convolution's kernel is larger than its input
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stride"), CASES)
def test_all_twelve_take_any_size(name, stride):
    """And pad no image that the bare network takes: the size below least_size is one that it refuses."""
    model = build(name, stride)
    with torch.no_grad():
        for size in [(1, 1), (1, 40), (2, 2)]:
            logits = model(torch.rand(1, 3, *size))
            assert logits.shape == (1, 5, *size) and logits.isfinite().all()
        least = model.least_size
        assert accepts(model.model, (least, 30)) and accepts(model.model, (30, least))
        if least > 1:
            assert not accepts(model.model, (least - 1, 30)) and not accepts(model.model, (30, least - 1))


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet", "deeplabv3plus_xception"])
@torch.no_grad()
def test_an_image_that_the_network_takes_passes_unchanged(name):
    model = build(name, 16)
    images = torch.rand(2, 3, model.least_size, 20)
    assert torch.equal(model(images), model.model((images - model.mean) / model.std))


@torch.no_grad()
def test_the_padding_has_the_mean_colour_and_no_say_in_the_logits():
    model = build("deeplabv3plus_xception", 16)
    images = torch.rand(2, 3, 2, 9)
    padded = model.mean.expand(2, 3, 7, 9).clone()
    padded[:, :, :2] = images
    expected = model.model((padded - model.mean) / model.std)[:, :, :2]
    torch.testing.assert_close(model(images), expected)


def test_gradients_are_those_through_the_padding():
    """Against the padded images' own gradient: at the image equal, and nothing is lost to a crop of the input."""
    model = build("deeplabv3_mobilenet", 16).double()
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    weights = torch.rand(1, 5, 2, 2, dtype=torch.float64)
    found, = torch.autograd.grad((model(leaf := images.clone().requires_grad_()) * weights).sum(), leaf)
    padded = F.pad((images - model.mean) / model.std, (0, 1, 0, 1)).requires_grad_()
    through, = torch.autograd.grad((model.model(padded)[..., :2, :2] * weights).sum(), padded)
    torch.testing.assert_close(found, through[..., :2, :2] / model.std)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet", "deeplabv3plus_xception", "deeplabv3_resnet50"])
def test_attacks_count_the_images_own_pixels(name):
    model, images = build(name, 16), torch.rand(2, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(images).argmax(1)
    adv = PGD(eps=0.5, steps=3, random_start=False)(model, images, labels)
    assert adv.shape == images.shape and (adv - images).abs().max() <= 0.5 and not torch.equal(adv, images)
