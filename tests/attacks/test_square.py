"""Square Attack, replayed in NumPy from the model's inputs, and noise, by its statistics."""
import numpy as np
import pytest
import torch

from attacks import Noise, SignNoise, Square, UniformNoise

EPS = 0.05


def margin_of(model, points, labels):
    """Return the sum over correct pixels of the label's logit minus the largest other one; points [1, 3, H, W]."""
    with torch.no_grad():
        logits = model(points)[0].numpy()
    total = 0.0
    for row, column in np.argwhere(labels.numpy() != 255):
        values = logits[:, row, column].tolist()
        own = values.pop(labels[row, column])
        total += max(own - max(values), 0)
    return total


def halved(query, queries):
    """Return the share of pixels after `query` of `queries`, from the paper's table for 10,000."""
    share, progress = 0.8, query / queries * 10_000
    for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if progress > mark:
            share /= 2
    return share


@pytest.mark.parametrize("seed", range(3))
def test_only_squares_that_lower_the_margin_are_kept(seed, smooth, queries):
    """Each proposal is the best so far except for one square, of the paper's size, at corners of the ball."""
    model, images, labels = smooth(seed, images=1, height=24, width=20)
    low, high = (images - EPS).clamp_min(0).numpy()[0], (images + EPS).clamp_max(1).numpy()[0]
    steps, height, width = 150, *labels.shape[1:]
    asked, graphs = queries(model), []
    model.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    outcome = Square(eps=EPS, steps=steps).run(model, images, labels, image_ids=[seed])
    proposals = [points[0].numpy() for points in [*asked]]  # a copy, as the model appends to it
    assert len(proposals) == steps == outcome.forwards.item() and outcome.backwards.item() == 0 and not any(graphs)
    for points in proposals:
        assert (np.minimum(abs(points - low), abs(points - high)) < 1e-15).all()
    stripes = np.sign(proposals[0] - images.numpy()[0])
    assert (np.where(stripes == 0, stripes.max(1, keepdims=True), stripes) == stripes.max(1, keepdims=True)).all()

    margins = [margin_of(model, points, labels[0]) for points in [*asked]]  # a copy, as the model appends to it
    best, lowest, accepted, sizes = proposals[0], margins[0], 0, {}
    for query in range(1, steps):
        rows, columns = np.nonzero((proposals[query] != best).any(0))
        side = max(round((halved(query, steps) * height * width) ** 0.5), 1)
        side = min(side, height, width)
        if len(rows):
            extent = max(rows.max() - rows.min(), columns.max() - columns.min()) + 1
            assert extent <= side
            sizes.setdefault(side, []).append(extent)
            changed = (proposals[query] - best)[:, rows.min():rows.max() + 1, columns.min():columns.max() + 1]
            for channel in changed:  # one sign per channel
                assert (channel >= 0).all() or (channel <= 0).all()
        if margins[query] < lowest:
            best, lowest, accepted = proposals[query], margins[query], accepted + 1
    assert np.array_equal(outcome.images.numpy()[0], best) and lowest == min(margins)
    assert 5 <= accepted < steps / 2
    assert sorted(sizes) == [1, 2, 3, 5, 7, 10]
    assert all(max(extents) == side for side, extents in sizes.items())


def test_signs_and_places_are_uniform(smooth, queries):
    """If no proposal changes the score, all of them change the first one; squares of one pixel can be anywhere."""
    model, images, labels = smooth(0, images=1)
    with torch.no_grad():
        model.body[0].weight.zero_()
        images.fill_(0.5)
        labels[:, :, :] = model(images).argmax(1)
    asked = queries(model)
    Square(eps=EPS, steps=1000)(model, images, labels, image_ids=[0])
    first, places = asked[0], np.zeros(images.shape[2:])
    for points in asked[200:]:
        changed = (points != first)[0].numpy()
        assert changed.any(0).sum() <= 1
        places += changed.any(0)
    # 7 of 8 of the 800 change at least one channel: on average 9.7 per position
    assert places.sum() == pytest.approx(800 * 7 / 8, abs=40) and places.min() >= 1 and places.max() <= 24


def test_more_queries_lower_margin_and_score(smooth, right):
    model, images, labels = smooth(4, images=12)
    few, many = (Square(eps=EPS, steps=steps)(model, images, labels, image_ids=range(12)) for steps in (1, 300))
    for k in range(12):
        one, other = (margin_of(model, points[k:k + 1], labels[k]) for points in (few, many))
        assert other < one
    assert right(model, many, labels).sum() < right(model, few, labels).sum() - 12


