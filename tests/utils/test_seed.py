import random

import numpy as np
import pytest
import torch

from utils.seed import make_generator, seed_everything, seeded_by


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_same_seed_same_draws():
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_generators_depend_on_their_parts_alone():
    first = torch.rand(4, generator=make_generator(1, 2))
    torch.manual_seed(0)
    assert torch.equal(torch.rand(4, generator=make_generator(1, 2)), first)
    others = [torch.rand(4, generator=make_generator(*parts)) for parts in [(1, 3), (2, 2), (12,), (2, 1)]]
    assert not any(torch.equal(other, first) for other in others)


def test_a_stream_of_its_own_and_then_on_as_before():
    seed_everything(3)
    plain = [draws(), draws()]
    seed_everything(3)
    found = [draws()]
    with seeded_by(1, "sample", 2):
        inside = draws()
    with pytest.raises(KeyError), seeded_by(1, "sample", 3):
        assert all(a != b for a, b in zip(draws(), inside, strict=True))
        raise KeyError
    found.append(draws())
    assert found == plain
    with seeded_by(1, "sample", 2):
        assert draws() == inside
