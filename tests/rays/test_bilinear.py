"""Values of images at pixels: exact on centres, bilinear between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from selector_cases import COLS, ROWS, VIEWS, seeded

from mednerf_kit.core.types import Pixels
from mednerf_kit.rays.selectors.base import sample_bilinear


def test_looking_up_is_exact_on_centres():
    images = torch.rand(VIEWS, ROWS, COLS, generator=seeded())
    view, y, x = torch.meshgrid(
        torch.arange(VIEWS), torch.arange(ROWS), torch.arange(COLS), indexing="ij"
    )
    pixels = Pixels(view, torch.stack([y, x], -1).float(), torch.ones(view.shape))
    assert torch.equal(sample_bilinear(images, pixels), images)


def test_looking_up_between_centres_is_bilinear():
    images = torch.rand(VIEWS, ROWS, COLS, generator=seeded())
    yx = torch.rand(200, 2, generator=seeded(1)) * torch.tensor([ROWS - 1, COLS - 1])
    view = torch.randint(VIEWS, (200,), generator=seeded(2))
    found = sample_bilinear(images, Pixels(view, yx, torch.ones(200)))
    wanted = [
        ndimage.map_coordinates(images[v].numpy(), p[:, None].numpy(), order=1)[0]
        for v, p in zip(view, yx, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_looking_up_outside_takes_the_border():
    images = torch.rand(1, 4, 4, generator=seeded())
    pixels = Pixels(
        torch.zeros(2, dtype=torch.int64), torch.tensor([[-3.0, 1.0], [9.0, 9.0]]), torch.ones(2)
    )
    torch.testing.assert_close(
        sample_bilinear(images, pixels), torch.stack([images[0, 0, 1], images[0, 3, 3]])
    )


def test_looking_up_in_a_picture_of_one_row():
    images = torch.arange(5.0)[None, None]
    pixels = Pixels(
        torch.zeros(2, dtype=torch.int64), torch.tensor([[0.0, 1.5], [0.0, 4.0]]), torch.ones(2)
    )
    assert sample_bilinear(images, pixels).tolist() == [1.5, 4.0]


def test_looking_up_colours_is_looking_up_each_channel():
    images = torch.rand(VIEWS, ROWS, COLS, 3, generator=seeded())
    pixels = Pixels(torch.tensor([0, 2]), torch.tensor([[3.25, 4.5], [7.0, 0.75]]), torch.ones(2))
    torch.testing.assert_close(
        sample_bilinear(images, pixels),
        torch.stack([sample_bilinear(images[..., c], pixels) for c in range(3)], -1),
    )


def test_gradients_flow_to_the_pictures():
    images = torch.zeros(1, 3, 3, requires_grad=True)
    sample_bilinear(
        images,
        Pixels(torch.zeros(1, dtype=torch.int64), torch.tensor([[0.25, 1.5]]), torch.ones(1)),
    ).sum().backward()
    torch.testing.assert_close(
        images.grad[0, :2, 1:], torch.tensor([[0.375, 0.375], [0.125, 0.125]])
    )
    assert images.grad.sum().item() == pytest.approx(1)
