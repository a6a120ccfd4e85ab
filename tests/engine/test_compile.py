"""--compile: the same training up to rounding, attacks on the plain network, one line where it can't work."""
import shutil

import pytest
import torch
from torch._dynamo.eval_frame import OptimizedModule

from engine.training.step import TrainingStep
from main import main
from network import parallelize
from optim import build_loss, build_optimizer
from tests.conftest import Toy
from tests.thin import build
from utils.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile() needs a compiler")]


class Spy:
    """An attack that changes nothing and remembers which networks it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, network, images, labels):
        self.seen.append(network)
        return images


def test_it_trains_as_without():
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Toy(width=3).train()
        optimizer = build_optimizer("SAM", [{"params": model.parameters()}], lr=0.1, weight_decay=1e-4, model=model,
                                    rho=0.1)
        net = parallelize(model, replicas=1, compiled=compiled)
        assert (net is not model) == isinstance(net, OptimizedModule) == compiled
        attack = Spy()
        step = TrainingStep(model, net, optimizer=optimizer, criterion=build_loss("cross_entropy"),
                            attack=attack)
        torch.manual_seed(1)  # of dropout
        measured = [step(torch.rand(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8)))["Loss"] for _ in range(3)]
        found.append((measured, model.state_dict()))
        assert attack.seen == [model] * 3
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    for key, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], value, rtol=1e-4, atol=1e-5)


def test_where_it_cannot_work_it_is_refused(capsys, small, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long trace")

    with pytest.raises(UserError, match="torchrun"):
        parallelize(build(num_classes=5, output_stride=16, pretrained_backbone=False), replicas=2, compiled=True)
    with monkeypatch.context() as patch:
        patch.setattr("utils.distributed.world_size", lambda: 2)
        with pytest.raises(UserError, match="--no-sync_bn"):
            parallelize(build(num_classes=5, output_stride=16, pretrained_backbone=False), replicas=1, compiled=True)
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(SystemExit) as stop:
        main([*small, "--output_dir", str(tmp_path), "--total_itrs", "1", "--compile"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "--compile: torch.compile() doesn't work here (no C++ compiler): leave it out" in err
    assert "long trace" not in err
