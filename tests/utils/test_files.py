"""Files that are written completely or not at all, kept, and written by one process at a time."""
import os
import signal
import subprocess
import sys
import time

import pytest

from utils import files
from utils.errors import UserError
from utils.files import AppendOnly, keep_earlier, try_lock, write_atomically

REPLACING = """
import sys
from pathlib import Path
from utils.files import AppendOnly

file = AppendOnly(Path(sys.argv[1]))
print("locked", flush=True)
input()
file.replace("one line\\n")
file.write("another\\n")
file.close()
"""
HOLDING = """
import sys
from pathlib import Path
from utils.files import AppendOnly

file = AppendOnly(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    file.write(f"{number:08}\\n")
    print(number, flush=True)
input()
file.close()
"""
LOCKING = """
import sys
from utils.files import try_lock

file = open(sys.argv[1], "w")
print(try_lock(file, per_process=sys.argv[2] == "True"), flush=True)
input()
"""
FORKING = LOCKING.replace("input()", """
import os, time
if child := os.fork():
    print(child, flush=True)
time.sleep(60)
""")


@pytest.fixture
def start(root):
    """A function that starts a Python process with this code and these arguments."""
    started = []

    def run(code, *args):
        command = [sys.executable, "-c", code, *map(str, args)]
        started.append(subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_a_file_is_replaced_completely(tmp_path):
    path = tmp_path / "results.json"
    for text in ("first", "zwei ü"):
        write_atomically(path, text)
    assert path.read_text(encoding="utf-8") == "zwei ü" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "first")
    path.with_name("results.json.tmp").mkdir()  # stands for a disk that cannot be written
    for keep_old in (False, True):
        with pytest.raises(OSError):
            write_atomically(path, "second", keep_old=keep_old)
    assert path.read_text() == "first" and len(list(tmp_path.iterdir())) == 2


def test_earlier_files_are_kept_under_the_first_free_number(tmp_path):
    path = tmp_path / "results.json"
    for number in range(3):
        write_atomically(path, str(number), keep_old=True)
    found = {other.name: other.read_text() for other in tmp_path.iterdir()}
    assert found == {"results.json": "2", "results.1.json": "0", "results.2.json": "1"}


def test_an_earlier_folder_is_kept(tmp_path):
    folder = tmp_path / "report"
    keep_earlier(folder)
    assert not list(tmp_path.iterdir())
    for number in range(2):
        folder.mkdir()
        (folder / str(number)).touch()
        keep_earlier(folder)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["report.1/0", "report.2/1"]


def test_what_was_appended_is_read_back(tmp_path):
    file = AppendOnly(tmp_path / "new" / "a.jsonl")
    assert file.read() == b""
    file.write("one\n")
    file.write("zwei ü\n")
    assert file.read() == "one\nzwei ü\n".encode()
    file.truncate(4)
    file.write("two\n")
    file.close()
    file.close()  # a second time does nothing
    assert (tmp_path / "new" / "a.jsonl").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("after", [1, 30])
def test_killed_it_leaves_whole_lines(tmp_path, start, after):
    process = start(HOLDING, tmp_path / "a.jsonl", 100000)
    for _ in range(after):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    file = AppendOnly(tmp_path / "a.jsonl")
    lines = file.read().decode().splitlines()
    assert len(lines) >= after and lines == [f"{number:08}" for number in range(len(lines))]
    file.close()


def test_only_one_process_writes(tmp_path, start, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.2)
    path = tmp_path / "a.jsonl"
    process = start(HOLDING, path, 3)
    for _ in range(3):
        process.stdout.readline()
    with pytest.raises(UserError, match=r"a\.jsonl is being written by another process: wait for it to end or stop"):
        AppendOnly(path)
    assert path.read_bytes().count(b"\n") == 3, "others may read while it is written"
    process.communicate("\n")
    AppendOnly(path).close()


def test_a_lock_that_is_released_in_time_is_waited_for(tmp_path, start):
    process = start(HOLDING, tmp_path / "a.jsonl", 1)
    process.stdout.readline()
    started = time.monotonic()
    process.stdin.write("\n")  # the process ends now, as the workers of a killed one soon do
    process.stdin.flush()
    AppendOnly(tmp_path / "a.jsonl").close()
    assert time.monotonic() - started < files.LOCK_WAIT


