"""BatchNorm statistics, dropout and random numbers: properties 14-16 of notes/sam.md."""
import pytest
import torch
from torch import nn

from optim import SAM, RandomState, cross_entropy, second_pass

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
def test_14_statistics_after_a_step_are_those_of_one_forward_at_w(momentum, training, make_net, batches, make_closure):
    net, reference = make_net(momentum=momentum), make_net(momentum=momentum)
    net.norm.train(training)
    reference.norm.train(training)
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.5, model=net, lr=0.0)
    for batch in batches[:3]:
        torch.manual_seed(0)
        optimizer.step(make_closure(net, batch))
        torch.manual_seed(0)
        reference(batch[0])
    for name in BUFFERS:
        assert torch.equal(getattr(net.norm, name), getattr(reference.norm, name)), name
    assert net.norm.num_batches_tracked == (3 if training else 0)


def test_14_the_model_may_come_with_the_step(make_net, batches, make_closure):
    net = make_net()
    SAM(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1).step(make_closure(net, batches[0]), model=net)
    assert net.norm.num_batches_tracked == 1


def test_14_without_a_model_nothing_is_frozen(make_net, batches, make_closure):
    net = make_net()
    SAM(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1).step(make_closure(net, batches[0]))
    assert net.norm.num_batches_tracked == 2


def test_14_a_frozen_batchnorm_gives_the_same_output_and_survives_nan(make_net, batches):
    net = make_net()
    net.drop.p = 0.0
    images = batches[0][0]
    expected = net(images)
    before = {name: getattr(net.norm, name).clone() for name in BUFFERS}
    with second_pass(net):
        assert torch.equal(net(images), expected)
        net(images * float("nan"))
    for name, value in before.items():
        assert torch.equal(getattr(net.norm, name), value), name


def test_14_every_kind_of_batchnorm_is_frozen():
    kinds = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2)])
    with second_pass(kinds):
        assert not any(norm.track_running_stats for norm in kinds)
    assert all(norm.track_running_stats for norm in kinds)


def test_15_nested_blocks_and_errors_leave_the_flags_right():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ZeroDivisionError), second_pass(net):
        with second_pass(net):
            pass
        assert not net[0].track_running_stats
        raise ZeroDivisionError
    assert net[0].track_running_stats
    assert not net[1].track_running_stats


def test_16_both_passes_draw_the_same_dropout_mask(make_net, batches):
    net = make_net()
    masks = []
    net.drop.register_forward_hook(lambda module, inputs, output: masks.append((output == 0) & (inputs[0] != 0)))
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=1e-4, model=net, lr=0.1)

    def closure():
        loss = cross_entropy(net(batches[0][0]), batches[0][1])
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    # Not all pixels: e may move an activation across zero, which hides the mask there.
    assert (masks[0] == masks[1]).float().mean() > 0.999
    assert (masks[2] == masks[3]).float().mean() > 0.999
    assert (masks[1] == masks[2]).float().mean() < 0.9


def test_16_the_generators_continue_as_after_one_pass():
    p = nn.Parameter(torch.ones(4))
    drawn = []

    def closure():
        drawn.append(torch.rand(4))
        loss = (p * drawn[-1]).sum()
        loss.backward()
        return loss

    torch.manual_seed(5)
    SAM([p], torch.optim.SGD, rho=0.1, lr=0.1).step(closure)
    after = torch.rand(4)
    torch.manual_seed(5)
    expected = torch.rand(4)
    assert torch.equal(drawn[0], expected)
    assert torch.equal(drawn[1], expected)
    assert torch.equal(after, torch.rand(4))


def test_16_replay_is_undone_after_an_error_and_whatever_was_drawn():
    state = RandomState([torch.device("cpu")])
    first = torch.rand(2)
    expected = RandomState([]).states[0]
    with pytest.raises(ZeroDivisionError), state.replayed():
        assert torch.equal(torch.rand(2), first)
        torch.rand(100)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), expected)
