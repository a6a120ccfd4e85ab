"""The moving average of the weights, against NumPy."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from optim import WeightAverage


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def values_of(network) -> dict:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def train_a_step(network, step: int):
    generator = torch.Generator().manual_seed(step)
    network.train()(torch.rand(2, 3, 5, 5, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.999])
def test_the_average_is_tensorflows(decay):
    network = make_network()
    average, expected = WeightAverage(network, decay), values_of(network)
    for step in range(1, 8):
        train_a_step(network, step)
        average.update()
        share = min(decay, (1 + step) / (10 + step))
        expected = {name: share * expected[name] + (1 - share) * value for name, value in values_of(network).items()}
    state = average.state_dict()
    for name, value in state["model_state"].items():
        if name == "1.num_batches_tracked":
            assert value == 7  # not averaged
        else:
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6)
    own = values_of(network)
    assert all(np.array_equal(state["trained_state"][name].numpy(), own[name]) for name in own)
    assert list(state["model_state"]) == list(network.state_dict()) and state["averaged"] == 7


def test_in_use_the_network_computes_with_the_average_and_after_with_its_own_weights():
    network = make_network()
    average = WeightAverage(network, 0.9)
    for step in range(3):
        train_a_step(network, step)
        average.update()
    state, images = copy.deepcopy(average.state_dict()), torch.rand(1, 3, 5, 5)
    other = make_network().eval()
    other.load_state_dict(state["model_state"])
    with pytest.raises(KeyError), average.in_use():
        assert torch.equal(network.eval()(images), other(images))
        raise KeyError  # as a signal may end a validation
    assert all(torch.equal(value, state["trained_state"][name]) for name, value in network.state_dict().items())
    assert network[0].weight.requires_grad and network[0].weight.is_leaf


def test_without_a_decay_nothing_is_averaged_or_saved():
    network = make_network()
    average = WeightAverage(network, None)
    train_a_step(network, 1)
    average.update()
    with average.in_use():
        pass
    assert average.state_dict().keys() == {"model_state"} and not average.values


def test_it_continues_from_a_checkpoint():
    network = make_network()
    average = WeightAverage(network, 0.9)
    for step in range(1, 7):
        train_a_step(network, step)
        average.update()
        if step == 3:
            saved = copy.deepcopy(average.state_dict())
    other = make_network()
    other.load_state_dict(saved["model_state"])
    continued = WeightAverage(other, 0.9)
    continued.load_state_dict(saved)
    for step in range(4, 7):
        train_a_step(other, step)
        continued.update()
    one, two = average.state_dict(), continued.state_dict()
    assert one["averaged"] == two["averaged"] == 6
    for key in ("model_state", "trained_state"):
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key])


def test_an_average_begins_or_ends_where_a_run_is_continued_otherwise():
    network = make_network()
    average = WeightAverage(network, 0.9)
    train_a_step(network, 1)
    average.update()
    saved = copy.deepcopy(average.state_dict())
    network.load_state_dict(saved["model_state"])
    WeightAverage(network, None).load_state_dict(saved)  # without --ema: its trained weights
    assert all(torch.equal(value, saved["trained_state"][name]) for name, value in network.state_dict().items())
    begun = WeightAverage(network, 0.9)
    train_a_step(network, 2)
    begun.load_state_dict({"model_state": network.state_dict()})  # of a run without --ema
    assert all(torch.equal(begun.values[name], network.state_dict()[name]) for name in begun.values)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_bounds_is_an_error(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(make_network(), decay)
