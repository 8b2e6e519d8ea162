"""Films made from line integrals, against closed forms."""

import math

import pytest
import torch
from torch import Generator

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.film import CURVES, FILMS, IMPLANTS, Beam, FilmOptions, make_film
from mednerf_kit.imaging.film.curves import (
    Equalised,
    Gamma,
    LightBox,
    Transmission,
    Window,
    jnd_index,
)
from mednerf_kit.imaging.film.exposure import blurred, locally_equalised

RAMP = torch.linspace(0, 1, 1024).reshape(32, 32)
SETUP = {"scale": 7.5, "pixel_mm": 4.0}


def film(p, **options):
    return make_film(p, **SETUP, options=FilmOptions(**options)).pixels


@pytest.mark.parametrize("name", sorted(CURVES.entries))
def test_every_curve_rises_from_black_to_white(name):
    y = CURVES.build(name)(RAMP).flatten()
    assert float(y[0]) == pytest.approx(0, abs=1e-6) and float(y[-1]) == pytest.approx(1, abs=1e-6)
    assert bool((y.diff() >= -1e-6).all()) and y.unique().numel() > 500


@pytest.mark.parametrize("name", sorted(set(CURVES.entries) - {"equalised"}))
def test_every_point_curve_has_finite_slopes_to_the_ends(name):
    u = RAMP.clone().requires_grad_()
    CURVES.build(name)(u).sum().backward()
    assert bool(u.grad.isfinite().all()) and bool((u.grad >= 0).all())


def test_curves_that_undo_each_other():
    y = Gamma(gamma=1 / 1.6)(Gamma(gamma=1.6)(RAMP))
    torch.testing.assert_close(y, RAMP, atol=1e-5, rtol=0)
    # exp(k u) − 1 turned over is 1 − exp(−k u) seen from the other end
    k = 2.0 * math.log(10) / 2.2
    convex, concave = LightBox(density=2.0)(RAMP), Transmission(depth=k)(1 - RAMP)
    torch.testing.assert_close(convex, 1 - concave, atol=1e-6, rtol=0)


def test_transmission_shows_the_intensity():
    y = film(RAMP, curve=Transmission(depth=7.5))
    expected = (1 - torch.exp(-7.5 * RAMP)) / (1 - math.exp(-7.5))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


def test_a_window_clips_where_it_says():
    y = Window(low=0.2, high=0.6)(RAMP)
    assert torch.equal(y == 0, RAMP <= 0.2) and torch.equal(y == 1, RAMP >= 0.6)


def test_equalisation_makes_every_grey_value_as_frequent_as_any_other():
    u = 0.03 + 0.9 * torch.rand(64, 64, generator=Generator().manual_seed(0)) ** 3
    counts = torch.histc(Equalised(strength=1.0)(u), 8, 0, 1)
    assert float(counts.max() / counts.min()) < 1.1
    pair = torch.stack([u, 0.5 * u])  # each picture by its own histogram
    assert torch.equal(Equalised()(pair)[0], Equalised()(u))


def test_local_equalisation_brightens_what_is_dim_among_the_dark():
    p = torch.full((64, 64), 0.2)
    p[:, 32:] = 0.8
    p[:, :32] += 0.1 * torch.rand(64, 32, generator=Generator().manual_seed(0))
    p[32, 8] = p[32, 56] = 0.5  # the same grey value in either surrounding
    y = locally_equalised(p)
    assert float(y[32, 8]) > float(y[32, 56]) + 0.05
    assert float(y.min()) >= 0 and float(y.max()) <= 1


def test_the_display_function_undoes_its_inverse():
    # DICOM PS3.14, equation 1: log10 of the luminance of a JND index
    j = torch.arange(1.0, 1024.0, dtype=torch.float64)
    ln = j.log()
    over = (-1.3011877, 8.0242636e-2, 1.3646699e-1, -2.5468404e-2, 1.3635334e-3)
    under = (1.0, -2.5840191e-2, -1.0320229e-1, 2.8745620e-2, -3.1978977e-3, 1.2992634e-4)
    top, bottom = (sum(c * ln**k for k, c in enumerate(some)) for some in (over, under))
    torch.testing.assert_close(jnd_index(top / bottom), j, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    ("detector", "thickness_mm", "mu_per_mm"),
    [
        ("photons", 1.0, 0.0277),
        ("photons", 200.0, 0.0229),
        ("energy", 1.0, 0.0246),
        ("energy", 200.0, 0.0217),
    ],
)
def test_water_behind_100_kv_attenuates_as_the_spectrum_says(detector, thickness_mm, mu_per_mm):
    beam = Beam(tube_kv=100, detector=detector)
    assert beam.effective_mu_per_mm("water", thickness_mm) == pytest.approx(mu_per_mm, rel=0.01)


