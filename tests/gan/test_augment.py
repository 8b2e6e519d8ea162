"""Augmentation: every preset keeps the contract, every transform does what its formula says, p
adapts.
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.gan.augment.apply import _filtered, _resampled, augmented
from mednerf_kit.gan.augment.parameters import BAND_POWER, Augment, AugmentParameters
from mednerf_kit.gan.augment.presets import AUGMENTATIONS
from mednerf_kit.gan.augment.probability import PROBABILITIES, AdaptiveProbability

PRESETS = list(AUGMENTATIONS.entries)
TRANSFORMS = [f.name for f in dataclasses.fields(Augment) if f.default == 0.0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int = 6, channels: int = 1, height: int = 24, width: int = 20) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=seeded(7))


def nothing(batch: int = 1, **changed: torch.Tensor) -> AugmentParameters:
    return Augment().draw(batch, (1, 8, 8), 1.0, seeded())._replace(**changed)


# The contract, for every preset


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_at_p_zero_every_picture_comes_back(name, channels):
    images = pictures(channels=channels)
    drawn = AUGMENTATIONS.build(name).draw(6, (channels, 24, 20), 0.0, seeded())
    assert torch.equal(augmented(images, drawn), images)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_same_parameters_same_result_and_the_seed_decides_them(name, channels):
    augment, images = AUGMENTATIONS.build(name), pictures(channels=channels)
    first, again, other = (augment.draw(6, (channels, 24, 20), 0.9, seeded(s)) for s in (1, 1, 2))
    answer = augmented(images, first)
    assert answer.shape == images.shape and answer.dtype == images.dtype and answer.isfinite().all()
    assert torch.equal(augmented(images, first), answer) and torch.equal(
        augmented(images, again), answer
    )
    assert torch.equal(augmented(images, other), answer) == (name == "none")
    replayed = AugmentParameters.from_json(json.loads(json.dumps(first.to_json())))
    assert torch.equal(augmented(images, replayed), answer)


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_does_not_depend_on_its_batch(name):
    images = pictures(channels=3)
    drawn = AUGMENTATIONS.build(name).draw(6, (3, 24, 20), 0.7, seeded(3))
    together = augmented(images, drawn)
    alone = torch.cat([augmented(images[i : i + 1], drawn.rows(slice(i, i + 1))) for i in range(6)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)
    touched = AUGMENTATIONS.build(name).draw(64, (1, 24, 20), 0.1, seeded(4))
    many = pictures(64)
    kept = [i for i, row in enumerate(zip(*touched, strict=True)) if is_identity(row)]
    assert len(kept) > 5 and torch.equal(augmented(many, touched)[kept], many[kept])


def is_identity(row: tuple[torch.Tensor, ...]) -> bool:
    matrix, color, bands, noise, _, hole = row
    return bool(
        (matrix == torch.eye(3)).all()
        and (color == torch.eye(4)).all()
        and (bands == 1).all()
        and noise == 0
        and hole[0] == hole[1]
    )


@pytest.mark.parametrize("name", PRESETS)
def test_gradients_flow_and_are_those_of_an_affine_map(name):
    images = pictures(3, 3).double().requires_grad_()
    drawn = AUGMENTATIONS.build(name).draw(3, (3, 24, 20), 1.0, seeded(5))
    toward, weight = (
        torch.randn(images.shape, generator=seeded(s), dtype=torch.float64) for s in (8, 9)
    )
    (gradient,) = torch.autograd.grad((augmented(images, drawn) * weight).sum(), images)
    with torch.no_grad():
        change = ((augmented(images + toward, drawn) - augmented(images, drawn)) * weight).sum()
    torch.testing.assert_close((gradient * toward).sum(), change, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(
        augmented(images, drawn).square().sum(), images, create_graph=True
    )
    slope.square().sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0


def test_presets_are_open_to_recipes():
    assert (
        AUGMENTATIONS.build({"name": "xray", "noise": 0}).noise
        == 0
        != AUGMENTATIONS.build("xray").noise
    )
    assert (
        AUGMENTATIONS.build("xray").xflip
        == AUGMENTATIONS.build("xray").lumaflip
        == AUGMENTATIONS.build("xray").rotate90
        == 0
    )
    assert AUGMENTATIONS.build("none") == Augment()
    assert AUGMENTATIONS["xray"].__doc__
    with pytest.raises(UserError, match="did you mean 'noise'"):
        AUGMENTATIONS.build({"name": "xray", "nois": 0})
    with pytest.raises(UserError, match="at least 0"):
        AUGMENTATIONS.build({"name": "xray", "noise": -1.0})
    with pytest.raises(UserError, match="crop_share"):
        Augment(crop_share=2.0)


# How often


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_happens_as_often_as_asked(name):
    """Flips and turns choose the identity too: (1 − 1/n)·p; the filter has four chances."""
    n, p = 2000, 0.5
    expected = {
        "xflip": p / 2,
        "lumaflip": p / 2,
        "rotate90": 0.75 * p,
        "filter": 1 - (1 - p) ** 4,
    }.get(name, p)
    drawn = Augment(**{name: 1.0}).draw(n, (3, 256, 256), p, seeded(11))
    touched = sum(not is_identity(row) for row in zip(*drawn, strict=True)) / n
    assert touched == pytest.approx(expected, abs=4 * math.sqrt(0.25 / n))
    halved = Augment(**{name: 0.5}).draw(n, (3, 256, 256), 1.0, seeded(12))
    touched = sum(not is_identity(row) for row in zip(*halved, strict=True)) / n
    assert touched == pytest.approx(expected, abs=4 * math.sqrt(0.25 / n))


def test_strengths_have_the_stated_spread():
    n = 4000
    drawn = Augment(scale=1, scale_octaves=0.3).draw(n, (1, 16, 16), 1.0, seeded())
    assert drawn.matrix[:, 0, 0].log2().std().item() == pytest.approx(0.3, rel=0.05)
    drawn = Augment(rotate=1, rotate_max_deg=10).draw(n, (1, 16, 16), 0.5, seeded())
    angle = torch.atan2(drawn.matrix[:, 1, 0], drawn.matrix[:, 0, 0]).rad2deg()
    assert angle.abs().max() <= 20 and 0.4 < (angle != 0).float().mean() < 0.6
    drawn = Augment(xfrac=1, xfrac_share=0.05).draw(n, (1, 20, 40), 1.0, seeded())
    np.testing.assert_allclose(drawn.matrix[:, :2, 2].std(0), [2.0, 1.0], rtol=0.05)
    drawn = Augment(xint=1, xint_share=0.125).draw(n, (1, 16, 32), 1.0, seeded())
    assert drawn.matrix[:, :2, 2].abs().amax(0).tolist() == [4.0, 2.0]
    drawn = Augment(noise=1, noise_std=0.2).draw(n, (1, 16, 16), 1.0, seeded())
    assert drawn.noise.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.05)


# Pixel moves and geometry


def test_mirroring_twice_is_nothing():
    images = pictures()
    drawn = Augment(xflip=1).draw(6, (1, 24, 20), 1.0, seeded(2))
    flipped = drawn.matrix[:, 0, 0] < 0
    assert 0 < flipped.sum() < 6
    answer = augmented(images, drawn)
    assert torch.equal(answer[flipped], images[flipped].flip(-1)) and torch.equal(
        answer[~flipped], images[~flipped]
    )
    assert torch.equal(augmented(answer, drawn), images)


@pytest.mark.parametrize("size", [15, 16])
def test_quarter_turns_are_exact(size):
    images = pictures(40, 1, size, size)
    answer = augmented(images, Augment(rotate90=1).draw(40, (1, size, size), 1.0, seeded()))
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    same = (turned == answer).all(-1).all(-1).all(-1)  # [4, 40]
    assert (same.sum(0) == 1).all() and (same.sum(1) > 3).all()


def test_whole_pixel_shifts_are_copies_mirrored_at_the_border():
    images = pictures(20)
    drawn = Augment(xint=1, xint_share=0.3).draw(20, (1, 24, 20), 1.0, seeded())
    answer = augmented(images, drawn).numpy()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="reflect")
    for i, (dx, dy) in enumerate(drawn.matrix[:, :2, 2].int().tolist()):
        assert np.array_equal(answer[i, 0], padded[i, 0, 8 + dy : 32 + dy, 8 + dx : 28 + dx])


def waves(points: torch.Tensor) -> torch.Tensor:
    """A smooth asymmetric picture as a function of (x, y) in pixels from the centre."""
    x, y = points[..., 0], points[..., 1]
    return 0.5 + 0.2 * (0.25 * x + 0.1 * y).sin() + 0.2 * (0.3 * y - 0.05 * x + 1).cos()


def test_geometry_moves_the_continuous_picture():
    """Against the picture's formula at the mapped points, where they lie inside."""
    n, size = 16, 48
    axis = torch.arange(size) - (size - 1) / 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    augment = Augment(
        xflip=1,
        rotate90=1,
        xint=1,
        scale=1,
        rotate=1,
        aniso=1,
        xfrac=1,
        scale_octaves=0.1,
        aniso_octaves=0.1,
    )
    drawn = augment.draw(n, (1, size, size), 1.0, seeded())
    answer = augmented(waves(grid).expand(n, 1, -1, -1), drawn)[:, 0]
    source = (
        torch.einsum("bij,hwj->bhwi", drawn.matrix[:, :2, :2], grid)
        + drawn.matrix[:, None, None, :2, 2]
    )
    inside = source.abs().amax(-1) < size / 2 - 3
    assert inside.float().mean() > 0.4
    error = (answer - waves(source))[inside]
    assert error.square().mean().sqrt() < 6e-4


