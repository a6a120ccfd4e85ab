"""The faster form that attacks run: right for the twelve networks, careful with any other, blind to no change."""
import gc
import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from attacks import FGSM, PGD, Networks, Square, build_attack
from attacks.folding import TOLERANCE, _kept, fold
from attacks.pairs import find_pairs
from network import MODELS, Bfloat16, build_model
from network.windowed import Windowed


@pytest.fixture
def images():
    return torch.rand(2, 3, 33, 35, generator=torch.Generator().manual_seed(3))


def settle(network):
    """Give batch norms statistics and weights, as after training; return the network in eval mode, frozen."""
    generator = torch.Generator().manual_seed(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


def count_norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) and "forward" not in vars(module) for module in network.modules())


def difference(network, form, images):
    with torch.no_grad():
        given = network(images)
        return ((form(images) - given).abs().max() / given.abs().max()).item()


class Block(nn.Module):
    """Two convolutions with norms; `way` says how forward uses them."""

    def __init__(self, way="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.seen = way, []
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.last = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        out = self.conv(x)
        if self.way == "relu":
            out = out.relu()
        elif self.way == "used twice":
            return self.last(self.norm(out) + out)
        elif self.way == "called twice":
            return self.last(self.norm(self.conv(out)))
        elif self.way == "norm called twice":
            return self.last(self.norm(self.norm(out)))
        elif self.way == "weight read":
            return self.last(self.norm(out) * self.conv.weight.mean())
        elif self.way == "statistics read":
            return self.last(self.norm(out) * self.norm.running_var.mean())
        elif self.way == "from above":
            return self.last(self.norm(out)) + self.last[0](out)
        elif self.way == "control flow" and x.sum() > 0:
            return self.last(self.norm(out.relu()))
        elif self.way == "stores":
            self.kept = out
            self.seen.append(out)
        return self.last(self.norm(out))


LARGE = "hrnet", "resnet101", "xception"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * any(part in name for part in LARGE))
                                  for name in MODELS])
def test_logits_of_the_twelve_networks_are_the_same(name, images):
    torch.manual_seed(0)
    network = settle(build_model(name, num_classes=4, output_stride=4 if "hrnet" in name else 16))
    form = fold(network, images)
    assert form is not network and difference(network, form, images) <= TOLERANCE
    assert count_norms(form) < 0.03 * count_norms(network)  # but ASPP's pooled one
    convolutions = [module for module in form.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    assert not any(parameter.requires_grad for parameter in form.parameters())


@pytest.mark.parametrize(("way", "pairs"), [
    ("plain", 2), ("stores", 2), ("relu", 1), ("used twice", 1), ("called twice", 1), ("norm called twice", 1),
    ("weight read", 1), ("statistics read", 1), ("from above", 0), ("control flow", 1)])
def test_only_pairs_that_nothing_else_uses_are_folded(way, pairs, images):
    network = settle(Block(way)).double()
    found = find_pairs(network)
    assert len(found) == pairs and not network.seen and "kept" not in vars(network)
    assert difference(network, fold(network, images.double()), images.double()) < 1e-12


def share(network):
    network.last[1] = network.norm


def tie(network):
    network.last[0] = nn.Conv2d(3, 3, 3, padding=1)
    network.last[0].weight, network.last[1] = network.conv.weight, nn.BatchNorm2d(3)


def parametrize(network):
    parametrizations.weight_norm(network.conv), parametrizations.spectral_norm(network.last[0])


def own_forward(network):
    network.conv.forward = lambda x: 2 * x
    network.last[1].__class__ = type("Own", (nn.BatchNorm2d,), {"forward": lambda self, x: 3 * x})


def batch_statistics(network):
    network.norm = nn.BatchNorm2d(3, track_running_stats=False)


@pytest.mark.parametrize(("change", "pairs"), [
    (share, 0), (tie, 0), (parametrize, 0), (own_forward, 0), (batch_statistics, 1)])
def test_layers_that_are_not_plain_stay(change, pairs, images):
    network = Block()
    if change is share:
        network.last[0] = nn.Conv2d(3, 3, 1)
    change(network)
    settle(network)
    assert len(find_pairs(network)) == pairs
    assert difference(network, fold(network, images), images) <= TOLERANCE


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_network_with_hooks_is_attacked_as_it_is(hook, images):
    network = settle(Block())
    getattr(network.norm, hook)(lambda *_: None)
    assert fold(network, images) is network


def test_the_network_is_untouched_bit_for_bit(images):
    network = settle(Block()).requires_grad_(True).train()
    network.conv.weight.grad = torch.ones_like(network.conv.weight)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {name: (id(value), value.data_ptr(), value._version, value.stride(), value.requires_grad, value.clone())
              for name, value in tensors.items()}
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in network.modules()]
    PGD(eps=4 / 255, steps=2)(network, images, torch.zeros(2, 33, 35, dtype=torch.int64))
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, (*facts, values) in before.items():
        now = after[name]
        assert [id(now), now.data_ptr(), now._version, now.stride(), now.requires_grad] == facts
        assert torch.equal(now, values)
    assert [{name: id(value) for name, value in vars(module).items()} for module in network.modules()] == attributes
    assert (network.conv.weight.grad == 1).all() and network.norm.weight.grad is None


