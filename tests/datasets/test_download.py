import hashlib
import io
import os
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


def vars_of(info, values):
    for name, value in values.items():
        if name != "text":
            setattr(info, name, value)


@pytest.fixture
def serve(server, tmp_path, monkeypatch):
    """Serves a tar of the given members, texts or what TarInfo says of something else, as VOC2012."""
    def offer(members, md5=None, mode="w"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                if isinstance(text, dict):
                    vars_of(info, text)
                    text = text.get("text", "")
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
    assert "Traceback" not in str(error.value) and "\x1b" not in str(error.value)


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
    assert files_below(root) == []  # nobody shall unpack it by hand


def test_a_torn_archive_of_an_earlier_try_is_fetched_again(serve, server, root):
    serve(MEMBERS)
    root.mkdir()
    (root / "voc.tar").write_bytes(b"half an archive")
    train, _ = build_datasets("voc", data_root=root, download=True)
    assert len(train) == 1 and server.requests


def test_what_another_address_sends_is_checked_as_well(serve, server, root, tmp_path, monkeypatch):
    """A redirect, here of the kind that a captive network answers with."""
    serve(MEMBERS)
    (tmp_path / "served" / "login.html").write_text("<html>log in</html>")

    def moved(handler):
        handler.send_response(302)
        handler.send_header("Location", "/login.html")
        handler.end_headers()

    get = Quiet.do_GET
    monkeypatch.setattr(Quiet, "do_HEAD", lambda self: moved(self) if "tar" in self.path else SimpleHTTPRequestHandler
                        .do_HEAD(self), raising=False)
    monkeypatch.setattr(Quiet, "do_GET", lambda self: moved(self) if "tar" in self.path else get(self))
    refused(root, "corrupted")
    assert files_below(root) == []


def test_members_outside_are_refused(serve, root, tmp_path):
    before = files_below(tmp_path)
    serve({**MEMBERS, "../../escaped.txt": "x"})
    refused(root, "outside")
    assert set(files_below(tmp_path)) - set(before) == {"data/voc.tar", "served/voc.tar"}


VOC = "VOCdevkit/VOC2012"
LINK, HARD = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
# What a hostile archive holds besides VOC's files, in this order, and what the line says of it.
HOSTILE = {
    "up": ({"../../escaped": "x"}, "outside"),
    "up from within": ({f"{VOC}/../../../escaped": "x"}, "outside"),
    "a link out": ({f"{VOC}/link": {**LINK, "linkname": "../../../../escaped"}}, "neither"),
    "a link to an absolute name": ({f"{VOC}/link": {**LINK, "linkname": "/etc/passwd"}}, "neither"),
    "a link and a file through it": ({f"{VOC}/link": {**LINK, "linkname": "../../.."}, f"{VOC}/link/escaped": "x"},
                                     "neither"),
    "a link within": ({f"{VOC}/link": {**LINK, "linkname": "ImageSets"}}, "neither"),
    "the folder as a link": ({"VOCdevkit/VOC2007": {**LINK, "linkname": "VOC2012"}}, "neither"),
    "a hard link out": ({f"{VOC}/link": {**HARD, "linkname": "../../secret"}}, "neither"),
    "a hard link to an absolute name": ({f"{VOC}/link": {**HARD, "linkname": "/etc/passwd"}}, "neither"),
    "a device": ({f"{VOC}/null": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}}, "neither"),
    "a disk": ({f"{VOC}/disk": {"type": tarfile.BLKTYPE, "devmajor": 8}}, "neither"),
    "a pipe": ({f"{VOC}/pipe": {"type": tarfile.FIFOTYPE}}, "neither"),
    "a NUL in a name": ({f"{VOC}/a": {"pax_headers": {"path": f"{VOC}/a\0b"}}}, "null"),
    "a name beyond all": ({f"{VOC}/{'n' * 5000}": "x"}, "name too long|too long"),
    "control characters": ({f"{VOC}/\x1b[2J\nerror": {"type": tarfile.FIFOTYPE}}, "neither"),
    "more than it holds": ({f"{VOC}/sparse": {"pax_headers": {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "1099511627775,1",
        "GNU.sparse.size": "1099511627776"}, "text": "x"}}, "larger than the whole"),
}


@pytest.mark.skipif(os.name == "nt", reason="links and devices")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused_and_nothing_is_written(serve, root, tmp_path, kind):
    members, reason = HOSTILE[kind]
    (tmp_path / "secret").write_text("mine")
    before = set(tmp_path.rglob("*"))
    serve({**MEMBERS, **members})
    refused(root, reason)
    written = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}
    assert written == {"data", "data/voc.tar", "served/voc.tar"}
    assert (tmp_path / "secret").stat().st_nlink == 1 and not list(tmp_path.parent.glob("*escaped*"))


def test_an_absolute_name_and_mode_bits_are_tamed(serve, root, tmp_path):
    """The first lands in the folder that is thrown away, the others lose what makes a program of someone else."""
    serve({**MEMBERS, f"{tmp_path}/escaped": "x", f"{VOC}/tool": {"mode": 0o6777, "uid": 0, "text": "#!/bin/sh"}})
    build_datasets("voc", data_root=root, download=True)
    assert not (tmp_path / "escaped").exists()
    assert not (root / VOC / "tool").stat().st_mode & 0o7022
    assert files_below(root) == sorted([*MEMBERS, f"{VOC}/tool", "voc.tar"])


def test_files_that_are_there_are_not_overwritten(serve, root):
    """An archive can only bring the folder that wasn't there."""
    (root / "CamVid").mkdir(parents=True)
    (root / "CamVid" / "a.png").write_text("mine")
    (root / "VOCdevkit").mkdir()
    (root / "VOCdevkit" / "mine.txt").write_text("mine")
    serve({**MEMBERS, "CamVid/a.png": "theirs", "VOCdevkit/mine.txt": "theirs", "CAMVID/A.PNG": "theirs",
           ".bashrc": "theirs"})
    build_datasets("voc", data_root=root, download=True)
    assert (root / "CamVid" / "a.png").read_text() == (root / "VOCdevkit" / "mine.txt").read_text() == "mine"
    assert files_below(root) == sorted([*MEMBERS, "CamVid/a.png", "VOCdevkit/mine.txt", "voc.tar"])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_refused(serve, root, mode):
    """VOC's are not; one could unpack to any size."""
    serve(MEMBERS, mode=mode)
    refused(root, "failed")


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