def test_the_stretch_has_an_axis_of_its_own():
    """Turned before and after: neither the source's nor the result's axes are those of the
    stretch.
    """
    linear = Augment(aniso=1, rotate=1).draw(20, (1, 16, 16), 1.0, seeded()).matrix[:, :2, :2]
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(20))
    for product in (linear @ linear.mT, linear.mT @ linear):
        assert product[:, 0, 1].abs().max() > 0.05


def test_a_crop_shows_a_window_and_nothing_beyond():
    drawn = Augment(crop=1, crop_share=0.6).draw(200, (1, 20, 30), 1.0, seeded())
    corners = torch.tensor([[-15.0, -10, 1], [15, 10, 1], [-15, 10, 1], [15, -10, 1]])
    reached = (drawn.matrix @ corners.T)[:, :2].abs()
    assert reached[:, 0].max() <= 15.001 and reached[:, 1].max() <= 10.001
    assert 0.6 <= drawn.matrix[:, 0, 0].min() < 0.65 and drawn.matrix[:, 0, 0].max() > 0.95


def test_shrinking_does_not_alias():
    stripes = (torch.arange(32) % 2).float().expand(1, 1, 32, 32)
    shrunk = augmented(stripes, nothing(matrix=torch.diag(torch.tensor([1.7, 1.7, 1.0]))[None]))
    assert shrunk[..., 4:-4, 4:-4].std() < 0.03 < stripes.std()


