"""A process that dies, or a disk that fails, at any moment of a write: a whole checkpoint is always there."""
import errno
import itertools
import os
import random
import subprocess
import sys

import pytest
import torch

from utils import checkpoint
from utils.errors import UserError


def saved(number: int) -> dict:
    return {"model_state": {"w": torch.full((5000,), float(number))}, "cur_itrs": number}


def number_of(path) -> int:
    state = checkpoint.load(path)
    assert torch.equal(state["model_state"]["w"], saved(state["cur_itrs"])["model_state"]["w"])
    return state["cur_itrs"]


def dies_in_call(path, call: int, keep: int) -> bool:
    """Save number 9 in a child that dies, with no more ado than a SIGKILL, before its call-th call; whether it did."""
    if not (child := os.fork()):
        calls = itertools.count()

        def mortal(function):
            def called(*args, **kwargs):
                if next(calls) == call:
                    os._exit(9)
                return function(*args, **kwargs)
            return called

        class Torn:
            """A file of which half a write may be all that comes to the disk."""

            def __init__(self, file):
                self.file = file

            def write(self, data):
                if next(calls) == call:
                    self.file.write(bytes(data)[:len(data) // 2])
                    self.file.flush()
                    os._exit(9)
                return self.file.write(data)

            def __getattr__(self, name):
                return getattr(self.file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

        for name in ("fsync", "replace", "link", "unlink", "open"):
            setattr(os, name, mortal(getattr(os, name)))
        checkpoint.open = mortal(lambda *args: Torn(open(*args)))  # noqa: SIM115
        checkpoint.save(path, saved(9), keep=keep)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2, 4])
def test_whenever_it_dies_the_checkpoint_and_those_before_it_are_whole(tmp_path, keep):
    deaths = 0
    for call in itertools.count():
        folder = tmp_path / str(call)
        folder.mkdir()
        path = folder / "latest_x.pth"
        for number in range(1, 6):
            checkpoint.save(path, saved(number), keep=keep)
        died = dies_in_call(path, call, keep)
        assert number_of(path) in ((5, 9) if died else (9,))
        there = [number_of(other) for other in checkpoint.earlier(path)]
        assert there == sorted(there, reverse=True) and set(there) <= {1, 2, 3, 4, 5} and len(there) < max(keep, 2)
        checkpoint.save(path, saved(10), keep=keep)  # what it left is no obstacle
        assert number_of(path) == 10 and not list(folder.glob("*.tmp"))
        if not died:
            break
        deaths += 1
    assert deaths > 10


def test_keep(tmp_path):
    path = tmp_path / "latest_a_voc_os16.pth"
    for number in range(1, 7):
        checkpoint.save(path, saved(number), keep=3)
    assert {other.name: number_of(other) for other in tmp_path.iterdir()} == {
        "latest_a_voc_os16.pth": 6, "previous1_a_voc_os16.pth": 5, "previous2_a_voc_os16.pth": 4}
    checkpoint.save(path, saved(7), keep=1)
    assert [other.name for other in tmp_path.iterdir()] == [path.name]
    checkpoint.save(path, saved(8), keep=2)
    checkpoint.save(path, saved(9))  # no others are made, or deleted
    assert {other.name: number_of(other) for other in tmp_path.iterdir()} == {
        "latest_a_voc_os16.pth": 9, "previous1_a_voc_os16.pth": 7}


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    test_keep(tmp_path)
    path = tmp_path / "latest_a_voc_os16.pth"
    path.write_bytes(b"torn")
    checkpoint.reinstate(checkpoint.previous(path, 1), path)
    assert number_of(path) == 7 and path.with_name(path.name + ".damaged").read_bytes() == b"torn"


@pytest.mark.parametrize("seed", range(3))
def test_no_byte_of_the_weights_changes_unseen(tmp_path, seed):
    """torch.load itself takes a flipped bit, or a page of zeros after a power cut, for weights."""
    path, draw = tmp_path / "a.pth", random.Random(seed)
    checkpoint.save(path, saved(3))
    whole = path.read_bytes()
    first = whole.index(torch.full((50,), 3.0).numpy().tobytes())
    for _ in range(20):
        place = draw.randrange(first, first + 20000)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1:])
        with pytest.raises(UserError, match="a.pth can't be read .* damaged"):
            checkpoint.load(path)
    page = (first // 4096 + 1) * 4096
    path.write_bytes(whole[:page] + bytes(4096) + whole[page + 4096:])
    assert torch.load(path, weights_only=True)["model_state"]["w"].min() == 0  # as said
    with pytest.raises(UserError, match="a.pth can't be read .* damaged"):
        checkpoint.load(path)


def test_torn_at_any_length(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint.save(path, saved(3))
    whole = path.read_bytes()
    for length in [*range(0, 600, 7), *range(600, len(whole), 499), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="a.pth"):
            checkpoint.load(path)


FULL = """
import sys, torch
from utils import checkpoint
small, large = ({"model_state": {"w": torch.ones(n)}, "cur_itrs": n} for n in (10_000, 300_000))
path = sys.argv[1] + "/latest_x.pth"
checkpoint.save(path, small, keep=2)
try:
    checkpoint.save(path, large, keep=2)
except checkpoint.WriteError as error:
    print(error)
print(checkpoint.load(path)["cur_itrs"])
"""

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_a_full_disk(tmp_path, root):
    """A real one, of 512 KiB, in a name space of its own."""
    script = f'mount -t tmpfs -o size=512k none {tmp_path} && exec {sys.executable} -c "$1" {tmp_path}'
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", FULL], cwd=root,
                          capture_output=True, text=True)
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("this system mounts nothing for users")
    assert done.returncode == 0, done.stderr
    message, cur_itrs = done.stdout.splitlines()
    assert "latest_x.pth can't be written (No space left on device): make room there" in message and cur_itrs == "10000"
