"""SIGINT and SIGTERM to real processes: what clusters, spot machines and people send."""
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from tests.held import compute_for_minutes, hold_in
from utils import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]
ENDLESS = ["--total_itrs", "100000", "--val_interval", "100000", "--print_interval", "1"]


@pytest.fixture
def start_as_typed(root):
    """A function that starts the command itself, python main.py, with the real network."""
    started = []

    def run(*flags):
        process = subprocess.Popen([sys.executable, "main.py", *flags], cwd=root, text=True, start_new_session=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def until(process, text):
    """Read its lines up to one with this text."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()}")


def latest(folder):
    file, = folder.glob("latest_*.pth")
    return checkpoint.load(file)


@pytest.mark.parametrize(("signum", "code", "group"), [
    (signal.SIGINT, 130, True), (signal.SIGTERM, 143, False), (signal.SIGTERM, 143, True)])
def test_the_first_ends_the_run_after_its_iteration_and_the_printed_command_goes_on(
        start, start_as_typed, tmp_path, small, signum, code, group):
    """A Ctrl-C goes to the loader's processes too, and so may a SIGTERM. The Ctrl-C is to the command as it is typed,
    which trains the real network.
    """
    if signum == signal.SIGINT:
        start = start_as_typed
    process = start(*small, "--output_dir", str(tmp_path), *ENDLESS, "--num_workers", "2")
    until(process, "Itrs 2/")
    (os.killpg if group else os.kill)(process.pid, signum)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code and "Traceback" not in err
    assert f"{signal.Signals(signum).name}: stopping after this iteration" in err
    state = latest(tmp_path / "exp")
    stopped, = (line for line in out.splitlines() if line.startswith("Stopped after iteration "))
    assert f" {state['cur_itrs']}/100000; to continue: python main.py " in stopped and state["cur_itrs"] >= 2
    command = shlex.split(stopped.split("; to continue: python main.py ")[1])
    process = start(*command, "--total_itrs", str(state["cur_itrs"] + 1))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert latest(tmp_path / "exp")["cur_itrs"] == state["cur_itrs"] + 1


def test_a_reader_that_the_same_ctrl_c_has_ended_costs_nothing(start_as_typed, tmp_path, small):
    """main.py 2>&1 | tee: the terminal ends both."""
    process = start_as_typed(*small, "--output_dir", str(tmp_path), *ENDLESS)
    until(process, "Itrs 2/")
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    log = (tmp_path / "exp" / "log.txt").read_text()
    assert f"Stopped after iteration {latest(tmp_path / 'exp')['cur_itrs']}/100000; to continue: " in log


def test_one_training_at_a_time_in_a_folder(start, tmp_path, small):
    """And a run whose loading processes outlive it for some seconds keeps nobody out."""
    first = start(*small, "--output_dir", str(tmp_path), *ENDLESS, "--save_interval", "1", "--num_workers", "2")
    until(first, "Itrs 2/")
    before = (tmp_path / "exp" / "log.txt").read_text()
    out, err = start("--continue_training", "--output_dir", str(tmp_path)).communicate(timeout=600)
    assert f"error: {tmp_path / 'exp'} is being trained in by another process" in err
    assert (tmp_path / "exp" / "log.txt").read_text().startswith(before)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start("--continue_training", "--output_dir", str(tmp_path))
    assert "iteration " in until(second, "Training state restored")
    until(second, "Itrs ")


def test_the_second_ends_at_once(start, tmp_path, small):
    """In an iteration of minutes, whose end it doesn't wait for: nothing is written, what was there stays."""
    process = start(*small, "--output_dir", str(tmp_path), *ENDLESS, "--save_interval", "1",
                    first=compute_for_minutes)
    until(process, "In the iteration")
    process.send_signal(signal.SIGTERM)
    while "SIGTERM: stopping after this iteration" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)  # or it would be taken for an echo of the first
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143 and "Stopped after iteration" not in out + err and "Traceback" not in err
    assert latest(tmp_path / "exp")["cur_itrs"] == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_in_a_test_it_ends_what_is_found_being_kept(start, trained, tmp_path, workers):
    best, = (trained / "exp").glob("best_*.pth")
    process = start("--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--attack", "fgsm", "pgd",
                    "--eps", "2/255", "--steps", "100000", "--num_workers", workers)
    while not list(tmp_path.rglob("pgd_*.jsonl")):
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143 and not [line for line in err.splitlines() if line.startswith("error")]
    assert workers == "2" or "Traceback" not in err  # one may remark that nobody took the batch it was handing over
    assert "| fgsm" in out and "Results written to" in out


def test_several_processes_stop_together_and_go_on_to_the_same_bits(start, tmp_path, small):
    """With random starts and, without --sync_bn, BatchNorm statistics that each process has of its own."""
    flags = [*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--total_itrs", "12", "--val_interval", "6",
             "--print_interval", "4", "--optimizer", "SAM", "--no-sync_bn", "--adv", "--train_step", "1",
             "--lr", "0.1"]
    whole = start(*flags, "--exp_name", "whole", ranks=2)
    out, err = whole.communicate(timeout=600)
    assert whole.returncode == 0, err
    cut = start(*flags, "--exp_name", "cut", "--save_interval", "1", ranks=2, first=partial(hold_in, 5))
    until(cut, "In the iteration")
    cut.send_signal(signal.SIGTERM)  # to torchrun, which passes it on to both
    out, err = cut.communicate(timeout=600)
    assert "Stopped after iteration" in out and cut.returncode != 0
    assert "to continue: torchrun --nproc_per_node=2 main.py --continue_training" in out
    assert 4 <= latest(tmp_path / "cut")["cur_itrs"] < 12
    go_on = start("--continue_training", "--output_dir", str(tmp_path), "--exp_name", "cut", "--num_workers", "0",
                  ranks=2)
    out, err = go_on.communicate(timeout=600)
    assert go_on.returncode == 0, err
    one, other = (latest(tmp_path / name) for name in ("whole", "cut"))
    assert one["cur_itrs"] == other["cur_itrs"] == 12 and one["best_score"] == other["best_score"]
    for key, value in one["model_state"].items():
        assert torch.equal(value, other["model_state"][key]), key
    for mine, theirs in zip(one["ranks"], other["ranks"], strict=True):
        assert torch.equal(mine["rng"]["torch"], theirs["rng"]["torch"])
        assert all(torch.equal(*pair) for pair in zip(mine["buffers"], theirs["buffers"], strict=True))
    first, second = one["ranks"]
    assert not torch.equal(first["rng"]["torch"], second["rng"]["torch"])  # as said
    states = (state["optimizer_state"]["state"] for state in (one, other))
    for mine, theirs in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"])