@pytest.mark.parametrize("material", ["water", "bone", "titanium", "iron"])
def test_a_beam_hardens_and_a_higher_voltage_penetrates(material):
    depths = [0.5, 5.0, 20.0]
    soft, hard = (
        [Beam(tube_kv=kv).effective_mu_per_mm(material, t) for t in depths] for kv in (70, 120)
    )
    assert soft == sorted(soft, reverse=True) and hard == sorted(hard, reverse=True)
    assert all(a > b for a, b in zip(soft, hard, strict=True))


def test_bone_hardens_a_beam_otherwise_than_water_of_the_same_line_integral():
    p, beam = torch.full((8, 8), 0.4), Beam(tube_kv=70)
    water = make_film(p, **SETUP, options=FilmOptions(beam=beam)).pixels
    bone = make_film(p, **SETUP, options=FilmOptions(beam=beam), bone_unit=0.5 * p).pixels
    mono = make_film(p, **SETUP, bone_unit=0.5 * p).pixels
    torch.testing.assert_close(mono, p)
    expected = beam.transmission(
        {"water": torch.tensor(1.5 / 0.0205), "bone": torch.tensor(1.5 / 0.0604)}
    )
    assert float(bone[0, 0]) == pytest.approx(-math.log(float(expected)) / 7.5, rel=1e-5)
    assert abs(float((bone - water).mean())) > 0.005


def test_scatter_of_a_uniform_field_is_its_share():
    p, ratio = 3.0, 1.5
    y = film(torch.full((24, 40), p / 7.5), scatter_ratio=ratio)
    share = ratio * (1 - math.exp(-p))  # of the primary; all of it behind a thick object
    total = math.exp(-p) * (1 + share)
    torch.testing.assert_close(y, torch.full_like(y, -math.log(total) / 7.5), atol=1e-6, rtol=0)


def test_scatter_is_smooth_lies_below_and_air_makes_none():
    p = torch.zeros(64, 64)
    assert torch.equal(film(p, scatter_ratio=2.0), p)
    p[16:48, 16:48] = 0.5
    p[30:34, 30:34] = 0.9
    scattered = torch.exp(-7.5 * film(p, scatter_ratio=1.0)) - torch.exp(-7.5 * p)
    inside = scattered[20:44, 20:44]
    assert float(inside.min()) > 0 and float(inside.max() / inside.min()) < 1.4
    dense, soft = (film(p, scatter_ratio=1.0)[k, k] for k in (32, 24))
    assert float(dense - soft) < 0.4  # contrast is lost


def test_a_blur_keeps_uniform_pictures_and_spreads_a_point():
    torch.testing.assert_close(blurred(torch.ones(3, 9, 17), 4.0), torch.ones(3, 9, 17))
    point = torch.zeros(65, 65)
    point[32, 32] = 1.0
    spread = blurred(point, 3.0)
    y = torch.arange(65.0) - 32
    assert float((spread.sum(1) * y**2).sum().sqrt()) == pytest.approx(3.0, rel=0.01)


def test_noise_has_the_mean_and_the_variance_of_its_counts():
    p, photons = 0.2, 4000.0
    options = FilmOptions(photons=photons)
    y = make_film(
        torch.full((200, 200), p), **SETUP, options=options, rng=Generator().manual_seed(0)
    ).pixels
    intensity = torch.exp(-7.5 * y)
    expected = math.exp(-7.5 * p)
    assert float(intensity.mean()) == pytest.approx(expected, rel=0.002)
    assert float(intensity.var()) == pytest.approx(expected / photons, rel=0.03)


