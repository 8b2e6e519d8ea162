"""The linear model of candidates' pixels: closed forms of linear Gaussian models."""

import torch
from torch import Generator

from mednerf_kit.invert.linear_pixels import LinearPixels


def test_of_a_linear_picture_one_step_is_the_exact_answer() -> None:
    """The mean of a Gaussian posterior, from whatever codes the step starts."""
    rng = Generator().manual_seed(0)
    codes, slope = torch.randn(400, 5, generator=rng), torch.randn(5, 30, generator=rng)
    offset = torch.randn(30, generator=rng)
    model = LinearPixels(slope, 0.0)
    start, centres = codes[:3], codes[3:6]
    truth = codes[7] @ slope + offset
    found = start + model.step(start, truth - (start @ slope + offset), centres, 0.25)
    exact = torch.linalg.solve(
        slope @ slope.T / 0.25 + torch.eye(5), ((truth - offset) @ slope.T / 0.25 + centres).T
    ).T
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_the_model_is_found_from_candidates_and_says_how_wrong_it_is() -> None:
    rng = Generator().manual_seed(1)
    codes, slope = torch.randn(300, 8, generator=rng), torch.randn(8, 40, generator=rng)
    noise = 0.5 * torch.randn(300, 40, generator=rng)
    model = LinearPixels.fit(codes, codes @ slope + 3 + noise)
    assert float((model.slope - slope).norm() / slope.norm()) < 0.1
    assert 0.8 * 0.25 < model.error < 1.3 * 0.25


def test_fewer_candidates_than_codes_make_a_careful_model() -> None:
    rng = Generator().manual_seed(2)
    codes = torch.randn(20, 60, generator=rng)
    pixels = torch.randn(20, 30, generator=rng)  # which no code determines
    model = LinearPixels.fit(codes, pixels)
    assert float((codes @ model.slope).square().mean()) < 0.3
    assert model.error < 1.5
