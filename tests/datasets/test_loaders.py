import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datasets import DATASETS, build_datasets, build_loaders, select_batches
from datasets.loaders import end_workers
from datasets.transforms import make_train_transform
from utils import distributed
from utils.errors import UserError
from utils.images import to_unit_range


def loaders(sets, **changes):
    return build_loaders(*sets, **{"batch_size": 3, "val_batch_size": 4, "num_workers": 0, "seed": 1, **changes})


class Dice(Dataset):
    """Gives what the three generators of a worker say."""

    same_size = True

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.rand(1, 1, 1), torch.tensor([np.random.rand(), random.random(), i])


@pytest.fixture
def voc_sets(voc_root):
    return build_datasets("voc", data_root=voc_root, crop_size=8)


def test_unknown_data_set_lists_the_known():
    with pytest.raises(UserError, match="nope.*" + ".*".join(DATASETS)):
        build_datasets("nope", data_root="x")


def take(loader, count, *, first=0):
    return list(islice(loader.iterate_from(first), count))


def test_training_batches():
    sets = build_datasets("synthetic", data_root=None, crop_size=33)
    loader, _ = loaders(sets, batch_size=50)
    assert len(loader) == 5  # of 256 images, the last 6 dropped
    images, labels = next(loader.iterate_from(0))
    assert images.shape == (50, 3, 33, 33) and labels.shape == (50, 33, 33)
    assert images.dtype == labels.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_bytes_become_what_torchvision_makes_of_them():
    sets = build_datasets("synthetic", data_root=None, crop_size=33)
    image, label = sets[0].read_pair(7)
    torch.manual_seed(3)
    expected = make_train_transform(33)(image, label)
    torch.manual_seed(3)
    as_bytes = sets[0].load_bytes(7)
    torch.manual_seed(3)
    item = sets[0][7]
    for images, labels in (item, (to_unit_range(as_bytes[0]), as_bytes[1].long())):
        assert torch.equal(images, expected[0]) and images.dtype == torch.float32
        assert torch.equal(labels, expected[1]) and labels.dtype == torch.int64


def test_an_epoch_has_every_image_at_most_once_and_the_next_another_order():
    loader, _ = loaders((Dice(), Dice()))
    epochs = torch.cat([batch[:, 2] for _, batch in take(loader, 6)]).view(3, 6).tolist()  # 2 batches of 3 of 8 images
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_validation_is_in_order_and_whole_with_indices():
    sets = build_datasets("synthetic", data_root=None)
    _, loader = loaders(sets, val_batch_size=20)
    batches = list(loader)
    assert [len(batch[0]) for batch in batches] == [20, 12]
    indices = torch.cat([batch[2] for batch in batches])
    assert indices.dtype == torch.int64 and indices.tolist() == list(range(32))
    assert torch.equal(batches[1][0][0], sets[1][20][0])


def drawn(*, first=0, count=8, **changes):
    loader, _ = loaders((Dice(), Dice()), batch_size=2, **changes)
    return torch.cat([torch.cat([a.flatten(1), b], 1) for a, b in take(loader, count, first=first)])  # [2 count, 4]


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    whole = drawn()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert torch.equal(drawn(num_workers=2), whole)  # on neither the workers nor the global generators
    for first in (3, 4, 6):
        assert torch.equal(drawn(first=first, count=2), whole[2 * first:2 * first + 4])  # nor where it was begun
    other = drawn(seed=2)
    assert not torch.equal(other[:, 3], whole[:, 3])
    for column in torch.cat([whole, other]).T[:3]:
        assert len(column.unique()) == 32  # no two images, epochs or seeds share a random number


def test_training_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    drawn()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_the_processes_of_torchrun_share_a_batch_out(monkeypatch):
    whole = [batch[:, 2].tolist() for _, batch in take(loaders((Dice(), Dice()), batch_size=4)[0], 4)]
    shares = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([batch[:, 2].tolist() for _, batch in take(loaders((Dice(), Dice()), batch_size=4)[0], 4)])
    assert all(len(share) == 2 for part in shares for share in part)
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


def test_validation_leaves_the_global_generator_alone():
    _, loader = loaders(build_datasets("synthetic", data_root=None))
    before = torch.get_rng_state()
    next(iter(loader))
    next(iter(select_batches(loader, [[3, 1]])))
    assert torch.equal(before, torch.get_rng_state())


def test_validations_workers_persist():
    assert loaders((Dice(), Dice()), num_workers=1)[1].persistent_workers
    assert not loaders((Dice(), Dice()))[1].persistent_workers


class Deaf(Dice):
    """Its workers stop listening to their parent, and never end by themselves."""

    def __getitem__(self, i):
        os._exit = lambda _: None
        time.sleep(600)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the thread that listens is Linux's")
def test_workers_that_do_not_end_are_killed():
    """Python waits for each of them at its exit."""
    before = multiprocessing.active_children()
    batches = loaders((Deaf(), Deaf()), batch_size=2, num_workers=1)[0].iterate_from(0)
    worker, = [child for child in multiprocessing.active_children() if child not in before]
    time.sleep(1)
    end_workers()
    worker.join(timeout=60)
    assert worker.exitcode == -signal.SIGKILL
    batches.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says who sent a signal")
def test_a_signal_from_others_leaves_a_worker_to_its_parent():
    """As from a terminal or a cluster, which send theirs to all processes of a job."""
    before = multiprocessing.active_children()
    batches = loaders((Dice(), Dice()), batch_size=2, num_workers=2)[0].iterate_from(0)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    assert len(workers) == 2
    for signum in ("INT", "TERM"):
        subprocess.run(["kill", f"-{signum}", *(str(worker.pid) for worker in workers)], check=True)
        assert len(list(islice(batches, 8))) == 8 and all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.terminate()
        worker.join()
        assert worker.exitcode == 0
    batches.close()


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