def test_a_closed_file_is_free_though_a_forked_worker_holds_it_open(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.0)
    file = AppendOnly(tmp_path / "a.jsonl")
    inherited = os.dup(file._file.fileno())  # what fork() does to a file
    with pytest.raises(UserError):
        AppendOnly(tmp_path / "a.jsonl")
    file.close()
    AppendOnly(tmp_path / "a.jsonl").close()
    os.close(inherited)


@pytest.mark.parametrize("per_process", [False, True])
def test_a_lock_keeps_other_processes_out_until_it_ends(tmp_path, start, per_process):
    path = tmp_path / ".lock"
    with open(path, "w") as file:
        assert try_lock(file, per_process=per_process)
        second = start(LOCKING, path, per_process)
        assert second.stdout.readline() == "False\n"
    third = start(LOCKING, path, per_process)
    assert third.stdout.readline() == "True\n"
    with open(path, "w") as file:
        assert not try_lock(file, per_process=per_process)
        third.kill()
        third.wait()
        assert try_lock(file, per_process=per_process)


@pytest.mark.parametrize("per_process", [False, True])
def test_a_lock_of_the_process_is_not_its_childrens(tmp_path, start, per_process):
    """A worker outlives a killed run for seconds; with per_process it does not hold the run's lock."""
    parent = start(FORKING, tmp_path / ".lock", per_process)
    assert parent.stdout.readline() == "True\n"
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        with open(tmp_path / ".lock", "w") as file:
            assert try_lock(file, per_process=per_process) is per_process
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_counts_as_locked(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    with open(tmp_path / "a.jsonl", "w") as holder, open(tmp_path / "a.jsonl", "w") as other:
        assert try_lock(holder) and not try_lock(other)
        monkeypatch.setattr(files.fcntl, "flock", unsupported)
        assert try_lock(other)
        AppendOnly(tmp_path / "a.jsonl").close()
        monkeypatch.setattr(files, "fcntl", None)
        assert try_lock(other)
        AppendOnly(tmp_path / "a.jsonl").close()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_is_taken_back(tmp_path, monkeypatch, error):
    path = tmp_path / "a.jsonl"
    file = AppendOnly(path)
    file.write("one\n")

    def fail(_):
        assert path.stat().st_size > 4
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
            file.write("two\n")
    assert path.read_bytes() == b"one\n"
    file.write("three\n")
    file.close()
    assert path.read_bytes() == b"one\nthree\n"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "records").write_text("a file")
    with pytest.raises(UserError, match="can't be written .*--output_dir"):
        AppendOnly(tmp_path / "records" / "a.jsonl")


def test_a_file_is_replaced_whole_under_its_lock(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    file = AppendOnly(path)
    file.write("1\n2\n3\n")
    file.replace("3\n")
    file.write("4\n")
    assert path.read_text() == "3\n4\n" and file.read() == b"3\n4\n"
    with open(path) as other:
        assert not try_lock(other)
    monkeypatch.setattr(os, "fsync", fail_to_sync)
    with pytest.raises(UserError, match="make room"):
        file.replace("5\n")
    file.close()
    assert path.read_text() == "3\n4\n" and os.listdir(tmp_path) == ["a.jsonl"]


def fail_to_sync(descriptor):  # noqa: ARG001, as fsync
    raise OSError(28, "No space left on device")


def test_who_waits_for_the_lock_of_a_file_that_is_replaced_gets_the_new_one(tmp_path, start, monkeypatch):
    """Else its lines would go into the old file, which nobody sees any more."""
    path = tmp_path / "a.jsonl"
    first = start(REPLACING, path)
    assert first.stdout.readline() == "locked\n"
    waited = []

    def release(seconds):
        if not waited:
            first.communicate("\n")
        waited.append(seconds)

    monkeypatch.setattr(files.time, "sleep", release)
    file = AppendOnly(path)
    file.write("mine\n")
    file.close()
    assert waited and path.read_text() == "one line\nanother\nmine\n"