def test_the_same_rng_gives_the_same_film_and_noise_without_one_is_refused():
    p = RAMP * 0.6
    options = FilmOptions(photons=1e4, scatter_ratio=1.0)
    a, b, c = (
        make_film(p, **SETUP, options=options, rng=Generator().manual_seed(seed)).pixels
        for seed in (3, 3, 4)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    with pytest.raises(ValueError, match="rng"):
        make_film(p, **SETUP, options=options)


def test_gain_shifts_log_exposure():
    y = film(torch.full((8, 8), 0.5), gain=math.exp(1.5))
    torch.testing.assert_close(y, torch.full_like(y, 0.5 - 1.5 / 7.5))


def test_letters_change_no_other_pixel_and_leave_the_mask():
    p = 0.8 * RAMP.repeat(4, 4)
    bare, made = (
        make_film(p, **SETUP, options=FilmOptions(**options))
        for options in ({}, {"marker": "L", "caption": "PA ERECT"})
    )
    inked = made.pixels != bare.pixels
    assert torch.equal(made.mask, ~inked) and bool(bare.mask.all())
    assert 50 < int(inked.sum()) < 0.05 * p.numel() and float(made.pixels.max()) == 1
    rows, cols = torch.nonzero(inked, as_tuple=True)
    upper = rows < 64
    assert int(cols[upper].min()) > 64 and int(rows[~upper].min()) > 110  # where they belong


def test_blades_cover_what_they_say():
    p = torch.full((40, 80), 0.3)
    blades = (0.25, 0.1, 0.0, 0.5)
    dark = make_film(p, **SETUP, options=FilmOptions(blades=blades, shutter=True))
    white = make_film(p, **SETUP, options=FilmOptions(blades=blades))
    expected = torch.zeros(40, 80, dtype=torch.bool)
    expected[4:20, 20:] = True
    assert torch.equal(dark.mask, expected) and torch.equal(white.mask, expected)
    torch.testing.assert_close(dark.pixels, torch.where(expected, 0.3, 0.0))
    assert float(white.pixels[~expected].min()) == 1  # unexposed


@pytest.mark.parametrize("name", sorted(IMPLANTS.entries))
@pytest.mark.parametrize("beam", [None, Beam()])
def test_metal_adds_its_line_integral_and_no_more(name, beam):
    p = torch.full((128, 128), 0.3)
    bare, with_metal = film(p, beam=beam), film(p, beam=beam, implant=name)
    added = with_metal - bare
    assert float(added.min()) == pytest.approx(0, abs=1e-6)
    assert 0.002 < float((added > 0.02).float().mean()) < 0.1
    metal_mm = IMPLANTS[name](rows=128, cols=128, pixel_mm=4.0)
    if beam is None:
        torch.testing.assert_close(
            added, (0.348 * metal_mm / 7.5).clamp_max(0.7), atol=1e-5, rtol=0
        )


def test_a_rod_is_as_thick_as_its_diameter():
    assert float(IMPLANTS["rod"](rows=64, cols=601, pixel_mm=0.2).max()) == pytest.approx(
        6, abs=0.1
    )


@pytest.mark.parametrize("name", sorted(FILMS))
def test_every_film_of_the_bank_is_a_film(name):
    p = 0.7 * RAMP.repeat(2, 2)
    made = make_film(p, **SETUP, options=FILMS[name], rng=Generator().manual_seed(0))
    assert made.pixels.shape == p.shape and made.mask.shape == p.shape
    assert bool(made.pixels.isfinite().all()) and float(made.pixels.std()) > 0.05
    assert float(made.pixels.min()) >= 0 and float(made.pixels.max()) <= 1


def test_a_film_without_noise_is_differentiable():
    p = (0.1 + 0.5 * RAMP).requires_grad_()
    make_film(p, **SETUP, options=FILMS["scatter_sigmoid"]).pixels.sum().backward()
    assert bool(p.grad.isfinite().all()) and float(p.grad.min()) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Beam(tube_kv=90),
        lambda: Beam(detector="film"),
        lambda: Window(low=0.5, high=0.5),
        lambda: Gamma(gamma=0.0),
        lambda: FilmOptions(blades=(0.5, 0, 0.5, 0)),
        lambda: FilmOptions(implant="rodd"),
        lambda: FilmOptions(implant_metal="gold"),
        lambda: CURVES.build("sigmoyd"),
    ],
)
def test_what_cannot_be_exposed_is_refused_in_a_sentence(wrong):
    with pytest.raises(UserError, match="; wanted "):
        wrong()
