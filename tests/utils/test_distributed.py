"""Collectives on 2 and 3 gloo ranks, alone, and under the real torchrun."""
import subprocess
import sys

import pytest
import torch

from tests import ranks
from tests.ranked import collectives
from utils import distributed


@pytest.fixture
def alone(monkeypatch):
    """No torchrun around these tests either."""
    for name in distributed.TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def test_in_a_single_process_nothing_happens(alone):
    distributed.join_group(torch.device("cpu"))
    assert not distributed.in_group()
    found = collectives.everything()
    assert found["who"] == (0, 1, 0, True, False) and found["any"] == [False, True, True]
    assert found["total"] == [[1] * 3] * 2 and found["gathered"] == [{"rank": 0}] and found["told"] == "from 0"
    tensor = torch.ones(2)
    assert distributed.sum_over_ranks(tensor) is tensor
    assert collectives.failures() == {"main first": "on 0", "last": "on 0",
                                      "all": "on 0", "none": "nothing"}
    distributed.leave_group()


def test_before_there_is_a_group_torchruns_environment_counts(monkeypatch):
    for name, value in zip(distributed.TORCHRUN, ("5", "8", "1", "host", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    who = distributed.rank(), distributed.world_size(), distributed.local_rank()
    assert who == (5, 8, 1) and not distributed.is_main() and distributed.launched()
    with distributed.main_first():
        assert distributed.gather_to_main(3) == [3]
    monkeypatch.delenv("MASTER_PORT")
    assert not distributed.launched() and distributed.rank() == 0


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_collectives(n):
    found = ranks.run(collectives.everything, n=n)
    assert [each["who"] for each in found] == [(rank, n, rank, rank == 0, True) for rank in range(n)]
    for rank, each in enumerate(found):
        assert each["total"] == [[n * (n + 1) // 2] * 3] * 2 and each["untouched"] == [[rank + 1] * 3] * 2
        assert each["strided"] == [[0, 3 * n], [n, 4 * n], [2 * n, 5 * n]]
        assert each["weights"] == list(range(16)) and each["counter"] == 5
        assert each["any"] == [False, True, True] and each["told"] == "from 0"
        assert each["gathered"] == ([{"rank": other} for other in range(n)] if rank == 0 else None)


@pytest.mark.slow
def test_rank_0_goes_first(tmp_path):
    assert ranks.run(collectives.in_order, str(tmp_path), n=3) == [[], ["download"], ["download"]]


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all():
    found = ranks.run(collectives.failures, n=3)
    assert [each["main first"] for each in found] == ["on 0", "rank 0 failed", "rank 0 failed"]
    assert [each["last"] for each in found] == ["rank 2 failed", "rank 2 failed", "on 2"]
    assert [each["all"] for each in found] == ["on 0", "rank 0 failed", "rank 0 failed"]
    assert [each["none"] for each in found] == ["nothing"] * 3


@pytest.mark.slow
def test_the_harness_shows_who_failed_and_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 1)
    with pytest.raises(AssertionError, match=r"^rank 0 of 2:\nnot done in time\nrank 1 of 2:\nTraceback") as error:
        ranks.run(collectives.fail_on, 1)
    assert "rank 1 has had enough" in str(error.value)


@pytest.mark.slow
def test_under_torchrun(tmp_path, root):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
               "tests.ranked.collectives", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, timeout=600)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0": "[{'rank': 0}, {'rank': 1}]", "1": "None"}
