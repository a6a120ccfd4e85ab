"""BatchNorm over ranks equals BatchNorm of one process over the joined batch."""
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from network import build_model, synchronize_batchnorm
from network.sync_batchnorm import SyncBatchNorm
from tests import ranks
from tests.ranked import batchnorm

CASES = [
    (nn.BatchNorm1d, {}, False), (nn.BatchNorm2d, {}, False), (nn.BatchNorm3d, {"momentum": 0.7}, False),
    (nn.BatchNorm2d, {"momentum": None}, False), (nn.BatchNorm2d, {"affine": False, "eps": 0.1}, False),
    (nn.BatchNorm2d, {"track_running_stats": False}, False), (nn.BatchNorm2d, {}, True),
]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("batches", [[3, 3], [4, 1], [2, 0, 3]])
def test_ranks_compute_what_one_process_does_for_the_joined_batch(batches):
    found = ranks.run(batchnorm.shares, batches, CASES, n=len(batches))
    for number, (kind, settings, frozen) in enumerate(CASES):
        model = batchnorm.network(kind, **settings)
        untouched = {name: buffer.clone() for name, buffer in model[1].named_buffers()}
        expected = batchnorm.steps(model, torch.cat(batchnorm.images(batches, kind)), frozen=frozen)
        each = [rank[number] for rank in found]
        close(torch.cat([rank["out"] for rank in each]), expected["out"])
        close(torch.cat([rank["input"] for rank in each]), expected["input"])
        for rank in each:
            close(rank["parameters"], expected["parameters"])
            close(rank["buffers"], untouched if frozen else expected["buffers"])


@pytest.mark.slow
def test_other_modes_and_wrappers():
    found = ranks.run(batchnorm.others, [3, 2])
    model = batchnorm.network()
    model(torch.cat(batchnorm.images([3, 2]))).square().sum().backward()
    for rank in found:
        close(rank["ddp"], [parameter.grad for parameter in model.parameters()])
        assert rank["dtype"] == torch.bfloat16 and abs(rank["half"][0]) > 1e-3 > abs(rank["half"][1]) / 300
        assert rank["momentum"] == 0.25 and "more than 1 value per channel" in rank["said"]


def test_one_process_computes_batchnorm():
    x, = batchnorm.images([4])
    for kind, settings, frozen in CASES[1:2] + CASES[3:]:
        plain, synchronized = batchnorm.network(kind, **settings), batchnorm.network(kind, **settings)
        model = synchronize_batchnorm(synchronized)
        assert model is synchronized and isinstance(model[1], SyncBatchNorm)
        expected, found = (batchnorm.steps(each, x, frozen=frozen) for each in (plain, model))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert torch.equal(model.eval()(x), plain.eval()(x))


def test_a_network_keeps_its_parameters_keys_and_flags():
    model = build_model("deeplabv3_mobilenet", num_classes=3, output_stride=16, pretrained_backbone=False)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    norms[0].eval()
    norms[1].momentum, norms[2].track_running_stats = None, False
    before = {key: value.data_ptr() for key, value in model.state_dict().items()}
    flags = [(norm.training, norm.momentum, norm.track_running_stats, norm.eps) for norm in norms]
    assert synchronize_batchnorm(model) is model
    after = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert len(after) > 50 and all(isinstance(norm, SyncBatchNorm) for norm in after)
    assert [(norm.training, norm.momentum, norm.track_running_stats, norm.eps) for norm in after] == flags
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == before
