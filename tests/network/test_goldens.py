"""Every network has the reference's keys and shapes and computes its logits, loss and input gradient.

data/ holds the reference figures: of the published DeepLab networks for ResNet and MobileNetV2, and of the corrected
ones for Xception and HRNet.
"""
import functools
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import network

DATA = Path(__file__).parent / "data"
GOLDENS = json.loads((DATA / "goldens.json").read_text())
SHAPES = json.loads(gzip.decompress((DATA / "state_dict_shapes.json.gz").read_bytes()))
SEED = 7


@pytest.fixture(autouse=True)
def no_initialisation(monkeypatch):
    """Skip the random initialisation, a quarter of the time, as every value is overwritten."""
    for name in ("kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, **_: tensor)


def build(variant, **kwargs):
    """Build "<model>" or "<model>+separable"."""
    name, _, separable = variant.partition("+")
    model = network.MODELS[name](pretrained_backbone=False, **kwargs)
    if separable:
        network.convert_to_separable_conv(model.classifier)
    return model


def values(key, shape):
    """Draw a tensor's values from a generator seeded by its key; variances are positive, layers keep the scale."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_var"):
        return 1.0 + 0.5 * random.rand(*shape)
    noise = random.randn(*shape)
    if len(shape) > 1:
        return noise * np.sqrt(1.0 / np.prod(shape[1:]))
    if key.endswith("weight"):
        return 1.0 + 0.1 * noise
    return 0.1 * noise  # biases and running means


@functools.lru_cache(maxsize=1)
def drawn(backbone) -> dict:
    """{(key, shape): values} of one backbone's networks, most of whose tensors are the same."""
    return {}


def fingerprint(model, *, height, width, known):
    """Compute logits, loss and input gradient in float64 and eval mode, in the form of goldens.json."""
    model.double().eval()
    for key, tensor in model.state_dict().items():
        if (key, tensor.shape) not in known:
            known[key, tensor.shape] = torch.as_tensor(values(key, tensor.shape))
        tensor.copy_(known[key, tensor.shape])
    images = torch.as_tensor(np.random.RandomState(SEED).rand(1, 3, height, width)).requires_grad_()
    labels = np.random.RandomState(SEED + 1).randint(0, model.num_classes, (1, height, width))
    labels[:, : height // 8] = 255
    logits = model(images)
    loss = F.cross_entropy(logits, torch.as_tensor(labels), ignore_index=255)
    (gradient,) = torch.autograd.grad(loss, images)

    def sample(tensor, seed, count):
        return tensor.detach().flatten()[np.random.RandomState(seed).randint(0, tensor.numel(), count)].tolist()

    return {
        "shape": list(logits.shape),
        "mean": logits.mean().item(),
        "std": logits.std().item(),
        "logits": sample(logits, SEED + 2, 16),
        "loss": loss.item(),
        "grad_l2": gradient.norm().item(),
        "grad": sample(gradient, SEED + 3, 8),
    }


@pytest.mark.parametrize("variant", SHAPES)
def test_keys_and_shapes(variant):
    with torch.device("meta"):
        state = build(variant).state_dict()
    ours = [(key, list(tensor.shape)) for key, tensor in state.items()]
    assert ours == list(SHAPES[variant].items())  # in the same order, as optimizer states number the parameters


def test_every_network_is_covered():
    assert {variant.partition("+")[0] for variant in SHAPES} == set(network.MODELS)
    assert {case.partition("/")[0].partition("+")[0] for case in GOLDENS} == set(network.MODELS)


def backbone_of(case):
    return case.partition("_")[2].partition("/")[0].partition("+")[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(GOLDENS, key=backbone_of))
def test_outputs_and_gradients(case):
    variant, _, stride = case.partition("/os")
    golden = GOLDENS[case]
    height, width = golden["shape"][-2:]
    figures = fingerprint(build(variant, output_stride=int(stride)), height=height, width=width,
                          known=drawn(backbone_of(case)))
    assert figures["shape"] == golden["shape"]
    for name in golden:
        np.testing.assert_allclose(figures[name], golden[name], rtol=1e-6, atol=0, err_msg=name)