def test_resampling_hardly_blurs():
    axis = torch.linspace(-1, 1, 64)
    disc = (((axis[:, None] ** 2 + axis**2) - 0.5) * -20).sigmoid()[None, None]
    error = _resampled(disc, torch.eye(3)[None]) - disc
    assert error.square().mean() < 3e-7


def test_resampling_is_differentiable_twice():
    matrix = Augment(scale=1, rotate=1, xfrac=1).draw(1, (1, 4, 5), 1.0, seeded()).matrix
    image = pictures(1, 1, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _resampled(x, matrix), image)
    assert torch.autograd.gradgradcheck(lambda x: _resampled(x, matrix).square(), image)


def test_xray_never_mirrors_nor_inverts():
    axis = torch.linspace(-1, 1, 32)
    side = (axis[:, None] * 0 + axis + 1) / 2 * (1 - axis[:, None] ** 2)  # bright on the right
    n = 300
    images = side.expand(n, 1, 32, 32)
    drawn = AUGMENTATIONS.build("xray").draw(n, (1, 32, 32), 1.0, seeded())
    assert (torch.linalg.det(drawn.matrix[:, :2, :2]) > 0).all() and (
        drawn.color[:, 0, 0] > 0
    ).all()
    answer = augmented(images, drawn)[:, 0]

    def alike(other: torch.Tensor) -> torch.Tensor:
        return ((answer - answer.mean((1, 2), keepdim=True)) * (other - other.mean())).sum((1, 2))

    assert (alike(side) > alike(side.flip(-1))).all() and (alike(side) > 0).float().mean() > 0.99


