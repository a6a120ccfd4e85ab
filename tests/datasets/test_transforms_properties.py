"""Transforms on random pairs: the image shows the label in colours, so that each pixel says what its label must be."""
import math

import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from datasets.transforms import IGNORE, MEAN_PIXEL, RandomScale, make_train_transform, make_val_transform

settings.register_profile("pairs", deadline=None, derandomize=True, database=None, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow])
often = settings(settings.get_profile("pairs"))
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))
crops, seeds = st.integers(2, 70), st.integers(0, 2**32 - 1)
CLASSES = (0, 1, 5, 20, 254, IGNORE)
# The corners of the colour cube, no two of which mix to a third nearer than to themselves, and none is the mean pixel.
COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]]).byte()
MEAN = torch.tensor(MEAN_PIXEL) / 255


@st.composite
def pairs(draw):
    """(image, label) of flat blocks of some of CLASSES, or of one; none so thin that shrinking to a half skips it."""
    counts = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (5, 3), (3, 6), (7, 7)]))
    small = 1 if counts == (1, 1) else 4
    blocks = draw(st.tuples(*(st.integers(small, 60 // count) for count in counts)))
    rng = np.random.default_rng(draw(seeds))
    kinds = torch.from_numpy(rng.choice(draw(st.lists(st.integers(0, 5), min_size=1)), counts))
    kinds = kinds.repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)
    image = COLOURS[kinds].permute(2, 0, 1).contiguous()  # [3, H, W]
    return tv_tensors.Image(image), tv_tensors.Mask(torch.tensor(CLASSES)[kinds].byte())


def transformed(transform, pair, seed):
    torch.manual_seed(seed)
    return transform(*pair)


def shown(image):
    """The class whose colour is nearest to each pixel, -1 where that is the mean pixel: [3, H, W] -> [H, W]."""
    colours = torch.cat([COLOURS / 255, MEAN[None]])  # [7, 3]
    nearest = (image.permute(1, 2, 0)[:, :, None] - colours).square().sum(-1).argmin(-1)
    return torch.tensor([*CLASSES, -1])[nearest]


def padding(image):
    """Where the image is the mean pixel: bool [H, W]. Mixed colours hardly ever are."""
    return (image - MEAN[:, None, None]).abs().amax(0) < 1e-6


def flat(label, reach):
    """Where all labels that are at most `reach` pixels away, on both axes, are the same: bool [H, W]; not at the frame,
    beyond which a crop has cut off others."""
    same = torch.zeros_like(label, dtype=torch.bool)
    side = 2 * reach + 1
    if min(label.shape) >= side:
        windows = label.unfold(0, side, 1).unfold(1, side, 1).flatten(-2)
        same[reach:-reach, reach:-reach] = windows.amin(-1) == windows.amax(-1)
    return same


def assert_a_sound_pair(image, label, shape, classes):
    assert type(image) is torch.Tensor and type(label) is torch.Tensor
    assert image.dtype == torch.float32 and label.dtype == torch.int64
    assert image.shape == (3, *shape) and label.shape == shape
    assert image.min() >= 0 and image.max() <= 1
    assert set(label.unique().tolist()) <= classes


@given(pairs(), crops, seeds)
@often
def test_training_pairs_stay_aligned_and_only_padding_is_new(pair, crop, seed):
    before = set(pair[1].unique().tolist())
    image, label = transformed(make_train_transform(crop), pair, seed)
    assert_a_sound_pair(image, label, (crop, crop), before | {IGNORE})
    padded = padding(image)
    assert (label[padded] == IGNORE).all()
    if IGNORE not in before:
        assert torch.equal(padded, label == IGNORE)
    # An antialiased pixel mixes what is up to two pixels away, in the middle of flat colour it is that colour.
    kinds = torch.where(padded, -1, label)
    inside = flat(kinds, 2)
    assert torch.equal(shown(image)[inside], kinds[inside])


@given(pairs(), crops, seeds)
@often
def test_padding_is_whole_rows_and_columns_and_as_many_as_are_lacking(pair, crop, seed):
    torch.manual_seed(seed)
    size = [*RandomScale(0.5, 2.0)(*pair)[1].shape]  # the first that make_train_transform draws, too
    image, _ = transformed(make_train_transform(crop), pair, seed)
    there = ~padding(image)
    kept = [min(side, crop) for side in size]
    assert [int(there.any(1).sum()), int(there.any(0).sum())] == kept and int(there.sum()) == kept[0] * kept[1]


@given(pairs(), crops, seeds)
@often
def test_a_seed_decides_and_the_image_has_no_say_in_the_label(pair, crop, seed):
    image, label = transformed(make_train_transform(crop), pair, seed)
    again = transformed(make_train_transform(crop), pair, seed)
    assert torch.equal(image, again[0]) and torch.equal(label, again[1])
    _, bare = transformed(make_train_transform(crop), (tv_tensors.Image(torch.zeros_like(pair[0])), pair[1]), seed)
    assert torch.equal(label, bare)


@given(pairs(), crops, seeds)
@often
def test_image_and_label_are_flipped_together(pair, crop, seed):
    transform, results = make_train_transform(crop), []
    (flip,) = [part for part in transform.transforms if isinstance(part, v2.RandomHorizontalFlip)]
    for p in (0.5, 0.0, 1.0):
        flip.p = p
        results.append(transformed(transform, pair, seed))
    drawn, never, always = results
    assert all(torch.equal(one, other.flip(-1)) for one, other in zip(always, never, strict=True))
    assert any(all(map(torch.equal, drawn, result)) for result in (never, always))


@given(pairs())
@often
def test_validation_at_native_size_changes_no_value(pair):
    image, label = make_val_transform()(*pair)
    assert_a_sound_pair(image, label, pair[1].shape, set(pair[1].unique().tolist()))
    assert torch.equal(label, pair[1].as_subclass(torch.Tensor).long())
    assert torch.equal(image, pair[0].as_subclass(torch.Tensor) / 255)
    assert torch.equal(shown(image), label)


@given(pairs(), crops, seeds)
@often
def test_validation_crops_are_aligned_and_never_padded(pair, crop, seed):
    image, label = transformed(make_val_transform(crop), pair, seed)
    assert_a_sound_pair(image, label, (crop, crop), set(pair[1].unique().tolist()))
    if (scale := crop / min(pair[1].shape)) >= 0.5:  # below, a pixel mixes several blocks
        inside = flat(label, 2 + math.ceil(scale))  # an enlarged pixel mixes over its own size
        assert torch.equal(shown(image)[inside], label[inside])
    other = transformed(make_val_transform(crop), pair, seed + 1)
    assert torch.equal(image, other[0]) and torch.equal(label, other[1])  # nothing is drawn


@given(sizes, crops, seeds)
@example((3, 1), 2, 3)  # each of the three is halved
@example((1, 3), 2, 3)
@example((2, 2), 2, 3)
@often
def test_where_every_pixel_has_a_colour_of_its_own_the_label_is_that_pixels(size, crop, seed):
    """Colours rise along both sides: a label that was read elsewhere than the image's pixel stands out."""
    rows, columns = torch.arange(size[0])[:, None].expand(size), torch.arange(size[1]).expand(size)
    image = torch.stack([rows * 4, columns * 4, rows * 0]).byte()
    label = (rows % 16) * 15 + (columns % 15)  # below 255
    pair = tv_tensors.Image(image), tv_tensors.Mask(label.byte())
    out, target = transformed(make_train_transform(crop), pair, seed)
    there = target != IGNORE
    seen_row, seen_column = out[0][there] * 255 / 4, out[1][there] * 255 / 4
    row, column = target[there] // 15, target[there] % 15
    # Within the pixel's own size, or at the picture's edge within the filter's; modulo the numbers' period.
    for seen, number, period in ((seen_row, row, 16), (seen_column, column, 15)):
        away = (seen - number + period / 2) % period - period / 2
        assert away.abs().max() <= 1.01
