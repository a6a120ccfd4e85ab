"""Shared by all tests: where real images may lie, a small network, a real visdom server."""
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SEG_DATA", ROOT.parent / "shared" / "data"))  # holds CamVid/ and voc_mini/

SLOW = {"train", "trained", "saved", "whole_once", "start", "start_as_typed", "visdom_server", "visdom_port"}


def pytest_collection_modifyitems(items):
    """What uses a fixture that trains or starts a process is slow."""
    for item in items:
        if SLOW & {*item.fixturenames} and "attacks" not in item.path.parts:  # whose `trained` takes half a second
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def camvid_root() -> Path:
    return _present(DATA / "CamVid")


@pytest.fixture
def voc_root() -> Path:
    return _present(DATA / "voc_mini")


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; SEG_DATA names the folder that holds CamVid and voc_mini")
    return folder


@pytest.fixture
def one_thread():
    """Threads cost more than small tensors take, the more so on a busy machine: 3 s against 40 s."""
    yield from _one_thread()


@pytest.fixture(scope="module")
def one_thread_in_module():
    """The same for a module's own fixtures too: sums by one thread have other bits than those by two."""
    yield from _one_thread()


def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Toy(nn.Module):
    """A small network with everything that an attack could disturb: BatchNorm, dropout, normalisation inside."""

    def __init__(self, num_classes=4, width=6):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(width, num_classes, 3, padding=1))

    def forward(self, images):
        return self.body((images - 0.45) / 0.22)


@pytest.fixture
def toy() -> nn.Module:
    torch.manual_seed(0)
    model = Toy()
    model.train()
    with torch.no_grad():  # running statistics that differ from the defaults
        model(torch.rand(8, 3, 12, 12))
    return model.eval()


@pytest.fixture
def batch():
    """Images [3, 3, 12, 10] in [0, 1] with exact zeros and ones, labels [3, 12, 10] of 4 classes with a void corner."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 12, 10, generator=generator)
    images[:, :, 0], images[:, :, 1] = 0, 1
    labels = torch.randint(0, 4, (3, 12, 10), generator=generator)
    labels[:, :4, :4] = 255
    return images, labels


@pytest.fixture
def start():
    """A function that starts main.py with these flags; Started in tests/processes.py says how."""
    started = []

    def run(*flags, **how):
        from tests.processes import Started

        started.append(Started(*flags, **how))
        return started[-1]

    yield run
    for process in started:
        process.end()


@pytest.fixture
def free_port() -> int:
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def visdom_server(tmp_path_factory):
    """(port, process) of a visdom server that a test may kill."""
    with _visdom(tmp_path_factory.mktemp("visdom")) as server:
        yield server


@pytest.fixture(scope="session")
def visdom_port(tmp_path_factory):
    """The port of a visdom server for all tests, which have environments of their own in it."""
    with _visdom(tmp_path_factory.mktemp("visdom")) as (port, _):
        yield port


@contextmanager
def _visdom(folder: Path):
    """Started without its download of scripts."""
    port = _free_port()
    command = [sys.executable, "-c", "from visdom.server.run_server import main; main()", "-port", str(port),
               "-env_path", str(folder), "-bind_local"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not _answers(port):
            assert time.monotonic() < deadline and process.poll() is None, "the visdom server didn't start"
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def visdom_windows():
    """A function (port, env) -> {window: its data}, read through the server's API."""
    def read(port, env="main") -> dict:
        import visdom

        client = visdom.Visdom(port=port, env=env, use_incoming_socket=False, raise_exceptions=True)
        return json.loads(client.get_window_data(win=None, env=env))

    return read