def test_square_rejects_l2_and_zero_queries():
    with pytest.raises(ValueError, match="linf norm only"):
        Square(eps=0.5, norm="l2")
    with pytest.raises(ValueError, match="at least 1 query"):
        Square(eps=0.1, steps=0)


def test_stripes_have_random_signs(smooth):
    """Half of 1200 are positive, within 5 standard deviations; neighbours and channels are independent."""
    model, images, labels = smooth(0, images=40, width=10)
    up = (Square(eps=1e-3, steps=1)(model, images, labels, image_ids=range(40)) > images)[:, :, 0].double() - 0.5
    assert up.mean().abs() < 5 * 0.5 / 1200**0.5
    assert (up[:, 1:] * up[:, :-1]).mean().abs() < 5 * 0.25 / 800**0.5
    assert (up[..., 1:] * up[..., :-1]).mean().abs() < 5 * 0.25 / 1080**0.5


@pytest.fixture
def grey(smooth):
    """(model, images [40, 3, 16, 16] of 1/2, labels)."""
    model, _, _ = smooth(0)
    return model, torch.full((40, 3, 16, 16), 0.5, dtype=torch.float64), torch.zeros(40, 16, 16, dtype=torch.int64)


def test_uniform_noise_is_uniform(grey):
    delta = (UniformNoise(eps=EPS)(*grey, image_ids=range(40)) - 0.5) / EPS
    assert delta.abs().max() <= 1 + 1e-12
    shares = torch.histc(delta.float(), bins=10, min=-1, max=1) / delta.numel()
    assert (shares - 0.1).abs().max() < 5 * (0.09 / delta.numel()) ** 0.5
    assert delta.mean().abs() < 5 * (1 / 3 / delta.numel()) ** 0.5
    neighbours = (delta[..., 1:] * delta[..., :-1]).mean(), (delta[:, 1:] * delta[:, :-1]).mean()
    assert max(map(abs, neighbours)) < 5 / 3 / (delta.numel() / 2) ** 0.5


def test_uniform_noise_in_l2_is_uniform_in_the_ball(grey):
    radius = (UniformNoise(eps=0.4, norm="l2")(*grey, image_ids=range(40)) - 0.5).flatten(1).norm(dim=1) / 0.4
    assert (radius <= 1 + 1e-12).all()
    volume = radius ** (3 * 16 * 16)  # uniform in [0, 1]
    assert volume.mean().item() == pytest.approx(0.5, abs=0.2) and volume.min() < 0.2 and volume.max() > 0.8


def test_sign_noise_has_the_largest_possible_size(grey):
    model, images, labels = grey
    delta = SignNoise(eps=EPS)(model, images, labels, image_ids=range(40)) - images
    assert ((delta.abs() - EPS).abs() < 1e-15).all()
    assert (delta > 0).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / delta.numel() ** 0.5)
    lengths = (SignNoise(eps=0.4, norm="l2")(model, images, labels) - images).flatten(1)
    torch.testing.assert_close(lengths.norm(dim=1), torch.full((40,), 0.4, dtype=torch.float64))
    assert lengths.abs().amax(1).sub(lengths.abs().amin(1)).max() < 1e-12
    images = images.clone()
    images[:, 0] = 0.01  # clipped at 0, as 0.01 is below eps
    found = SignNoise(eps=EPS)(model, images, labels, image_ids=range(40))[:, 0]
    assert ((found == 0) | ((found - 0.06).abs() < 1e-12)).all() and found.min() == 0 and found.max() > 0.05


@pytest.mark.parametrize("kind", [UniformNoise, SignNoise])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_does_not_depend_on_model_or_labels(kind, norm, smooth, queries):
    (model, images, labels), (other, _, _) = smooth(0), smooth(1)
    asked = queries(model)
    attack = kind(eps=EPS, norm=norm)
    outcome = attack.run(model, images, labels, image_ids=range(3))
    assert not asked and outcome.forwards.tolist() == outcome.backwards.tolist() == [0] * 3
    assert torch.equal(outcome.images, attack(other, images, torch.full_like(labels, 255), image_ids=range(3)))
    both = Noise(eps=EPS, norm=norm).run(model, images, labels, image_ids=range(3))
    assert len(asked) == 2 and both.forwards.tolist() == [2] * 3 and both.backwards.tolist() == [0] * 3
