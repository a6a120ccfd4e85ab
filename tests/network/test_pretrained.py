"""ImageNet weights: downloaded from a local server, checked by hash; every failure is a one-line error."""
import functools
import hashlib
import http.server
import logging
import pickle
import socket
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2, resnet50, resnet101

import network
from network.backbone.xception import Xception
from network.pretrained import PRETRAINED
from utils.errors import UserError
from utils.logging import logger

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def published_xception():
    """Build Xception's weights as published: 1x1 convolutions as matrices, no counters, a classifier."""
    state = {}
    for key, tensor in Xception(output_stride=16).state_dict().items():
        if not key.endswith("num_batches_tracked"):
            state[key] = tensor[:, :, 0, 0] if "pointwise" in key else tensor
    return {**state, "fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}


PUBLISHED = {
    "resnet50": lambda: resnet50().state_dict(),
    "resnet101": lambda: resnet101().state_dict(),
    "mobilenet": lambda: mobilenet_v2().state_dict(),
    "xception": published_xception,
}


def published(name):
    """Replace each tensor by one expanded value: a file of kilobytes with all keys and shapes."""
    with torch.device("meta"):
        state = PUBLISHED[name]()
    return {key: torch.rand(()).to(tensor.dtype).expand(tensor.shape) for key, tensor in state.items()}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A local web server: its folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


@pytest.fixture
def log(caplog):
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger=logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def publish(site, monkeypatch):
    """Serve a state dict as the weights of a backbone and return their address."""
    folder, address = site

    def put(name, state, *, digest=None, write=torch.save):
        path = Path(folder, "weights.pth")
        write(state, path)
        digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path.rename(folder / f"{name}-{digest}.pth")
        return use(name, f"{address}/{name}-{digest}.pth")

    def use(name, url):
        monkeypatch.setitem(PRETRAINED, name, PRETRAINED[name]._replace(url=url))
        return url

    put.use = use
    put.address = address
    return put


def refusal(name="mobilenet"):
    with pytest.raises(UserError) as caught:
        network.MODELS[f"deeplabv3_{name}"]()
    message = str(caught.value)
    assert "\n" not in message
    assert PRETRAINED[name].name in message
    assert "--no-pretrained_backbone" in message
    return message


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_reach_the_backbone(name, publish, log):
    state = published(name)
    url = publish(name, state)
    model = network.MODELS[f"deeplabv3_{name}"]()  # pretrained_backbone=True is the default
    expected = PRETRAINED[name].convert_keys(state)
    ours = model.backbone.state_dict()
    assert all(torch.equal(ours[key], tensor.expand(ours[key].shape)) for key, tensor in expected.items())
    assert {key for key in ours if key not in expected} <= {key for key in ours if "num_batches" in key}
    assert [record.message for record in log.records if url.rpartition("/")[2] in record.message]


def test_weights_are_fetched_once(publish):
    publish("mobilenet", published("mobilenet"))
    network.MODELS["deeplabv3_mobilenet"]()
    publish.use("mobilenet", f"http://127.0.0.1:1/{PRETRAINED['mobilenet'].name}")  # same file name, no server
    network.MODELS["deeplabv3plus_mobilenet"]()


def test_xceptions_weights_bring_their_normalisation(publish):
    publish("xception", published("xception"))
    options = {"num_classes": 3, "output_stride": 16}
    assert network.build_model("deeplabv3_xception", pretrained_backbone=True, **options).normalization == HALF
    assert network.build_model("deeplabv3_xception", **options).normalization["mean"][0] == 0.485


def test_without_published_weights_hrnet_logs_that_and_continues(log):
    network.MODELS["deeplabv3_hrnetv2_32"]()
    assert "no ImageNet weights are published" in log.text


def test_a_file_with_another_hash_is_an_error(publish, tmp_path):
    publish("mobilenet", published("mobilenet"), digest="0123abcd")
    assert "hash" in refusal()
    assert not list(Path(tmp_path, "torch_home").rglob("*.pth"))


def in_cache(tmp_path, name="mobilenet"):
    path = tmp_path / "torch_home" / "hub" / "checkpoints" / PRETRAINED[name].name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("size", [0, 1000, None])
def test_a_cached_file_is_checked_too(publish, tmp_path, size):
    """It may be truncated or changed; torch.hub trusts it."""
    publish("mobilenet", published("mobilenet"))
    network.MODELS["deeplabv3_mobilenet"]()
    path = in_cache(tmp_path)
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1:]
    path.write_bytes(flipped if size is None else content[:size])
    message = refusal()
    assert str(path) in message and "delete it" in message
    path.unlink()
    network.MODELS["deeplabv3_mobilenet"]()


def test_other_weights_under_a_published_name_are_an_error(publish, tmp_path):
    """Weights that load, but are not the published ones."""
    publish("mobilenet", published("mobilenet"))
    torch.save(published("mobilenet"), in_cache(tmp_path))
    assert "instead of" in refusal()


def test_an_archive_under_a_published_name_is_not_unpacked(publish, tmp_path):
    """torch.hub unpacks a zip of one file next to the cache."""
    def zipped(state, path):
        torch.save(state, path.with_suffix(".one"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(path.with_suffix(".one"), "../escaped.pth")
        path.with_suffix(".one").unlink()

    publish("mobilenet", published("mobilenet"), write=zipped)
    refusal()
    assert [path.name for path in tmp_path.rglob("*.pth") if path.parent.name == "checkpoints"] == [
        PRETRAINED["mobilenet"].name] and not list(tmp_path.rglob("escaped*"))


def test_a_file_with_another_hash_is_not_cached(publish, tmp_path):
    publish("mobilenet", published("mobilenet"), digest="0123abcd")
    for _ in range(2):
        assert "hash" in refusal()
    assert not [path for path in Path(tmp_path, "torch_home").rglob("*") if path.is_file()]


def test_a_missing_file_is_an_error(publish):
    publish.use("mobilenet", f"{publish.address}/mobilenet-0123abcd.pth")
    assert "404" in refusal()


def test_an_unreachable_server_is_an_error(publish):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        publish.use("mobilenet", f"http://127.0.0.1:{closed.getsockname()[1]}/mobilenet-0123abcd.pth")
        assert "refused" in refusal()


def test_weights_of_another_network_are_an_error(publish):
    publish("mobilenet", {"features.0.0.weight": torch.zeros(1)})
    assert "state_dict" in refusal()


def test_code_in_a_file_is_not_run(publish, tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    publish("mobilenet", Payload(), write=lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2)))
    refusal()
    assert not (tmp_path / "executed").exists()


def test_every_published_file_name_contains_its_hash():
    assert all(len(weights.digest) >= 8 for weights in PRETRAINED.values())
    assert PRETRAINED["xception"].name == "xception-43020ad28.pth"
