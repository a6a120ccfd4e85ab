"""Checkpoints: whole or not at all, readable whoever of the three code bases wrote them, never run as code."""
import pickle

import numpy as np
import pytest
import torch

from utils import checkpoint
from utils.errors import UserError


def test_round_trip_of_tensors_and_plain_values(tmp_path):
    saved = {"cur_itrs": 3, "best_score": 0.5, "model_state": {"w": torch.arange(3.0)}, "options": {"eps": [0.1]}}
    checkpoint.save(tmp_path / "a.pth", saved)
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert torch.equal(loaded.pop("model_state")["w"], saved.pop("model_state")["w"]) and loaded == saved
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]  # no temporary file is left


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"cur_itrs": 1})

    def half(_, file):
        file.write(b"half a check")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(checkpoint.WriteError, match="a.pth can't be written .No space left on device.: make room"):
        checkpoint.save(path, {"cur_itrs": 2})
    assert checkpoint.load(path) == {"cur_itrs": 1} and [one.name for one in tmp_path.iterdir()] == ["a.pth"]


def numpy_1_spelling(path):
    """Rename numpy._core to numpy.core in the pickle inside a legacy-format file, as numpy 1 wrote it."""
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_the_numpy_best_score_of_vainf_and_sam_at(tmp_path, zipped, numpy_1):
    path = tmp_path / "best.pth"
    saved = {"cur_itrs": 9, "model_state": {"w": torch.ones(2)}, "best_score": np.float64(0.711)}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    if numpy_1 and zipped:
        pytest.skip("a zip holds lengths and checksums; the legacy file covers the spelling")
    if numpy_1:
        numpy_1_spelling(path)
    loaded = checkpoint.load(path)
    assert type(loaded["best_score"]) is float and loaded["best_score"] == 0.711


class Malicious:
    """Pickles to a call of this function."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path),
    lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    lambda value, path: path.write_bytes(pickle.dumps(value)),
])
def test_code_in_a_file_is_refused_not_run(tmp_path, write):
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    write({"model_state": Malicious(str(witness))}, path)
    with pytest.raises(UserError, match="evil.pth can't be read"):
        checkpoint.load(path)
    assert not witness.exists()


@pytest.mark.parametrize("value", [
    [1, 2], torch.ones(2), {"model_state": None}, {"model_state": torch.ones(2)}])
def test_what_holds_no_weights_is_one_line(tmp_path, value):
    torch.save(value, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="odd.pth is not a checkpoint"):
        checkpoint.load(tmp_path / "odd.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04torn", b"\x80\x02."])
def test_what_is_no_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="odd.pth") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_a_torn_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "torn.pth"
    checkpoint.save(path, {"model_state": {"w": torch.ones(1000)}})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="torn.pth"):
        checkpoint.load(path)


def test_missing_file_names_the_flag(tmp_path):
    with pytest.raises(UserError, match="none.pth.*--ckpt"):
        checkpoint.load(tmp_path / "none.pth")


def test_a_bare_state_dict_is_its_own_model_state():
    assert checkpoint.model_state({"w": 1}) == {"w": 1}
    for key in ("model_state", "state_dict", "model"):
        assert checkpoint.model_state({key: {"w": 1}, "cur_itrs": 1}) == {"w": 1}


def test_weights_in_a_dict_in_a_dict_are_found():
    for outer, inner in (("model_state_dict", None), ("net", None), ("state_dict", "model"), ("model", "state_dict")):
        weights = {"w": torch.ones(1)}
        assert checkpoint.model_state({"epoch": 1, outer: {inner: weights} if inner else weights}) is weights
