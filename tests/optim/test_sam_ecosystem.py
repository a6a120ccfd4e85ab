"""Schedulers, AMP, closures and hooks around SAM: properties 21-24, 27 and 33 of notes/sam.md."""
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from optim import SAM, PolyLR, RandomState, cross_entropy, second_pass

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9}
SCHEDULES = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda itr: 0.9**itr),
    "poly": lambda optimizer: PolyLR(optimizer, 6),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6),
    "onecycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=8),
}


@pytest.mark.parametrize("two_step", [True, False], ids=["two_step", "closure"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_21_a_schedule_on_sam_or_on_its_base_gives_the_plain_curve(schedule, two_step):
    def curve(build, target):
        p = nn.Parameter(torch.ones(3))
        optimizer = build([p])
        scheduler = schedule(target(optimizer))
        out = []
        for _ in range(6):
            p.grad = torch.ones(3)
            if two_step and isinstance(optimizer, SAM):
                optimizer.first_step()
                optimizer.second_step()
            elif isinstance(optimizer, SAM):
                optimizer.step(lambda: p.sum().backward())
            else:
                optimizer.step()
            scheduler.step()
            out.append([optimizer.param_groups[0][key] for key in ("lr", "momentum")])
        return out

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = curve(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), lambda optimizer: optimizer)
        on_sam = curve(lambda params: SAM(params, **SGD), lambda optimizer: optimizer)
        on_base = curve(lambda params: SAM(params, **SGD), lambda optimizer: optimizer.base_optimizer)
    assert on_sam == plain
    assert on_base == plain


@pytest.mark.parametrize("inf_in", [None, 1, 2])
def test_22_grad_scaler(inf_in, make_net, batches):
    """With restore() before unscale_, scaled losses change nothing; a first pass with inf perturbs nothing."""
    net, reference = make_net().eval(), make_net().eval()
    optimizer, plain = SAM(net.parameters(), rho=0.1, **SGD), SAM(reference.parameters(), rho=0.1, **SGD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def backward(model, count):
        loss = cross_entropy(model(batches[0][0]), batches[0][1])
        factor = float("inf") if count == inf_in else 1.0
        (scaler.scale(loss) if model is net else loss).mul(factor).backward()

    before = [p.detach().clone() for p in net.parameters()]
    backward(net, 1)
    optimizer.first_step(zero_grad=True)
    assert optimizer.perturbed == (inf_in != 1)
    backward(net, 2)
    optimizer.restore()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    if inf_in == 2:
        assert scaler.get_scale() == 512.0
        assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
        return
    backward(reference, 0)
    if inf_in is None:
        plain.first_step(zero_grad=True)
        backward(reference, 0)
    plain.second_step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), reference.parameters(), strict=True))


def test_23_step_with_a_closure_is_the_two_step_loop(make_net, batches, make_closure, assert_same):
    net, reference = make_net(), make_net()
    optimizer, loop = SAM(net.parameters(), rho=0.1, model=net, **SGD), SAM(reference.parameters(), rho=0.1, **SGD)
    torch.manual_seed(0)
    for batch in batches[:4]:
        closure = make_closure(net, batch)
        loss = optimizer.step(closure)
        assert closure.calls == 2
        assert loss.item() == closure.losses[0] != closure.losses[1]
        assert not loss.requires_grad
    torch.manual_seed(0)
    for images, labels in batches[:4]:
        state = RandomState([])
        cross_entropy(reference(images), labels).backward()
        loop.first_step(zero_grad=True)
        with second_pass(reference, state):
            cross_entropy(reference(images), labels).backward()
        loop.second_step(zero_grad=True)
    assert_same(net.state_dict(), reference.state_dict())


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"rho": 0.1, "start_step": 1}])
def test_23_one_pass_only_while_sam_does_nothing(options, make_net, batches, make_closure):
    net = make_net()
    closure = make_closure(net, batches[0])
    SAM(net.parameters(), **options, **SGD).step(closure)
    assert closure.calls == 1


def test_23_earlier_gradients_are_discarded(make_net, batches, train, assert_same):
    net, reference = make_net(), make_net()
    for model in (net, reference):
        if model is net:
            for p in model.parameters():
                p.grad = torch.full_like(p, 100.0)
        torch.manual_seed(0)
        train(model, SAM(model.parameters(), rho=0.1, model=model, **SGD), batches[:2])
    assert_same(net.state_dict(), reference.state_dict())


def test_23_the_closure_runs_with_gradients_enabled_under_no_grad(make_net, batches, make_closure):
    net = make_net()
    before = [p.clone() for p in net.parameters()]
    with torch.no_grad():
        SAM(net.parameters(), rho=0.1, **SGD).step(make_closure(net, batches[0]))
    assert any(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_24_a_closure_over_micro_batches_is_the_full_batch(make_net, batches, make_closure):
    nets = make_net().double().eval(), make_net().double().eval()
    images, labels = batches[0][0].double(), batches[0][1].clamp(max=3)

    def in_parts():
        for i in range(4):
            (cross_entropy(nets[1](images[i : i + 1]), labels[i : i + 1]) / 4).backward()

    SAM(nets[0].parameters(), rho=0.1, **SGD).step(make_closure(nets[0], (images, labels)))
    SAM(nets[1].parameters(), rho=0.1, **SGD).step(in_parts)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("on_base", [True, False])
def test_27_step_hooks_fire_once_an_update(on_base, make_net, batches, make_closure):
    net = make_net()
    optimizer = SAM(net.parameters(), rho=0.1, **SGD)
    fired = []
    hooked = optimizer.base_optimizer if on_base else optimizer
    hooked.register_step_pre_hook(lambda *_: fired.append("pre"))
    hooked.register_step_post_hook(lambda *_: fired.append("post"))
    optimizer.step(make_closure(net, batches[0]))
    optimizer.first_step()
    optimizer.second_step()
    assert fired == ["pre", "post"] * 2


def test_33_rho_is_a_number_and_the_order_of_arguments_is_the_usual_one():
    p = nn.Parameter(torch.ones(2))
    optimizer = SAM([p], torch.optim.SGD, 0.05, True, lr=0.1)
    assert (optimizer.param_groups[0]["rho"], optimizer.param_groups[0]["adaptive"]) == (0.05, True)
    with pytest.raises(TypeError):
        SAM([p], torch.optim.SGD, rho="0.05", lr=0.1)
