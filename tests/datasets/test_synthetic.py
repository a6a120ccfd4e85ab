import numpy as np
import pytest
import torch

from datasets import build_datasets, build_loaders, check_dataset
from datasets.synthetic import LENGTHS, SHAPES, SIZE, VERSION


@pytest.fixture
def sets():
    return build_datasets("synthetic", data_root=None, crop_size=65)


def raw(dataset, i):
    return [tensor.as_subclass(torch.Tensor) for tensor in dataset.read_pair(i)]


def test_sizes_and_classes(sets):
    train, val = sets
    assert (len(train), len(val)) == (LENGTHS["train"], LENGTHS["val"])
    assert val.same_size and val.num_classes == len(val.class_names) == 5
    names = {dataset.name(i) for dataset in sets for i in range(len(dataset))}
    assert len(names) == sum(LENGTHS.values())
    image, label = val[0]
    assert image.shape == (3, SIZE, SIZE) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert label.shape == (SIZE, SIZE) and label.dtype == torch.int64
    check_dataset(val)


def test_every_class_and_void_occur_often_in_both_splits(sets):
    for dataset in sets:
        labels = torch.stack([raw(dataset, i)[1] for i in range(32)])
        share = torch.bincount(labels.flatten().long(), minlength=256) / labels.numel()
        assert share[:5].min() > 0.01 and 0.5 < share[0] < 0.9
        assert 0.001 < share[255] < 0.1


def test_same_whatever_the_order_and_the_global_generators(sets):
    train, _ = sets
    forward = [raw(train, i) for i in range(4)]
    torch.manual_seed(123)
    np.random.seed(123)
    again, _ = build_datasets("synthetic", data_root="anywhere")
    for i in (3, 1, 0, 2):
        assert all(map(torch.equal, forward[i], raw(again, i)))


def test_seed_split_and_index_make_another_image(sets):
    train, val = sets
    other, _ = build_datasets("synthetic", data_root=None, seed=2)
    images = [raw(train, 0)[0], raw(train, 1)[0], raw(val, 0)[0], raw(other, 0)[0]]
    assert len({image.numpy().tobytes() for image in images}) == 4


def test_ends_like_a_sequence(sets):
    _, val = sets
    assert len(list(val)) == len(val)
    with pytest.raises(IndexError):
        val.read_pair(len(val))


@pytest.mark.parametrize("crop_size", [33, 96, 160])
def test_any_crop_size(crop_size):
    train, val = build_datasets("synthetic", data_root=None, crop_size=crop_size, crop_val=True)
    assert train[0][0].shape == val[0][0].shape == (3, crop_size, crop_size)


@pytest.mark.parametrize("shape, points", [  # (u, v) inside and outside
    ("disc", {(0.7, 0.7): True, (0.75, 0.75): False}),
    ("square", {(0.8, 0.8): True, (0.9, 0): False}),
    ("triangle", {(0, 0): True, (0, -1.1): True, (0, 0.7): False, (0.9, -0.5): False}),
    ("ring", {(0, 0): False, (0.75, 0): True, (1.1, 0): False}),
])
def test_shapes(shape, points):
    distance = {function.__name__: function for function in SHAPES.values()}[shape]
    for point, inside in points.items():
        assert (distance(*map(np.array, point)) < 0) == inside


def test_cast_is_faint_and_dots_are_bold(sets):
    """On average a class is within a few grey levels of grey, on the side of its colour; its dots are far from it."""
    train, _ = sets
    images, labels = zip(*(raw(train, i) for i in range(64)), strict=True)
    pixels, labels = torch.stack(images).permute(0, 2, 3, 1).float() - 127.5, torch.stack(labels)
    for kind in range(1, 5):
        colour = torch.tensor(train.palette[kind]) - 127.5
        along = pixels[labels == kind] @ colour / colour.norm()
        assert 3 < along.mean() < 20
        assert along.quantile(0.95) > 60
    assert pixels[labels == 0].abs().flatten()[::10].quantile(0.95) < 15


def test_workers_draw_the_same_validation_images(sets):
    batches = []
    for num_workers in (0, 2):
        _, loader = build_loaders(None, sets[1], batch_size=1, val_batch_size=16, num_workers=num_workers, seed=1)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert all(map(torch.equal, one, other))


def test_another_version_is_another_data_set(sets):
    """Whoever changes what is drawn sees this fail, and raises VERSION: else old records would count for new images."""
    _, val = sets
    image, label = raw(val, 0)
    assert VERSION == 4 and val.digest().endswith("version 4")
    means = [round(image[channel].double().mean().item(), 1) for channel in range(3)]
    assert (means, label.unique().tolist(), int((label == 0).sum())) == (
        [129.3, 127.9, 127.2], [0, 1, 4, 255], 2795)
