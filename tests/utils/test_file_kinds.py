"""What is no checkpoint is named, with what to do, in one line."""
import gzip
import json
import zipfile

import pytest
import torch
from torch import nn

from utils import checkpoint
from utils.errors import UserError


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert path.name in message and "\n" not in message
    return message


def a_zip(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def safetensors(path):
    """The format: the header's length in 8 bytes, the header as JSON, the numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


KINDS = {
    "empty: copy or download": lambda path: path.write_bytes(b""),
    "an HTML page, not weights": lambda path: path.write_text("\n<!DOCTYPE html>\n<html><title>Google Drive</title>"),
    "an HTML page": lambda path: path.write_text("<HTML lang=en>"),
    "a server's error message": lambda path: path.write_text('{"message": "Not Found"}'),
    "server's error": lambda path: path.write_text("<?xml version='1.0'?><Error>AccessDenied</Error>"),
    "git lfs pull": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4"),
    "safetensors.torch.load_file": safetensors,
    "an ONNX graph": lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:" + bytes(100)),
    "other files (readme.txt, a.pth)": lambda path: a_zip(path, **{"readme.txt": "x", "a.pth": "x" * 999}),
    "a NumPy archive of w.npy": lambda path: a_zip(path, **{"w.npy": "x"}),
    "a gzip archive": lambda path: path.write_bytes(gzip.compress(b"x")),
    "it is text: name a file": lambda path: path.write_text("0.1 0.2\n"),
    "it is cut off: copy": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "it is damaged or no file of torch.save()": lambda path: path.write_bytes(bytes(range(1, 9)) + bytes(100)),
    "torch.jit.load": lambda path: torch.jit.script(nn.Linear(1, 1)).save(path),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # of making the file, not of reading it
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_named(tmp_path, kind, recwarn):
    path = tmp_path / "weights.pth"
    KINDS[kind](path)
    recwarn.clear()
    assert kind in refusal(path) and not recwarn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)


class Config:
    lr = 0.1


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("make", "name", "weights"), [
    (Net, "Net", "m.state_dict()"),
    (lambda: {"epoch": 3, "net": Net()}, "Net", 'm["net"].state_dict()'),
    (lambda: {"state_dict": Net().state_dict(), "config": Config()}, "Config", 'm["state_dict"]'),
    (lambda: {**Net().state_dict(), "config": Config()}, "Config", "for k, v in m.items() if torch.is_tensor(v)}"),
])
def test_a_pickled_class_is_named_and_the_statements_convert_it(tmp_path, monkeypatch, make, name, weights, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "whole.pth"
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert f"the class tests.utils.test_file_kinds.{name} as a pickle, which could run code" in message
    statements = message.partition("made in: ")[2]
    assert weights in statements
    exec(statements, {"torch": torch})  # noqa: S102, here is the environment that it was made in
    state = checkpoint.model_state(checkpoint.load(tmp_path / "weights.pth"))
    assert {key: list(value.shape) for key, value in state.items()} == {"conv.weight": [2, 3, 1, 1], "conv.bias": [2]}


def test_a_function_is_not_worth_converting(tmp_path):
    class Evil:
        def __reduce__(self):
            return (eval, ("1",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    assert "calls eval, which could run code" in refusal(tmp_path / "evil.pth")
    assert "weights_only=False" not in refusal(tmp_path / "evil.pth")
