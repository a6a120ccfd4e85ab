"""Record files: killed, continued, damaged, shared; the bytes are those of an evaluation that nothing disturbed."""
import inspect
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.records.store import Record, Records, read
from utils import files
from utils.errors import UserError
from utils.strict_json import canonical

HEADER = {"attack": {"attack": "pgd", "norm": "linf", "eps": 4 / 255, "steps": 10, "attack_loss": "ce"},
          "subject": {"model": "toy", "weights": "5e1f"}, "class_names": ["road", "sky", "tree"]}


def line(number, *, classes=3, **more):
    counts = [number + k for k in range(classes)]
    return {"image": f"img_{number}", "intersection": counts, "union": [count + 2 for count in counts],
            "pixels": [count + 1 for count in counts], "radius": 4 / 255, "loss": 0.1 * number, "forwards": 11,
            "backwards": 10, **more}


def write(folder, numbers, header=HEADER):
    with Records(folder, header, label="pgd") as records:
        records.append([line(number) for number in numbers])
    return records.path


def test_what_was_appended_is_read_back(tmp_path):
    with Records(tmp_path / "new" / "records", HEADER, label="pgd_linf_4-255_10steps") as records:
        assert len(records) == 0 and "img_0" not in records
        records.append([line(2), line(0, at_target=0.5)])
        records.append([line(1)])
        assert len(records) == 3 and "img_0" in records and "img_3" not in records
        assert records.lines(["img_1", "img_2"]) == [line(1), line(2)]
    assert records.path.parent == tmp_path / "new" / "records"
    assert records.path.name == records.stem + ".jsonl" and records.stem.startswith("pgd_linf_4-255_10steps_")
    header, lines = read(records.path)
    assert header == {"format": 1, **HEADER} and list(lines) == ["img_2", "img_0", "img_1"]
    assert lines["img_0"] == line(0, at_target=0.5)
    assert Record(records.path, header, lines).settings["eps"] == 4 / 255  # to the last bit


def test_counts_are_arrays_in_the_order_asked_for(tmp_path):
    with Records(tmp_path, HEADER, label="pgd") as records:
        records.append([line(number) for number in (0, 1, 2)])
        intersection, union, pixels = records.counts(["img_2", "img_0"])
        assert records.counts([])[0].shape == (0, 3)
    assert intersection.dtype == np.int64 and intersection.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert (union == intersection + 2).all() and (pixels == intersection + 1).all()


def test_the_file_name_follows_from_the_header_alone(tmp_path):
    reordered = {"class_names": HEADER["class_names"], "subject": HEADER["subject"], "format": 1,
                 "attack": dict(reversed(HEADER["attack"].items()))}
    other = {**HEADER, "subject": {**HEADER["subject"], "weights": "0000"}}
    stems = []
    for header in (HEADER, reordered, other):
        with Records(tmp_path, header, label="pgd") as records:
            stems.append(records.stem)
    assert stems[0] == stems[1] != stems[2] and len(stems[0]) == len("pgd_") + 8


