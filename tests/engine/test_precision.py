"""bfloat16 forward passes, and what they do to an attack's gradient."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import FGSM, SEA
from engine.evaluation.chains import plan_chains
from engine.evaluation.precision import log_sign_differences, measure_sign_differences
from engine.records.naming import name_attack
from network import Bfloat16, precise
from utils.logging import start_log, stop_log

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_forward_pass_runs_in_bfloat16_and_gives_float32(toy, batch):
    images, _ = batch
    inside = []
    toy.body[-1].register_forward_hook(lambda *args: inside.append(args[-1].dtype))
    logits, plain = Bfloat16(toy)(images), toy(images)
    assert inside == [torch.bfloat16, torch.float32] and logits.dtype == torch.float32
    assert not torch.equal(logits, plain)
    torch.testing.assert_close(logits, plain, rtol=0.05, atol=0.05)
    assert precise(toy, amp=False) is toy and isinstance(precise(toy, amp=True), Bfloat16)


def test_sign_differences_are_those_of_two_gradients_by_autograd(toy, batch):
    images, labels = batch
    signs = []
    for amp in (False, True):
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits = toy(x)
        loss = F.cross_entropy(logits.float(), labels, ignore_index=255, reduction="sum")
        signs.append(torch.autograd.grad(loss, x)[0].sign())
    moving = signs[0] != 0
    expected = (signs[0] != signs[1])[moving].float().mean().item()
    assert 0 < expected < 0.5
    assert measure_sign_differences(toy, images, labels) == pytest.approx(expected, abs=0.004)  # bf16 rounding
    assert not toy.training and all(p.requires_grad and p.grad is None for p in toy.parameters())


def test_records_of_bfloat16_attacks_say_so():
    attacks = [FGSM(eps=0.1), SEA(eps=0.1, class_weights=[1.0] * 4)]
    plain, half = (plan_chains(attacks, warm_start=False, attack_amp=amp) for amp in (False, True))
    assert plain[0] == half[0] and len(half) == 1 + 1 + 3  # clean, fgsm, the members
    for (one,), (other,) in zip(plain[1:], half[1:], strict=True):
        assert other.settings == {**one.settings, "attack_amp": True}
        assert name_attack(other.settings) == name_attack(one.settings) + "-bf16"
    assert plan_chains([], warm_start=False, amp=True)[0][0].settings["amp"] is True


def test_a_network_that_bfloat16_holds_exactly_has_no_differences(batch, capsys):
    images, labels = batch
    exact = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        exact.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]).view(4, 3, 1, 1))
        exact.bias.zero_()
    start_log()
    log_sign_differences(exact, (images * 64).round() / 64, labels)
    stop_log()
    assert "changes 0.0 % of the signs" in capsys.readouterr().out