# Values


def test_color_is_the_affine_map_it_says():
    images = pictures(2000, 1, 4, 4)
    drawn = Augment(brightness=1, contrast=1, contrast_pivot=0.25).draw(
        2000, (1, 4, 4), 1.0, seeded()
    )
    answer = augmented(images, drawn)
    gain = drawn.color[:, 0, 0]
    shift = (drawn.color[:, 0, 3] - 0.25 * (1 - gain)) / gain
    truth = (images + shift[:, None, None, None] - 0.25) * gain[:, None, None, None] + 0.25
    torch.testing.assert_close(answer, truth, atol=1e-5, rtol=1e-5)
    assert gain.log2().std().item() == pytest.approx(0.5, rel=0.05)
    assert shift.std().item() == pytest.approx(0.1, rel=0.05)
    air = torch.zeros(50, 1, 24, 20)
    exposed = Augment(contrast=1, contrast_pivot=0).draw(50, (1, 24, 20), 1.0, seeded())
    assert torch.equal(augmented(air, exposed), air)


def test_negatives_and_hues_respect_the_grey_axis():
    grey = pictures(50).expand(-1, 3, -1, -1)
    drawn = Augment(lumaflip=1).draw(50, (3, 24, 20), 1.0, seeded())
    answer = augmented(grey, drawn)
    negative = (drawn.color[:, 0] != torch.eye(4)[0]).any(-1)
    assert 10 < negative.sum() < 40
    torch.testing.assert_close(answer[negative], 1 - grey[negative])
    torch.testing.assert_close(augmented(grey[:, :1], drawn), answer[:, :1])
    tinted = Augment(hue=1, saturation=1).draw(50, (3, 24, 20), 1.0, seeded())
    torch.testing.assert_close(augmented(grey, tinted), grey)
    colorful = pictures(50, 3)
    turned = augmented(colorful, Augment(hue=1).draw(50, (3, 24, 20), 1.0, seeded()))
    torch.testing.assert_close(turned.mean(1), colorful.mean(1))  # luma
    torch.testing.assert_close(turned.square().sum(1), colorful.square().sum(1))  # a rotation
    assert is_identity(
        next(zip(*Augment(hue=1, saturation=1).draw(1, (1, 8, 8), 1.0, seeded()), strict=True))
    )


def test_bands_add_up_and_separate_frequencies():
    images = pictures(2, 1, 32, 32)
    torch.testing.assert_close(_filtered(images, torch.ones(2, 4)), images)
    torch.testing.assert_close(_filtered(images, torch.full((2, 4), 3.0)), 3 * images)
    flat, stripes = torch.ones(1, 1, 32, 32), (-1.0) ** torch.arange(32).expand(1, 1, 32, 32)
    coarse, fine = torch.tensor([[5.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 1, 5]])
    torch.testing.assert_close(_filtered(flat, coarse), 5 * flat)
    torch.testing.assert_close(_filtered(flat, fine), flat)
    torch.testing.assert_close(_filtered(stripes, fine), 5 * stripes)
    torch.testing.assert_close(_filtered(stripes, coarse), stripes)


