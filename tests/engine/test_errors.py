"""What the user can mend is one line on stderr and exit code 2; anything else stays a traceback."""
import multiprocessing
import os
import signal
import time
from contextlib import suppress

import pytest
import torch

from datasets import build_datasets, build_loaders
from engine.options import read_call
from engine.run import exits
from engine.run.exits import reported_errors
from engine.run.interrupts import held_signals
from utils import launch
from utils.distributed import OtherRankFailed
from utils.errors import UserError


@pytest.mark.parametrize(("error", "line", "code"), [
    (UserError("--lr: too high"), "error: --lr: too high", 2),
    (FloatingPointError("PGD: not finite"), "error: PGD: not finite", 1),
    (torch.OutOfMemoryError("CUDA out of memory\nTried to"), "error: the GPU's memory is full: raise --acc", 2),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), "error: the GPU's memory is full: raise --acc", 2),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "error: the GPU's memory is full: raise --acc", 2),
    (MemoryError("Unable to allocate 1 EiB"), "error: the machine's memory is full: raise --accumulate, ", 2),
])
def test_one_line_and_the_exit_code(error, line, code, capsys):
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == code and said.startswith(line)


def test_a_full_memory_names_the_flag_for_images_that_are_too_large(capsys):
    """With torch's own message, which it gives for an exbibyte on the CPU."""
    with pytest.raises(SystemExit) as stop, reported_errors():
        torch.empty(2**60, dtype=torch.uint8)
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said.startswith("error: the machine's memory is full")
    assert "give --window 512" in said


def test_ctrl_c_is_130_and_a_bug_stays_a_bug():
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    with pytest.raises(ZeroDivisionError), reported_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_an_import_that_swallows_exceptions_ends_the_call_after_it(signum, code):
    ended = []
    with pytest.raises(SystemExit) as stop, reported_errors():
        with held_signals(), suppress(BaseException):  # as NumPy and torch do while they are imported
            os.kill(os.getpid(), signum)
            time.sleep(0.05)
            ended.append("import")
        ended.append("call")
    assert stop.value.code == code and ended == ["import"]


@pytest.fixture
def rank_1(monkeypatch):
    """One of two processes that torchrun started, before they are joined; returns the seconds that it waited."""
    waited = []
    monkeypatch.setattr(exits.time, "sleep", waited.append)
    for name, value in zip(launch.TORCHRUN, ("1", "2", "1", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    return waited


def test_rank_0_goes_first_in_saying_what_is_wrong(rank_1, capsys):
    with pytest.raises(SystemExit) as stop, reported_errors():
        read_call(["--verify"])
    assert stop.value.code == 2 and rank_1 == [launch.RANK0_REPORTS_FIRST_SECONDS]
    out, err = capsys.readouterr()
    assert not out and err == "[rank 1] error: --verify runs in one process: start it with python main.py\n"
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise OtherRankFailed("rank 0 failed")
    assert stop.value.code == 2 and capsys.readouterr() == ("", "") and rank_1[1] > launch.RANK0_REPORTS_FIRST_SECONDS


def test_a_single_process_may_verify():
    assert read_call(["--verify"]).mode == "verify"


@pytest.mark.slow
def test_the_workers_end_with_the_command_though_its_traceback_keeps_the_loader():
    """On a GPU torch would wait five seconds for each worker that is left when Python exits."""
    before = multiprocessing.active_children()
    with pytest.raises(SystemExit), reported_errors():
        _, loader = build_loaders(None, build_datasets("synthetic", data_root=None)[1], batch_size=1, val_batch_size=2,
                                  num_workers=2, seed=1)
        for _ in loader:
            assert len([child for child in multiprocessing.active_children() if child not in before]) == 2
            raise UserError("stop")
    assert [child for child in multiprocessing.active_children() if child not in before] == []
