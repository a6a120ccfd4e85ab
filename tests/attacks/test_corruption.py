"""Corruptions against NumPy and Pillow, seeded by image, with the global random state left as it was."""
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from attacks import CORRUPTIONS, Corruption
from utils.errors import UserError
from utils.seed import make_generator

pytest.importorskip("imagecorruptions", reason="an extra: make extras")
QUICK = [name for name in CORRUPTIONS if name != "glass_blur"]  # which compiles for seconds at first
EVERY = [*QUICK, pytest.param("glass_blur", marks=pytest.mark.slow)]


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 37, 50), generator=torch.Generator().manual_seed(1)).float() / 255


def corrupt(name, images, *, severity=3, ids=(5, 9), seed=1):
    return Corruption(name, severity=severity, seed=seed).run(None, images, None, image_ids=list(ids)).images


def draws_of(name, severity, image_id):
    """NumPy's generator as the corruption finds it."""
    draw = make_generator(1, image_id, name, severity)
    return np.random.RandomState(int(torch.randint(2**31, (), generator=draw)))


def pixels_of(image):
    return (image.numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize(("severity", "scale"), [(1, 0.08), (3, 0.18), (5, 0.38)])
def test_gaussian_noise_is_the_published_one(images, severity, scale):
    found = corrupt("gaussian_noise", images, severity=severity)
    pixels = pixels_of(images[1])
    noise = draws_of("gaussian_noise", severity, 9).normal(size=pixels.shape, scale=scale)
    expected = (np.clip(pixels / 255 + noise, 0, 1) * 255).astype(np.uint8)
    assert (pixels_of(found[1]) == expected).all()


@pytest.mark.parametrize(("severity", "rate"), [(1, 60), (5, 3)])
def test_shot_noise_is_the_published_one(images, severity, rate):
    pixels = pixels_of(images[0])
    expected = np.clip(draws_of("shot_noise", severity, 5).poisson(pixels / 255 * rate) / rate, 0, 1) * 255
    assert (pixels_of(corrupt("shot_noise", images, severity=severity)[0]) == expected.astype(np.uint8)).all()


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (2, 18), (5, 7)])
def test_jpeg_compression_is_pillows(images, severity, quality):
    file = io.BytesIO()
    Image.fromarray(pixels_of(images[0])).save(file, "JPEG", quality=quality)
    assert (pixels_of(corrupt("jpeg_compression", images, severity=severity)[0]) == np.array(Image.open(file))).all()


@pytest.mark.parametrize("name", EVERY)
def test_an_image_does_not_depend_on_its_batch_and_the_global_state_stays(name, images):
    np.random.seed(3)
    state, torch_state = np.random.get_state(), torch.get_rng_state()
    found = corrupt(name, images)
    for one, other in zip(np.random.get_state(), state, strict=True):
        assert np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert torch.equal((found * 255).round() / 255, found), "in 8 bits"
    np.random.seed(4)
    assert torch.equal(corrupt(name, images[1:], ids=(9,)), found[1:])
    assert not torch.equal(found, images)


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "motion_blur", "frost", "elastic_transform"])
def test_random_numbers_differ_between_images_and_seeds(name, images):
    twice = images[:1].expand(2, -1, -1, -1)
    one, other = corrupt(name, twice)
    assert not torch.equal(one, other)
    assert not torch.equal(corrupt(name, twice, seed=2)[0], one)


def test_severity_grows():
    """On a smooth picture: each severity changes it more."""
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64).contiguous()
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "contrast", "brightness"):
        changes = [(corrupt(name, ramp, severity=severity, ids=(1,)) - ramp).abs().mean() for severity in range(1, 6)]
        assert changes == sorted(changes), name


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="choose from gaussian_noise, .*jpeg_compression, and 1 to 5"):
        Corruption("rain", severity=1)
    with pytest.raises(ValueError, match="1 to 5"):
        Corruption("fog", severity=6)
    with pytest.raises(UserError, match="at least 32x32"):
        corrupt("fog", torch.rand(1, 3, 31, 40), ids=(1,))


@pytest.mark.parametrize("missing", ["imagecorruptions", "cv2"])
def test_a_missing_package_names_its_command(missing, images, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("imagecorruptions")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match="make extras"):
        corrupt("fog", images)