def test_the_coarse_band_is_three_smoothings():
    """A cosine that the mirrored border continues is passed by cos⁴(ω/2) · cos⁴(ω) · cos⁴(2ω)."""
    for k in (1, 3, 6):
        omega = math.pi * k / 32
        wave = (omega * torch.arange(33)).cos().expand(1, 1, 33, 33)
        passed = math.prod(math.cos(omega * step / 2) ** 4 for step in (1, 2, 4))
        torch.testing.assert_close(
            _filtered(wave, torch.tensor([[1.0, 0, 0, 0]])),
            passed * wave,
            atol=1e-5,
            rtol=1e-4,
        )


def test_filters_keep_the_expected_power():
    drawn = Augment(filter=1).draw(500, (1, 16, 16), 0.05, seeded())  # rarely two bands at once
    power = (drawn.bands.square() * torch.tensor(BAND_POWER)).sum(1)
    once = power.sub(1).abs() < 1e-5
    assert once.float().mean() > 0.97 and (drawn.bands != 1).any(1).float().mean() > 0.1


def test_noise_has_its_deviation_and_is_the_same_when_replayed():
    images = torch.full((4, 1, 64, 64), 0.5)
    drawn = nothing(4, noise=torch.tensor([0.0, 0.05, 0.1, 0.1]))
    answer = augmented(images, drawn)
    np.testing.assert_allclose(answer.std((1, 2, 3)), [0, 0.05, 0.1, 0.1], rtol=0.05)
    assert not torch.equal(answer[2], answer[3])


def test_cutout_blackens_a_box_and_nothing_else():
    images = pictures(100) + 1
    drawn = Augment(cutout=1, cutout_share=0.5).draw(100, (1, 24, 20), 1.0, seeded())
    answer = augmented(images, drawn)
    black = answer == 0
    assert torch.equal(answer[~black], images[~black])
    counts = black.sum((1, 2, 3))
    assert counts.max() <= 12 * 10 and counts.min() >= 6 * 5 - 11
    for picture in black[:, 0]:
        rows, columns = picture.any(1), picture.any(0)
        assert torch.equal(picture, rows[:, None] & columns)


# How p is chosen


@pytest.mark.parametrize("name", PROBABILITIES.entries)
def test_every_probability_stays_one_and_resumes(name):
    first, second = PROBABILITIES.build(name), PROBABILITIES.build(name)
    rng = seeded()
    for i in range(50):
        logits = torch.randn(8, generator=rng) + 3
        first.observe(logits)
        if i == 21:
            second.load(json.loads(json.dumps(first.state())))
        elif i > 21:
            second.observe(logits)
    assert first.p == second.p and first.state() == second.state() and 0 <= first.p <= 1


def test_ada_rises_falls_and_stops_at_its_limits():
    ada = AdaptiveProbability(interval=4, kimg=1.0)
    overfitted, fair = torch.ones(25), torch.tensor([1.0] * 15 + [-1.0] * 10)
    for _ in range(3):
        ada.observe(overfitted)
    assert ada.p == 0
    ada.observe(overfitted)
    assert ada.p == pytest.approx(0.1)  # 4 batches of 25 in 1000 pictures
    for _ in range(100):
        ada.observe(overfitted)
    assert ada.p == 0.8
    for _ in range(4):
        ada.observe(fair)  # r = 0.2
    assert ada.p == pytest.approx(0.7)
    for _ in range(100):
        ada.observe(fair)
    assert ada.p == 0
    for _ in range(8):
        ada.observe(torch.tensor([1.0] * 8 + [-1.0] * 2))  # r is the target
    assert ada.p == 0


def test_fixed_probability_stays():
    fixed = PROBABILITIES.build({"name": "fixed", "p": 0.25})
    fixed.observe(torch.ones(1000))
    assert fixed.p == 0.25
    with pytest.raises(UserError, match="between 0 and 1"):
        PROBABILITIES.build({"name": "fixed", "p": 2.0})
    with pytest.raises(UserError, match="positive"):
        AdaptiveProbability(kimg=0.0)
