"""Images for files and dashboards."""
import numpy as np
import pytest
import torch

from utils.images import choose_evenly, overlay, scale_perturbation, to_uint8


def test_pixels_are_rounded_not_cut_off():
    levels = torch.arange(256, dtype=torch.float32) / 255
    image = levels.view(1, 16, 16).expand(3, 16, 16)
    assert (to_uint8(image) == np.arange(256).reshape(16, 16, 1)).all()
    assert (to_uint8(image * (1 - 1e-6)) == np.arange(256).reshape(16, 16, 1)).all()


def test_channels_come_last():
    image = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 2, 4)
    assert to_uint8(image).shape == (2, 4, 3) and to_uint8(image)[1, 3].tolist() == [255, 128, 0]


def test_class_colours_over_an_image():
    image, colours = np.full((1, 1, 3), 51, np.uint8), np.full((1, 1, 3), 100, np.uint8)
    assert overlay(image, colours).tolist() == [[[85, 85, 85]]]  # 0.3 * 51 + 0.7 * 100 = 85.3
    assert overlay(image, colours).dtype == np.uint8


def test_a_perturbation_is_grey_where_it_is_zero_and_uses_the_whole_range():
    delta = torch.zeros(3, 2, 2)
    delta[:, 0, 0], delta[:, 1, 1] = 0.02, -0.01
    assert to_uint8(scale_perturbation(delta))[..., 0].tolist() == [[255, 128], [128, 64]]
    assert (scale_perturbation(torch.zeros(3, 2, 2)) == 0.5).all()


@pytest.mark.parametrize(("length", "count", "places"), [
    (10, 3, [0, 4, 9]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (7, 1, [0]), (7, 0, []), (101, 4, [0, 33, 66, 100])])
def test_evenly_spaced(length, count, places):
    assert choose_evenly(length, count) == places
