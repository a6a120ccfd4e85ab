"""bfloat16 forward passes, and what they do to an attack's gradient."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import build_attack
from engine import report
from engine.precision import Bfloat16, InBfloat16, precise, say_sign_differences, sign_differences
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
    assert sign_differences(toy, images, labels) == pytest.approx(expected, abs=0.004)  # bf16 rounds the scale away
    assert not toy.training and all(p.requires_grad and p.grad is None for p in toy.parameters())


@pytest.mark.parametrize("name", ["pgd", "sea"])
def test_an_attack_in_bfloat16_sees_that_network_and_says_so(toy, batch, name):
    images, labels = batch
    attack = build_attack(name, eps=0.05, steps=3, class_weights=[1.0] * 4)
    half = InBfloat16(attack)
    found, plain = half(toy, images, labels, image_ids=[0, 1, 2]), attack(toy, images, labels, image_ids=[0, 1, 2])
    assert torch.equal(found, attack(Bfloat16(toy), images, labels, image_ids=[0, 1, 2]))
    assert not torch.equal(found, plain)
    assert half.settings() == {**attack.settings(), "attack_amp": True}
    assert [member.settings()["attack_amp"] for member in half.members] == [True] * len(attack.members)
    assert report.attack_name(half.settings()) == report.attack_name(attack.settings()) + "-bf16"


def test_a_network_that_bfloat16_holds_exactly_has_no_differences(batch, capsys):
    images, labels = batch
    exact = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        exact.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]).view(4, 3, 1, 1))
        exact.bias.zero_()
    start_log()
    say_sign_differences(exact, (images * 64).round() / 64, labels)
    stop_log()
    assert "changes 0.0 % of the signs" in capsys.readouterr().out
