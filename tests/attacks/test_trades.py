"""The attack of TRADES, against an independent one."""
import pytest
import torch
import torch.nn.functional as F

from attacks import TradesPGD


def attack_plainly(model, images, labels, *, eps, size, steps, noise, l2=False):
    """Zhang et al., algorithm 1, with torch's kl_div, in float64."""
    clean = F.softmax(model(images), 1).detach()
    counted = (labels != 255)[:, None].expand_as(clean)

    def project(points):
        delta = points - images
        if l2:
            norms = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = delta * (eps / norms).clamp(max=1)
        else:
            delta = delta.clamp(-eps, eps)
        return (images + delta).clamp(0, 1)

    points = project(images + noise)
    for _ in range(steps):
        points = points.detach().requires_grad_()
        loss = F.kl_div(F.log_softmax(model(points), 1)[counted], clean[counted], reduction="sum")
        gradient, = torch.autograd.grad(loss, points)
        step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if l2 else gradient.sign()
        points = project(points.detach() + size * step)
    return points.detach()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 4 / 255), ("l2", 0.3)])
def test_trades_is_the_papers(smooth, norm, eps):
    model, images, labels = smooth(1)
    torch.manual_seed(5)
    found = TradesPGD(eps=eps, steps=4, step_size=eps / 3, norm=norm).run(model, images, labels)
    torch.manual_seed(5)
    expected = attack_plainly(model, images, labels, eps=eps, size=eps / 3, steps=4, l2=norm == "l2",
                              noise=0.001 * torch.randn(images.shape, dtype=images.dtype))
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-9)
    assert found.forwards.tolist() == [5] * 3 and found.backwards.tolist() == [4] * 3
    assert not any(parameter.grad is not None or not parameter.requires_grad for parameter in model.parameters())


def test_labels_say_only_which_pixels_count(smooth):
    model, images, labels = smooth(2)
    found = []
    for seen in (labels, torch.where(labels == 255, 255, 0), torch.zeros_like(labels)):
        torch.manual_seed(5)
        found.append(TradesPGD(eps=4 / 255, steps=3)(model, images, seen))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_it_leads_further_from_the_prediction_than_noise(smooth):
    model, images, labels = smooth(3)
    clean = model(images).log_softmax(1)

    def diverge(points):
        return F.kl_div(model(points).log_softmax(1), clean, reduction="sum", log_target=True).item()

    torch.manual_seed(5)
    corners = [images + 4 / 255 * torch.where(torch.rand_like(images) < 0.5, -1.0, 1.0) for _ in range(20)]
    assert diverge(TradesPGD(eps=4 / 255, steps=5)(model, images, labels)) > max(map(diverge, corners))


def test_logits_that_are_not_finite_are_an_error(smooth):
    model, images, labels = smooth(4)
    with torch.no_grad():
        model.body[0].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="TradesPGD.*not finite"):
        TradesPGD(eps=4 / 255)(model, images, labels)
