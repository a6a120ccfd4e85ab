import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datasets import DATASETS, build_datasets, build_loaders
from utils.errors import UserError


def loaders(sets, **changes):
    return build_loaders(*sets, **{"batch_size": 3, "val_batch_size": 4, "num_workers": 0, "seed": 1, **changes})


class Dice(Dataset):
    """Gives what the three generators of a worker say."""

    same_size = True

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.rand(()), torch.tensor([np.random.rand(), random.random(), i])


@pytest.fixture
def voc_sets(voc_root):
    return build_datasets("voc", data_root=voc_root, crop_size=8)


def test_unknown_data_set_lists_the_known():
    with pytest.raises(UserError, match="nope.*" + ".*".join(DATASETS)):
        build_datasets("nope", data_root="x")


def test_training_batches():
    sets = build_datasets("synthetic", data_root=None, crop_size=33)
    loader, _ = loaders(sets, batch_size=50)
    batches = list(loader)
    assert len(batches) == len(loader) == 5  # of 256 images, the last 6 dropped
    images, labels = batches[0]
    assert images.shape == (50, 3, 33, 33) and labels.shape == (50, 33, 33)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64


def test_validation_is_in_order_and_whole_with_indices():
    sets = build_datasets("synthetic", data_root=None)
    _, loader = loaders(sets, val_batch_size=20)
    batches = list(loader)
    assert [len(batch[0]) for batch in batches] == [20, 12]
    indices = torch.cat([batch[2] for batch in batches])
    assert indices.dtype == torch.int64 and indices.tolist() == list(range(32))
    assert torch.equal(batches[1][0][0], sets[1][20][0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_seed_same_batches(num_workers):
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loader, _ = loaders((Dice(), Dice()), seed=seed, num_workers=num_workers, batch_size=2)
        np.random.seed(seed)
        random.seed(seed)
        runs.append(torch.cat([torch.cat([a[:, None], b], 1) for _ in range(2) for a, b in loader]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0][:, 3], runs[2][:, 3])
    epochs = runs[0].view(2, 8, 4)
    assert not torch.equal(epochs[0, :, 3], epochs[1, :, 3])  # each epoch shuffles anew
    for column in runs[0].T[:3]:
        assert len(column.unique()) == 16  # no two images, workers or epochs share a random number


def test_same_seed_same_augmentation_with_workers(voc_sets):
    runs = [[batch for _ in range(2) for batch in loaders(voc_sets, batch_size=2, num_workers=2)[0]] for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert all(map(torch.equal, one, other))


def test_validation_leaves_the_training_order_alone():
    orders = []
    for validate in (False, True):
        train_loader, val_loader = loaders((Dice(), Dice()), batch_size=2)
        if validate:
            list(val_loader)
        orders.append(torch.cat([b[:, 2] for _, b in train_loader]))
    assert torch.equal(*orders)


def test_validation_leaves_the_global_generator_alone():
    _, loader = loaders(build_datasets("synthetic", data_root=None))
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_persist():
    train, val = loaders((Dice(), Dice()), num_workers=1)
    assert train.persistent_workers and val.persistent_workers
    assert not loaders((Dice(), Dice()))[0].persistent_workers


def test_images_of_several_sizes_come_one_by_one(voc_sets, log):
    _, loader = loaders(voc_sets, batch_size=2)
    assert loader.batch_size == 1
    assert "--val_batch_size is 1, not 4" in log.text


def test_nothing_is_said_where_nothing_changes(voc_sets, voc_root, log):
    assert loaders(voc_sets, batch_size=2, val_batch_size=1)[1].batch_size == 1
    cropped = build_datasets("voc", data_root=voc_root, crop_size=8, crop_val=True)
    assert loaders(cropped, batch_size=2)[1].batch_size == 4
    assert log.text == ""


def test_too_few_training_images(voc_sets):
    with pytest.raises(UserError, match="--batch_size 3 .* 2 training images"):
        loaders(voc_sets)


def test_without_a_training_set(voc_sets):
    train_loader, val_loader = loaders((None, voc_sets[1]))
    assert train_loader is None and len(val_loader) == 1
