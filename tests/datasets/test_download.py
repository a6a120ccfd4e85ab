import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datasets import build_datasets
from datasets.voc import DATASET_YEAR_DICT
from utils.errors import UserError

MEMBERS = {"VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": "a\n",
           "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": "b\n"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    """An HTTP server of tmp_path/served that keeps the paths it was asked for in .requests."""
    (tmp_path / "served").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served")) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def serve(server, tmp_path, monkeypatch):
    """Serves a tar of the given members as VOC2012."""
    def offer(members, md5=None):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
        (tmp_path / "served" / "voc.tar").write_bytes(buffer.getvalue())
        monkeypatch.setitem(DATASET_YEAR_DICT, "2012", {
            "url": f"http://127.0.0.1:{server.server_port}/voc.tar", "base_dir": "VOCdevkit/VOC2012",
            "md5": md5 or hashlib.md5(buffer.getvalue()).hexdigest()})
    return offer


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(root, reason):
    with pytest.raises(UserError, match=f"--download.*{reason}") as error:
        build_datasets("voc", data_root=root, download=True)
    assert "\n" not in str(error.value)
    assert not (root / "VOCdevkit" / "VOC2012").exists()
    assert set(files_below(root)) <= {"voc.tar"}  # nothing half unpacked stays


def test_downloads_once(serve, server, root):
    serve(MEMBERS)
    train, val = build_datasets("voc", data_root=root, download=True)
    assert (train.name(0), val.name(0)) == ("a", "b")
    assert files_below(root) == [*sorted(MEMBERS), "voc.tar"]
    asked = len(server.requests)
    build_datasets("voc", data_root=root, download=True)
    assert asked > 0 and len(server.requests) == asked


def test_an_archive_that_is_there_is_not_fetched_again(serve, server, root):
    serve(MEMBERS)
    build_datasets("voc", data_root=root, download=True)
    (root / "VOCdevkit").rename(root / "old")
    asked = len(server.requests)
    build_datasets("voc", data_root=root, download=True)
    assert len(server.requests) == asked


def test_a_folder_that_is_there_is_not_touched(server, serve, voc_root):
    serve(MEMBERS)
    train, _ = build_datasets("voc", data_root=voc_root, download=True)
    assert len(train) == 2 and not server.requests


def test_wrong_md5_is_refused(serve, root):
    serve(MEMBERS, md5="0" * 32)
    refused(root, "corrupted")


def test_members_outside_are_refused(serve, root, tmp_path):
    before = files_below(tmp_path)
    serve({**MEMBERS, "../../escaped.txt": "x"})
    refused(root, "outside")
    assert set(files_below(tmp_path)) - set(before) == {"data/voc.tar", "served/voc.tar"}


def test_an_archive_without_the_folder_is_refused(serve, root):
    serve({"else/where.txt": "x"})
    refused(root, "VOC2012")


def test_no_archive(serve, root, tmp_path):
    serve(MEMBERS)
    (tmp_path / "served" / "voc.tar").unlink()
    refused(root, "404")


def test_no_server(serve, server, root):
    serve(MEMBERS)
    url = DATASET_YEAR_DICT["2012"]["url"].replace(str(server.server_port), "9")
    DATASET_YEAR_DICT["2012"]["url"] = url
    refused(root, "refused")
