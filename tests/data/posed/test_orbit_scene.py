"""A patient of a set of X-rays as a scene: rays, lengths, patients."""

from dataclasses import replace

import pytest
import torch
from scene_files import refused

from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.orbit import cameras_of
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.imaging.geometry import DEFAULTS


@pytest.mark.parametrize(
    "set_up",
    [
        DEFAULTS["chest"].resized(12).orbit(5),
        replace(
            DEFAULTS["knee"].resized(10).orbit(4, start_deg=20, direction=-1),
            offset_mm=(12.0, -7.0),
            columns_flipped=False,
        ),
        replace(DEFAULTS["chest"].resized(8).orbit(3), axis="x", tilt_deg=15.0, rows=6),
    ],
)
def test_rays_of_an_orbit_are_those_of_its_geometry(set_up):
    cameras = cameras_of(set_up)
    view, yx = pixel_grid(cameras)
    angles = torch.tensor(set_up.angles_deg)[:, None, None].expand(view.shape)
    wanted, rays = set_up.field_rays(angles, yx, set_up.distance), cameras.rays(view, yx)
    assert torch.allclose(rays.origin, wanted.origin, atol=1e-5) and torch.allclose(
        rays.direction, wanted.direction, atol=1e-5
    )
    inside = wanted.far > wanted.near
    assert bool((rays.near <= wanted.near + 1e-4)[inside].all()) and bool(
        (rays.far >= wanted.far - 1e-4)[inside].all()
    )


def test_an_orbit_measures_line_integrals_in_its_own_lengths(example):
    """Chords of the toy's ball of half a field unit: the picture times its scale is what the ball
    attenuates.
    """
    scene = load_scene(example("orbit"), split="all")
    rays = scene.cameras.rays(*pixel_grid(scene.cameras))
    away = torch.tensor([0.2, -0.1, 0.15]) - rays.origin
    along = (away * rays.direction).sum(-1)
    chord = 2 * (0.25 - away.square().sum(-1) + along.square()).clamp_min(0).sqrt()
    integral = scene.images[..., 0].float() * scene.facts["line_integral_scale"]
    assert torch.allclose(integral, chord * scene.facts["mm_per_unit"] * 0.02, atol=5e-3)
    assert (
        scene.quantity == "line_integral"
        and scene.background == 0
        and scene.facts["patient"] == "anna"
    )


def test_patients_of_an_orbit(example):
    root = example("orbit")
    assert load_scene(root, patient="ben").facts["patient"] == "ben"
    refused("did you mean 'ben'", root=root, patient="bem")
    refused("white background", root=root, background="white")
    refused("test split has no views left", root=root, views=8, split="test")
