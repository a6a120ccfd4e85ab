import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision import tv_tensors

from datasets.transforms import IGNORE, RandomScale, make_train_transform, make_val_transform

COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
MEAN = torch.tensor([0.485, 0.456, 0.406])


def blocks(height, width, side=10):
    """A label of flat blocks, 4 at random places, and the image that shows it in COLOURS."""
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.integers(0, 4, (height // side + 1, width // side + 1)).astype(np.uint8))
    label = label.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]
    return tv_tensors.Image(COLOURS[label.long()].permute(2, 0, 1).contiguous()), tv_tensors.Mask(label)


def interior(label):
    """Where a 3x3 window holds one label: [H, W] of bool, without the frame."""
    windows = label.unfold(0, 3, 1).unfold(1, 3, 1).flatten(-2)
    return windows.amin(-1) == windows.amax(-1)


@pytest.mark.parametrize("height, width, crop", [(80, 150, 120), (150, 80, 65), (40, 30, 97)])
def test_train_keeps_image_and_label_aligned(height, width, crop):
    pair, transform = blocks(height, width), make_train_transform(crop)
    for seed in range(25):
        torch.manual_seed(seed)
        image, label = transform(*pair)
        assert image.shape == (3, crop, crop) and image.dtype == torch.float32
        assert type(image) is torch.Tensor and type(label) is torch.Tensor
        assert label.shape == (crop, crop) and label.dtype == torch.int64
        assert set(label.unique().tolist()) <= {0, 1, 2, 3, IGNORE}
        inside = interior(label) & (label[1:-1, 1:-1] != IGNORE)
        expected = COLOURS[label[1:-1, 1:-1][inside].clamp(max=4)] / 255  # [N, 3]
        # Antialiasing mixes in what is up to two pixels away; the dominant colour is the label's own.
        assert ((image[:, 1:-1, 1:-1].permute(1, 2, 0)[inside] - expected).abs().amax(-1) < 0.5).all()


def test_padding_is_ignored_and_the_mean_pixel_and_only_on_the_short_side():
    image = tv_tensors.Image(torch.zeros(3, 20, 200, dtype=torch.uint8))
    label = tv_tensors.Mask(torch.ones(20, 200, dtype=torch.uint8))
    rows = []
    for seed in range(50):
        torch.manual_seed(seed)
        out, target = make_train_transform(60)(image, label)
        padded = target == IGNORE
        assert padded.any() and torch.equal(padded, padded[:, :1].expand(60, 60))  # whole rows, no columns
        assert torch.equal(padded, (out - MEAN[:, None, None]).abs().amax(0) <= 0.5 / 255)
        rows.append(int((~padded[:, 0]).sum()))
    assert 10 <= min(rows) < 13 and 37 < max(rows) <= 40  # 20 rows, scaled by 0.5 to 2


def test_large_enough_images_are_not_padded():
    pair = blocks(100, 100)
    for seed in range(10):
        torch.manual_seed(seed)
        assert (make_train_transform(50)(*pair)[1] != IGNORE).all()


def test_ignored_pixels_stay_ignored():
    image, label = blocks(60, 60)
    label[20:40] = IGNORE
    torch.manual_seed(0)
    assert set(make_train_transform(30)(image, label)[1].unique().tolist()) <= {0, 1, 2, 3, IGNORE}


def test_scale_covers_its_range_and_is_the_same_for_both_sides():
    torch.manual_seed(0)
    image, label = blocks(100, 200)
    sizes = np.array([RandomScale(0.5, 2.0)(image, label)[0].shape[1:] for _ in range(300)])
    assert abs(sizes[:, 1] - 2 * sizes[:, 0]).max() <= 1
    factor = sizes[:, 0] / 100
    assert 0.5 <= factor.min() < 0.52 and 1.98 < factor.max() <= 2.0
    assert abs(factor.mean() - 1.25) < 0.08


def test_tiny_images_survive_scaling():
    image, label = tv_tensors.Image(torch.zeros(3, 1, 1, dtype=torch.uint8)), tv_tensors.Mask(torch.zeros(1, 1).byte())
    for seed in range(5):
        torch.manual_seed(seed)
        assert make_train_transform(9)(image, label)[1].shape == (9, 9)


def test_scaled_labels_are_not_shifted_against_the_image():
    """The edge of a step image lies where its label changes, on average to a fraction of a pixel."""
    image = torch.zeros(3, 4, 200, dtype=torch.uint8)
    image[:, :, 93:] = 255
    label = (image[0] > 0).byte()
    shifts = []
    for factor in np.linspace(0.5, 2, 61):
        out, target = RandomScale(factor, factor)(tv_tensors.Image(image), tv_tensors.Mask(label))
        shifts.append(float(target[0].sum()) - float(out[0, 0].sum()) / 255)
    assert abs(np.mean(shifts)) < 0.1 and np.abs(shifts).max() < 0.75


def test_flip_turns_half_of_the_pairs():
    image = tv_tensors.Image(torch.zeros(3, 20, 20, dtype=torch.uint8))
    label = tv_tensors.Mask(torch.zeros(20, 20, dtype=torch.uint8))
    image[..., 10:], label[:, 10:] = 255, 1
    torch.manual_seed(0)
    transform = make_train_transform(40)
    pairs = [transform(image, label) for _ in range(200)]
    turned = 0
    for out, target in pairs:
        ones, zeros = (target == 1).nonzero()[:, 1].float(), (target == 0).nonzero()[:, 1].float()
        turned += bool(ones.mean() < zeros.mean())
        assert out[0][target == 1].mean() > out[0][target == 0].mean()
    assert 70 <= turned <= 130


def test_same_seed_same_crop():
    pair, transform = blocks(80, 60), make_train_transform(33)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(transform(*pair))
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not torch.equal(runs[0][0], runs[2][0])


def test_val_native_only_converts():
    image, label = blocks(37, 53)
    label[0, 0] = IGNORE
    out, target = make_val_transform()(image, label)
    assert torch.equal(out, image.as_subclass(torch.Tensor).float() / 255)
    assert torch.equal(target, label.as_subclass(torch.Tensor).long())


@pytest.mark.parametrize("height, width", [(90, 145), (145, 90), (64, 64), (30, 45)])
def test_val_crop_is_resize_of_the_short_side_and_centre_crop(height, width):
    """The same with PIL, which VainF's protocol was defined by."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels = rng.integers(0, 21, (height, width)).astype(np.uint8)  # odd sides: no ties between two pixels
    image, label = make_val_transform(64)(tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
                                     tv_tensors.Mask(torch.from_numpy(labels)))
    size = (64, int(64 * height / width)) if width <= height else (int(64 * width / height), 64)
    left, top = round((size[0] - 64) / 2), round((size[1] - 64) / 2)

    def by_pil(array, method):
        return np.array(PILImage.fromarray(array).resize(size, method))[top:top + 64, left:left + 64]

    assert torch.equal(label, torch.from_numpy(by_pil(labels, PILImage.NEAREST)).long())
    expected = torch.from_numpy(by_pil(pixels, PILImage.BILINEAR)).permute(2, 0, 1) / 255
    assert (image - expected).abs().max() <= 1.01 / 255
