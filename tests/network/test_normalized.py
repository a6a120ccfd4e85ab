"""NormalizedModel: normalisation inside the model."""
import pytest
import torch
from torch import nn

from network import NormalizedModel

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_equals_manual_normalisation():
    bare = nn.Conv2d(3, 2, 3)
    images = torch.rand(2, 3, 8, 9)
    by_hand = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(NormalizedModel(bare, MEAN, STD)(images), bare(by_hand))


def test_buffers_have_their_shape_and_stay_out_of_checkpoints():
    bare = nn.Conv2d(3, 2, 3)
    model = NormalizedModel(bare, MEAN, STD)
    assert model.model is bare
    assert model.mean.shape == model.std.shape == (1, 3, 1, 1)
    assert set(model.state_dict()) == {"model.weight", "model.bias"}


def test_normalization_is_plain_exact_and_can_be_set():
    model = NormalizedModel(nn.Identity(), MEAN, STD)
    assert model.normalization == {"mean": MEAN, "std": STD}
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    model.normalization = half
    assert model.normalization == half
    assert torch.equal(model(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    model.normalization["mean"][0] = 9.0  # a copy: the model doesn't change
    assert model.normalization == half


@pytest.mark.parametrize("std", [[0.0, 1.0, 1.0], [1.0, 1.0]])
def test_invalid_normalization_is_an_error(std):
    model = NormalizedModel(nn.Identity(), MEAN, STD)
    with pytest.raises(ValueError, match="positive std"):
        model.normalization = {"mean": MEAN, "std": std}
    assert model.normalization == {"mean": MEAN, "std": STD}


def test_gradients_are_of_the_images_in_0_1():
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    NormalizedModel(nn.Identity(), MEAN, STD)(images).sum().backward()
    torch.testing.assert_close(images.grad[0, :, 0, 0], 1 / torch.tensor(STD))