def test_equal_values_of_any_type_give_equal_bytes(tmp_path):
    plain = line(1, radius=0.0, loss=0.5)
    other = {key: plain[key] for key in reversed(plain)}
    other |= {"intersection": np.array(plain["intersection"]), "union": torch.tensor(plain["union"]),
              "pixels": [np.int64(count) for count in plain["pixels"]], "radius": 0, "loss": torch.tensor(0.5),
              "forwards": np.int32(11)}
    paths = []
    for folder, value in (("a", plain), ("b", other)):
        with Records(tmp_path / folder, HEADER, label="pgd") as records:
            records.append([value])
            assert records.lines(["img_1"]) == [plain]
        paths.append(records.path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_image_is_recorded_once(tmp_path):
    path = write(tmp_path, [0, 1])
    whole = path.read_bytes()
    with Records(tmp_path, HEADER, label="pgd") as records:
        records.append([line(1, loss=9.0), line(0)])
        assert path.read_bytes() == whole and records.lines(["img_1"]) == [line(1)]
        records.append([line(2), line(2, loss=9.0)])
    assert read(path)[1]["img_2"] == line(2) and len(read(path)[1]) == 3


def test_an_evaluation_makes_its_records_the_newest(tmp_path):
    path = write(tmp_path, [0])
    os.utime(path, (1, 1))
    read(path)
    assert path.stat().st_mtime == 1
    write(tmp_path, [0])
    assert path.stat().st_mtime > 1e9


def test_torn_anywhere_it_goes_on_to_the_same_bytes(tmp_path):
    path = write(tmp_path, range(3))
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        header, lines = read(path)
        assert path.read_bytes() == whole[:size], "read() must not write"
        assert len(lines) == max(whole[:size].count(b"\n") - 1, 0) and bool(header) == (b"\n" in whole[:size])
        with Records(tmp_path, HEADER, label="pgd") as records:
            assert len(records) == len(lines)
            records.append([line(number) for number in range(3) if f"img_{number}" not in records])
        assert path.read_bytes() == whole, size


APPENDING = """
import sys
from engine.records.store import Records

{line}

with Records(sys.argv[1], {header!r}, label="pgd") as records:
    for number in range(int(sys.argv[2])):
        records.append([line(number)])
        print(number, flush=True)
    input()
"""


@pytest.fixture
def appender(root):
    """A function that starts a process which appends `count` lines one by one, and then waits."""
    started = []
    code = APPENDING.format(line=inspect.getsource(line), header=HEADER)

    def start(folder, count):
        command = [sys.executable, "-c", code, str(folder), str(count)]
        started.append(subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("after", [1, 30, 77])
def test_killed_it_goes_on_to_the_same_bytes(tmp_path, appender, after):
    process = appender(tmp_path / "killed", 100000)
    for _ in range(after):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Records(tmp_path / "killed", HEADER, label="pgd") as records:
        done = len(records)
        assert after <= done < 100000, "lines that append() has returned from are on the disk"
        records.append([line(number) for number in range(done + 5)])
    assert records.path.read_bytes() == write(tmp_path / "whole", range(done + 5)).read_bytes()


def test_only_one_process_writes(tmp_path, appender, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.2)
    process = appender(tmp_path / "shared", 3)
    for _ in range(3):
        process.stdout.readline()
    with pytest.raises(UserError, match=r"pgd_.*\.jsonl is being written by another process"):
        Records(tmp_path / "shared", HEADER, label="pgd")
    (path,) = (tmp_path / "shared").iterdir()
    assert len(read(path)[1]) == 3, "reports read while an evaluation writes"
    process.communicate("\n")
    with Records(tmp_path / "shared", HEADER, label="pgd") as records:
        assert len(records) == 3


def test_a_lock_that_is_let_go_in_time_is_waited_for(tmp_path, appender, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 600.0)  # a busy machine may take some for its end
    process = appender(tmp_path / "shared", 1)
    process.stdout.readline()
    process.stdin.write("\n")  # the process ends now, as the workers of a killed one soon do
    process.stdin.flush()
    with Records(tmp_path / "shared", HEADER, label="pgd") as records:
        assert len(records) == 1


def test_a_closed_file_is_free_though_a_forked_worker_holds_it_open(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.0)
    records = Records(tmp_path, HEADER, label="pgd")
    inherited = os.dup(records._file._file.fileno())  # what fork() does to a file
    with pytest.raises(UserError):
        Records(tmp_path, HEADER, label="pgd")
    records.close()
    Records(tmp_path, HEADER, label="pgd").close()
    os.close(inherited)


def damaged(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


BAD_LINES = {
    "no JSON": ("{garbage", "line 3 is damaged"), "nan": (json.dumps(line(1, loss=float("nan"))), "NaN"),
    "empty": ("", "line 3 is damaged"), "null": ("null", "not an image's line"),
    "two classes": (json.dumps(line(1, classes=2)), "intersection of img_1 is not a list of 3 ints"),
    "a float count": (json.dumps(line(1, union=[1, 2, 3.5])), "union of img_1"),
    "no pixels": (json.dumps({key: value for key, value in line(1).items() if key != "pixels"}), "pixels of img_1"),
    "text": (json.dumps(line(1, forwards="many")), "forwards of img_1 is not a number"),
    "twice": (json.dumps(line(0)), "img_0 is recorded twice")}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_damaged_line_is_named(tmp_path, name):
    text, problem = BAD_LINES[name]
    path = write(tmp_path, range(3))
    damaged(path, 3, text)
    before = path.read_bytes()
    for call in (lambda: read(path), lambda: Records(tmp_path, HEADER, label="pgd")):
        with pytest.raises(UserError) as error:
            call()
        assert f"{path}, line 3 is damaged" in str(error.value) and problem in str(error.value)
        assert "delete the line" in str(error.value)
    assert path.read_bytes() == before
    damaged(path, 3, json.dumps(line(1)))
    Records(tmp_path, HEADER, label="pgd").close()  # and the lock was let go


@pytest.mark.parametrize("header", [
    {"format": 2, **HEADER}, {"format": 1, **HEADER, "class_names": None}, {"format": 1, "attack": {}}, [], "text"])
def test_a_header_that_is_none_is_an_error(tmp_path, header):
    path = write(tmp_path, range(2))
    damaged(path, 1, json.dumps(header))
    for call in (lambda: read(path), lambda: Records(tmp_path, HEADER, label="pgd")):
        with pytest.raises(UserError, match="line 1 is damaged.*delete the file"):
            call()


def test_another_evaluations_header_is_an_error(tmp_path):
    path = write(tmp_path, range(2))
    damaged(path, 1, canonical({"format": 1, **HEADER, "subject": {"model": "other"}}))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"line 1: the header differs from this evaluation's: delete the file"):
        Records(tmp_path, HEADER, label="pgd")
    assert path.read_bytes() == before and len(read(path)[1]) == 2


@pytest.mark.parametrize("bad", [line(1, classes=4), line(1, loss=float("nan")), line(1, radius=float("inf")),
                                 {"image": "img_1"}])
def test_what_is_no_line_is_not_written(tmp_path, bad):
    path = write(tmp_path, [0])
    whole = path.read_bytes()
    with Records(tmp_path, HEADER, label="pgd") as records:
        with pytest.raises(ValueError):
            records.append([line(5), bad])
        assert path.read_bytes() == whole and "img_5" not in records
        records.append([line(1)])
    assert list(read(path)[1]) == ["img_0", "img_1"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_is_taken_back(tmp_path, monkeypatch, error):
    path = write(tmp_path, [0])
    whole = path.read_bytes()

    def fail(_):
        assert len(path.read_bytes()) > len(whole)
        raise error

    with Records(tmp_path, HEADER, label="pgd") as records:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
                records.append([line(1)])
        assert path.read_bytes() == whole and "img_1" not in records
        records.append([line(1)])
    assert path.read_bytes() == write(tmp_path / "whole", [0, 1]).read_bytes()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "records").write_text("a file")
    with pytest.raises(UserError, match="can't be written .*--output_dir"):
        Records(tmp_path / "records", HEADER, label="pgd")