def step(network):
    optimizer = torch.optim.SGD(network.requires_grad_(True).parameters(), lr=0.1)
    network(torch.rand(1, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    network.requires_grad_(False)


CHANGES = {
    "step": step,
    "state": lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
    "buffer": lambda network: network.norm.running_var.mul_(2),
    "data": lambda network: network.conv.weight.data.mul_(2),
    "data replaced": lambda network: setattr(network.conv.weight, "data", network.conv.weight.data * 2),
    "layer": lambda network: setattr(network, "conv", nn.Conv2d(3, 3, 3, padding=1, bias=False)),
    "attribute": lambda network: setattr(network, "way", "relu"),
    "eps": lambda network: setattr(network.norm, "eps", 0.5),
    "stride": lambda network: setattr(network.conv, "stride", (2, 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_folded_anew(change, images):
    network = settle(Block())
    first = fold(network, images)
    assert fold(network, images).conv is first.conv  # kept
    CHANGES[change](network)
    assert difference(network, fold(network, images), images) <= TOLERANCE
    assert difference(network, first, images) > 1e-3 if change not in ("attribute", "stride") else True


class Misled(Block):
    """Traced, it takes the first way; run, the second one."""

    def forward(self, x):
        return super().forward(x) if not isinstance(x, torch.Tensor) else self.last(self.norm(self.conv(x).relu()))


class Uncopied(Block):
    def __deepcopy__(self, memo):
        raise RuntimeError("can't be copied")


@pytest.mark.parametrize(("kind", "reason"), [(Misled, "logits would change"), (Uncopied, "can't be copied")])
def test_what_can_not_be_folded_stays_as_it_is_with_one_line(kind, reason, images, caplog):
    network = settle(kind())
    with caplog.at_level(logging.INFO, "segmentation"):
        for _ in range(2):
            assert fold(network, images) is network
        network.conv.weight.mul_(2)
        assert fold(network, images) is network
    assert len(caplog.messages) == 1 and reason in caplog.messages[0]


def test_gradients_equal_finite_differences(images):
    network, points = settle(Block()).double(), images[:1, :, :7, :6].double()
    form = fold(network, points)
    assert count_norms(form) == 0
    assert torch.autograd.gradcheck(form, points.clone().requires_grad_(True))
    grads = [torch.autograd.grad(one(x := points.clone().requires_grad_(True)).square().sum(), x)[0]
             for one in (network, form)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda network: Windowed(network, (20, 20), 13), nn.DataParallel])
def test_what_a_wrapper_holds_is_folded_and_kept_for_the_next_wrapper(wrap, images):
    network = settle(Block())
    first, second = (fold(wrap(network), images) for _ in range(2))
    assert count_norms(first) == 0 and count_norms(network) == 2

    def convolutions(form):
        return [module for module in form.modules() if isinstance(module, nn.Conv2d)]

    assert all(map(torch.Tensor.is_set_to, *([conv.weight for conv in convolutions(form)] for form in (first, second))))
    assert difference(wrap(network), first, images) < TOLERANCE
    labels = torch.zeros(2, 33, 35, dtype=torch.int64)
    assert (PGD(eps=4 / 255, steps=2)(wrap(network), images, labels) - images).abs().max() <= 4 / 255


class UsesInside(nn.Module):
    """A wrapper that calls what is inside its network, too."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + self.network.last(self.network.conv(x))


def test_any_other_wrapper_is_a_network_of_its_own(images):
    wrapped = UsesInside(settle(Block())).eval()
    assert difference(wrapped, fold(wrapped, images), images) < TOLERANCE
    chain = nn.Sequential(settle(Block())).eval()
    assert count_norms(fold(chain, images)) == 0 and difference(chain, fold(chain, images), images) < TOLERANCE
    lone = nn.Module()
    lone.parts = nn.ModuleList([settle(Block()), settle(Block("relu"))])
    lone.forward = lambda x: lone.parts[0](x) + lone.parts[1](x)
    assert difference(lone.eval(), fold(lone, images), images) < TOLERANCE


@pytest.mark.parametrize("wrap", [Bfloat16, lambda network: Bfloat16(Windowed(network, (20, 20), 13))])
def test_in_bfloat16_the_network_that_is_scored_is_the_one_that_is_attacked(wrap, images):
    """Folded, it would round otherwise by per cents."""
    wrapped = wrap(settle(Block())).eval()
    assert fold(wrapped, images) is wrapped


def test_what_is_folded_does_not_depend_on_the_first_image(images):
    for order in (images, images.flip(0)):
        network = settle(Block())
        assert difference(network, fold(network, order), images) == difference(network, fold(network, images), images)


def test_no_random_number_is_drawn_and_no_network_kept_alive(images):
    network, state = settle(nn.Sequential(Block(), nn.Dropout(0.5))), torch.get_rng_state()
    gc.collect()
    alive = len(_kept)
    fold(network, images)
    assert torch.equal(torch.get_rng_state(), state) and len(_kept) == alive + 1
    del network
    gc.collect()
    assert len(_kept) == alive


@pytest.mark.parametrize("name", ["pgd", "sea", "noise"])
def test_results_keep_the_memory_format_of_the_images(name, images, toy):
    labels = torch.zeros(2, 33, 35, dtype=torch.int64)
    attack = build_attack(name, eps=4 / 255, steps=2, class_weights=[0.25] * 4)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = images.contiguous(memory_format=memory_format)
        assert attack(toy, given, labels, start=given.flip(0)).stride() == given.stride()


def test_each_of_several_networks_is_folded_and_an_unfoldable_one_stays(images, caplog):
    first, second = settle(Block()), settle(Block("used twice"))
    both = Networks([first, second]).eval()
    form = fold(both, images)
    assert isinstance(form, Networks) and count_norms(form.networks[0]) == 0 and not caplog.messages
    assert form.networks[1].conv is not None and count_norms(form.networks[1]) == count_norms(second) - 1
    assert difference(both, form, images) < TOLERANCE and count_norms(both) == 4
    first.norm.running_mean += 1
    assert difference(both, fold(both, images), images) < TOLERANCE


@pytest.mark.parametrize(("attack", "folded"), [
    (FGSM(eps=0.01), False), (PGD(eps=0.01, steps=1), False), (PGD(eps=0.01, steps=2), True),
    (PGD(eps=0.01, steps=1, restarts=2), True), (Square(eps=0.01, steps=2), True)], ids=repr)
def test_one_gradient_is_not_worth_folding(attack, folded, images, monkeypatch):
    asked = []
    monkeypatch.setattr("attacks.base.fold", lambda model, points: asked.append(model) or model)
    attack(nn.Conv2d(3, 2, 1), images, torch.zeros(len(images), *images.shape[2:], dtype=torch.long))
    assert bool(asked) == folded
