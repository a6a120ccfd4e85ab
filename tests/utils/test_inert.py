"""Values of other programs in a checkpoint: read as plain values by stand-ins that call nothing."""
import argparse
import collections
import datetime
import itertools
import pathlib
import pickle
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

from utils import checkpoint, inert
from utils.errors import UserError

NAMES = [name for _, name in inert.ALLOWED]
DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", ">i2", ">f8", ">c16"]


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def reread(request, tmp_path):
    """A function that writes a value beside weights, in either format, and returns what is read of it."""
    def run(value):
        path = tmp_path / "a.pth"
        torch.save({"model": {"w": torch.ones(2)}, "x": value}, path, _use_new_zipfile_serialization=request.param)
        loaded = checkpoint.load(path)
        assert torch.equal(checkpoint.model_state(loaded)["w"], torch.ones(2))
        return loaded.get("x", "dropped")

    return run


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_numbers_and_arrays_are_read(reread, dtype):
    values = np.array([[1, 0, 3], [4, 5, 0]]).astype(dtype)
    for value in values.flat:
        read = reread(value)
        assert type(read) is type(value.item()) and read == value.item()
    for array in (values, np.asfortranarray(values), values[:, 1], values[:0], np.array(values[0, 0])):
        read = reread(array)
        assert isinstance(read, torch.Tensor) and read.tolist() == array.tolist() and list(read.shape) == [*array.shape]


@pytest.mark.parametrize(("value", "expected"), [
    (np.str_("héß"), "héß"), (np.bytes_(b"ab"), "ab"), (np.datetime64("2020-01-01"), None), (np.longdouble(1), None),
    (np.array(["a", "b"]), None), (np.array([None, "a"], dtype=object), None),
    (pathlib.PurePosixPath("/a/b/c"), "/a/b/c"), (pathlib.PurePosixPath("a/b"), "a/b"), (pathlib.Path("a"), "a"),
    (argparse.Namespace(lr=0.1, out=pathlib.Path("/x"), seen=np.int64(3)), "dropped"),
    (types.SimpleNamespace(a=1), "dropped"), (datetime.datetime(2020, 1, 2), "dropped"),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ({"deep": [{"array": np.arange(3)}]}, {"deep": [{"array": torch.arange(3)}]}),
], ids=str)
def test_other_values_are_read_or_dropped(reread, value, expected):
    read = reread(value)
    assert str(read if not isinstance(read, OrderedDict) else dict(read)) == str(expected)


def test_a_checkpoint_of_torchvisions_training_script_is_read(tmp_path):
    model = torch.nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    args = argparse.Namespace(data_path=pathlib.Path("/data"), lr=0.1, device="cuda", weights=None)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "lr_scheduler": torch.optim.lr_scheduler.PolynomialLR(optimizer).state_dict(), "epoch": 3,
                "args": args}, tmp_path / "model_3.pth")
    loaded = checkpoint.load(tmp_path / "model_3.pth")
    assert "args" not in loaded and loaded["epoch"] == 3
    assert torch.equal(checkpoint.model_state(loaded)["weight"], model.weight)


def test_no_name_stands_for_anything_but_a_stand_in():
    """NumPy's own dtype and ndarray, and every class or function of a library, stay out of reach."""
    assert {stand_in.__module__ for stand_in, _ in inert.ALLOWED} == {"utils.inert"} and len(set(NAMES)) == len(NAMES)


def write_call(path, name, argument, state):
    """Write a pickle that calls `name` with these arguments and gives the result this state, as any object has one."""
    module, _, attribute = name.rpartition(".")
    body = (b"\x80\x02}(X\x01\x00\x00\x00x" + f"c{module}\n{attribute}\n".encode() + pickle.dumps(argument, 2)[2:-1]
            + b"R" + pickle.dumps(state, 2)[2:-1] + b"bu.")
    before = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in before) + body + pickle.dumps([], 2))


ARGUMENTS = [(), ("touch witness",), ("f8", False, True), (None, (2**40,), "b"), (["x"],)]
STATES = [{"__class__": "os.system", "decode": "print", "tensor": "x"}, (3, "<", None, ("a",), {"a": 5}, -1, -1, 0),
          (1, (2**40,), "f8", False, "x"), (1, (2,), None, False, b"")]


@pytest.mark.parametrize("name", NAMES)
def test_whatever_an_allowed_name_is_given_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for argument, state in itertools.product(ARGUMENTS, STATES):
        write_call(tmp_path / "evil.pth", name, argument, state)
        try:
            loaded = checkpoint.load(tmp_path / "evil.pth")
            assert type(loaded.get("x")) in (type(None), str, bytes, int, float, OrderedDict)
        except UserError as error:
            assert "evil.pth" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_refused_where_it_is_not_allowed(tmp_path, monkeypatch, name):
    """So each entry has an effect: it is the name under which some file has it."""
    monkeypatch.setattr(checkpoint, "ALLOWED", [entry for entry in inert.ALLOWED if entry[1] != name])
    write_call(tmp_path / "a.pth", name, (), None)
    with pytest.raises(UserError, match=name.removeprefix("builtins.").split(".")[-1]):
        checkpoint.load(tmp_path / "a.pth")
