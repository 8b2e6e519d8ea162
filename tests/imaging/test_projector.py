"""The Joseph projector against closed forms, dense ray marching, its own transpose and the
convention of the orbit.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging import joseph_rays
from mednerf_kit.imaging import projector as joseph
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.joseph_rays import aim
from mednerf_kit.imaging.orbit_of_frames import geometry_of_frames
from mednerf_kit.imaging.projector import Projector, project_volume
from mednerf_kit.imaging.view_frames import ViewFrame

ANGLES_DEG = (0.0, 30.0, 45.0, 60.0, 90.0, 137.0)
# centre and radius mm, mu per mm
SPHERES = (((0, 0, 0), 90, 0.02), ((30, -20, 25), 30, 0.02), ((-35, 25, -30), 25, -0.01))
BENCH = Geometry(
    source_to_isocentre_mm=1000,
    source_to_detector_mm=1500,
    rows=128,
    cols=128,
    pixel_mm=3.75,
    angles_deg=ANGLES_DEG,
)
SMALL = Geometry(
    source_to_isocentre_mm=300,
    source_to_detector_mm=500,
    rows=9,
    cols=11,
    pixel_mm=9.0,
    angles_deg=(0, 40, 100, 215),
)


def spheres(size: int, spacing_mm: float, finer: int = 4) -> Tensor:
    """The three spheres as voxel averages of finer³ points each, [size, size, size]."""
    c = (torch.arange(size * finer) - (size * finer - 1) / 2) * spacing_mm / finer
    slabs = []
    for z in c.split(finer):
        inside = [
            mu
            * (
                ((c - x0) ** 2 + ((c - y0) ** 2)[:, None] + ((z - z0) ** 2)[:, None, None]) <= r * r
            ).float()
            for (x0, y0, z0), r, mu in SPHERES
        ]
        slabs.append(avg_pool3d(sum(inside)[None], finer)[0])
    return torch.cat(slabs)


def chords(geometry: Geometry) -> Tensor:
    """Closed form: mu times the chord 2·sqrt(r² − distance²) of every ray in every sphere, [V,
    rows, cols].
    """
    rays = geometry.rays(torch.tensor(geometry.angles_deg)[:, None, None], geometry.pixel_grid())
    total = torch.zeros(rays.near.shape)
    for centre, radius, mu in SPHERES:
        to = torch.tensor(centre) - rays.origin
        apart = to.square().sum(-1) - (to * rays.direction).sum(-1) ** 2
        total += 2 * mu * (radius**2 - apart).clamp_min(0).sqrt()
    return total


def march(
    values: Tensor, spacing_mm: Tensor, geometry: Geometry, centre_mm: Tensor, steps: int = 3000
) -> Tensor:
    """Brute force: the zero-padded trilinear volume [D, H, W] summed at many points of
    Geometry.rays.
    """
    rays = geometry.rays(torch.tensor(geometry.angles_deg)[:, None, None], geometry.pixel_grid())
    reach = float(
        (torch.tensor(values.shape[::-1]) * spacing_mm).norm() / 2
        + centre_mm.norm()
        + spacing_mm.max()
    )
    step = 2 * reach / steps
    total = torch.zeros(rays.near.shape)
    for k in range(steps):
        t = geometry.source_to_isocentre_mm - reach + (k + 0.5) * step
        where = (
            2
            * (rays.origin + t * rays.direction - centre_mm)
            / (torch.tensor(values.shape[::-1]) * spacing_mm)
        )
        total += grid_sample(values[None, None], where[None], align_corners=False)[0, 0]
    return total * step


def blobs(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """A smooth random volume: coarse noise, enlarged."""
    noise = torch.rand(
        (1, 1, *(max(2, n // 6) for n in shape)), generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(noise, shape, mode="trilinear", align_corners=False)[
        0, 0
    ]


def nrmse(image: Tensor, truth: Tensor) -> float:
    return float((image - truth).square().mean().sqrt() / (truth.max() - truth.min()))


def test_three_spheres_at_six_angles():
    truth, images = chords(BENCH), project_volume(spheres(128, 2.0), (2, 2, 2), BENCH)
    assert [nrmse(a, b) < 0.004 for a, b in zip(images, truth, strict=True)] == [True] * 6


def test_a_slab_is_crossed_along_its_thickness():
    """Through a wide plate every line integral is mu·thickness / cos(angle to its normal)."""
    geometry = SMALL.at([90.0])
    image = project_volume(torch.full((60, 8, 60), 0.02), (5, 5, 5), geometry)[0]
    rays = geometry.rays(torch.full((9, 11), 90.0), geometry.pixel_grid())
    torch.testing.assert_close(image, 0.02 * 40 / rays.direction[..., 1].abs(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"axis": "x"},
        {"axis": "y"},
        {"tilt_deg": 35.0},
        {"tilt_deg": -60.0, "axis": "y"},
        {"offset_mm": (17.0, -9.0)},
        {"columns_flipped": False},
        {"pixel_mm": 25.0},  # many rays miss the volume
        {"pixel_mm": 60.0},  # a fan of 67° each way: rays of one view cross different axes
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()) or "plain",
)
def test_equals_dense_marching(change):
    geometry = dataclasses.replace(SMALL, **change)
    values, spacing, centre = (
        blobs((40, 36, 44)),
        torch.tensor([2.0, 2.5, 3.0]),
        torch.tensor([4.0, -7.0, 5.0]),
    )
    truth = march(values, spacing, geometry, centre)
    assert nrmse(project_volume(values, spacing, geometry, centre_mm=centre), truth) < 0.005
    assert truth.max() > 10


def test_views_with_frames_of_their_own_equal_dense_marching():
    """A C-arm's: tilted, displaced, turned in the plane, and of pixels that are not square."""
    frames = [
        ViewFrame(
            source_mm=(20, 300, 90),
            detector_mm=(-10, -200, -60),
            column_mm=(9, 1, 0),
            row_mm=(1, 3, -12),
        ),
        ViewFrame(
            source_mm=(-250, 140, -120),
            detector_mm=(170, -90, 60),
            column_mm=(3, 8, 2),
            row_mm=(-4, 1, 9),
        ),
    ]
    geometry = geometry_of_frames(frames, rows=9, cols=11)
    values, spacing, centre = (
        blobs((40, 36, 44)),
        torch.tensor([2.0, 2.5, 3.0]),
        torch.tensor([4.0, -7.0, 5.0]),
    )
    yx = geometry.pixel_grid().expand(2, -1, -1, -1)
    view = torch.arange(2)[:, None, None].expand(yx.shape[:-1])
    rays = geometry.view_rays(view, yx)
    images = project_volume(values, spacing, geometry, centre_mm=centre)
    unit_mm, steps, whole = geometry.half_width_mm, 4000, torch.zeros(2, 9, 11)
    extent = torch.tensor(values.shape[::-1]) * spacing
    for t in (torch.arange(steps) + 0.5) * (600 / steps):
        where = 2 * (rays.origin * unit_mm + t * rays.direction - centre) / extent
        sample = values.expand(2, 1, -1, -1, -1)
        whole += grid_sample(sample, where[:, None], align_corners=False)[:, 0, 0] * 600 / steps
    assert nrmse(images, whole) < 0.005 and whole.max() > 10
    a = Projector(values.shape, spacing, geometry)
    x, y = torch.rand(values.shape), torch.rand(2, 9, 11)
    torch.testing.assert_close((a(x) * y).sum(), (x * a.adjoint(y)).sum(), rtol=1e-5, atol=0)


def test_worst_obliquity_of_the_knee_set_up():
    geometry = dataclasses.replace(
        DEFAULTS["knee"].resized(32), angles_deg=(0.0, 44.0, 46.0, 130.0)
    )
    values, spacing = blobs((48, 48, 48), seed=1), torch.tensor([4.0, 4.0, 4.0])
    assert (
        nrmse(
            project_volume(values, spacing, geometry),
            march(values, spacing, geometry, torch.zeros(3)),
        )
        < 0.005
    )


def test_thick_slices_are_crossed_along_the_axis_counted_in_voxels():
    """A steep ray that moves 0.87 of 5 mm slices but 0.5 of 1 mm columns per millimetre goes by the
    columns.
    """
    steep = dataclasses.replace(SMALL, tilt_deg=60.0, angles_deg=(0.0,))
    steep = (steep.frames_of_views(), (steep.rows, steep.cols))
    assert [b.axis for b in aim((8, 40, 40), (1, 1, 5), *steep)] == [0]
    assert [b.axis for b in aim((40, 40, 40), (1, 1, 1), *steep)] == [2]


@pytest.mark.parametrize("wide", [False, True])
def test_adjoint(wide):
    geometry = dataclasses.replace(SMALL, tilt_deg=20.0, pixel_mm=60.0 if wide else 9.0)
    a = Projector((12, 10, 14), (6, 7, 5), geometry, centre_mm=(3, -4, 5))
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 12, 10, 14, generator=g, requires_grad=True)
    y = torch.rand(2, 3, 4, 9, 11, generator=g)
    forward = (a(x) * y).sum()
    back = a.adjoint(y)
    torch.testing.assert_close(forward, (x * back).sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.autograd.grad(forward, x)[0], back)


def test_every_gradient_is_the_finite_difference():
    """Volume, angles and centre in double precision; and the gradient's gradient in the volume."""
    geometry = dataclasses.replace(SMALL, rows=2, cols=3, pixel_mm=25.0, tilt_deg=10.0)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    angles = torch.tensor([11.0, 77.0], dtype=torch.float64, requires_grad=True)
    centre = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64, requires_grad=True)

    def run(x, angles, centre):
        return project_volume(x, (21, 16, 20), geometry, angles, centre_mm=centre)

    assert torch.autograd.gradcheck(run, (x, angles, centre), eps=1e-5)
    assert torch.autograd.gradgradcheck(
        lambda x: run(x, angles.detach(), centre.detach()).square(), (x,)
    )


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_gradients_stay_finite(value):
    x = torch.full((8, 8, 8), value, requires_grad=True)
    angles = torch.tensor([0.0, 45.0, 90.0], requires_grad=True)
    image = project_volume(x, (10, 10, 10), SMALL, angles)
    image.sum().backward()
    assert all(torch.isfinite(t).all() for t in (image, x.grad, angles.grad))


def column_row(image: Tensor) -> tuple[float, float]:
    """Centre of mass relative to the image's centre, positive to the right and up."""
    rows, cols = image.shape
    weight = image / image.sum()
    return (
        float((weight.sum(0) * (torch.arange(cols) - (cols - 1) / 2)).sum()),
        float((weight.sum(1) * ((rows - 1) / 2 - torch.arange(rows))).sum()),
    )


@pytest.mark.parametrize(
    ("spot_zyx", "angle_deg", "right", "up"),
    [
        ((10, 10, 16), 270.0, 1, 0),  # the patient's left is on the right of the clinical PA film
        ((10, 10, 16), 90.0, -1, 0),  # and on the left of the frontal view from the other side
        ((16, 10, 10), 0.0, 0, 1),  # superior is up
        ((16, 10, 10), 137.0, 0, 1),
        # posterior: from the patient's left side, image right is −y, anterior
        ((10, 16, 10), 0.0, -1, 0),
        ((10, 16, 10), 180.0, 1, 0),
        ((10, 10, 16), 0.0, 0, 0),  # left lies towards the source at 0°
    ],
)
def test_orientation(spot_zyx, angle_deg, right, up):
    values = torch.zeros(21, 21, 21)
    values[spot_zyx] = 1.0
    geometry = Geometry(
        source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=64, cols=64, pixel_mm=3.0
    )
    found = column_row(project_volume(values, (5, 5, 5), geometry, torch.tensor([angle_deg]))[0])
    # 30 mm at the isocentre, magnified 1.5, in 3 mm pixels
    assert found == pytest.approx((15 * right, 15 * up), abs=0.05)
    mirrored = dataclasses.replace(geometry, columns_flipped=False)
    assert column_row(project_volume(values, (5, 5, 5), mirrored, torch.tensor([angle_deg]))[0])[
        0
    ] == pytest.approx(-15 * right, abs=0.05)


def test_magnification_tells_near_from_far():
    values = torch.zeros(21, 21, 21)
    values[16, 10, 16] = 1.0  # 30 mm left and 30 mm up: nearer to the source at 0° than at 180°
    geometry = Geometry(
        source_to_isocentre_mm=300, source_to_detector_mm=450, rows=128, cols=128, pixel_mm=1.0
    )
    near, far = (
        column_row(image)[1]
        for image in project_volume(values, (5, 5, 5), geometry, torch.tensor([0.0, 180.0]))
    )
    assert (near, far) == (
        pytest.approx(30 * 450 / 270, abs=0.1),
        pytest.approx(30 * 450 / 330, abs=0.1),
    )


def test_centre_and_offset_move_the_picture():
    values = torch.zeros(9, 9, 9)
    values[4, 4, 4] = 1.0
    geometry = Geometry(
        source_to_isocentre_mm=1000,
        source_to_detector_mm=2000,
        rows=64,
        cols=64,
        pixel_mm=1.0,
        angles_deg=(270,),
    )
    moved = project_volume(values, (5, 5, 5), geometry, centre_mm=(6, 0, -4))[0]
    assert column_row(moved) == pytest.approx((12, -8), abs=0.05)
    shifted = project_volume(
        values, (5, 5, 5), dataclasses.replace(geometry, offset_mm=(5.0, -3.0))
    )[0]
    assert column_row(shifted) == pytest.approx((-5, 3), abs=0.05)


def test_a_batch_is_its_members_and_an_orbit_its_views():
    values = torch.rand(2, 3, 12, 10, 14, generator=torch.Generator().manual_seed(0))
    whole = project_volume(values, (6, 7, 5), SMALL)
    assert whole.shape == (2, 3, 4, 9, 11)
    for i in range(2):
        for j in range(3):
            for v, angle in enumerate(SMALL.angles_deg):
                torch.testing.assert_close(
                    project_volume(values[i, j], (6, 7, 5), SMALL, torch.tensor([angle]))[0],
                    whole[i, j, v],
                )


def test_chunks_change_nothing(monkeypatch):
    values = torch.rand(2, 20, 18, 22, generator=torch.Generator().manual_seed(0))
    y = torch.rand(2, 4, 9, 11, generator=torch.Generator().manual_seed(1))
    angles = torch.tensor(SMALL.angles_deg, requires_grad=True)

    def everything() -> tuple[Tensor, Tensor, Tensor]:
        image = project_volume(values, (6, 7, 5), SMALL, angles)
        (to_angles,) = torch.autograd.grad((image * y).sum(), angles)
        return image.detach(), to_angles, Projector((20, 18, 22), (6, 7, 5), SMALL).adjoint(y)

    whole = everything()
    for module, name, few in (
        (joseph_rays, "SAMPLES", 500),
        (joseph_rays, "SLICES", 3),
        (joseph, "RAYS", 100),
        (joseph, "VOXELS_A_RAY", 1),
    ):
        monkeypatch.setattr(module, name, few)
    for a, b in zip(everything(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["middle", "corner", "two", "nowhere"])
@pytest.mark.parametrize("set_up", ["narrow", "wide", "tilted", "source beside the volume"])
def test_rays_that_pass_by_all_matter_are_left_out_and_nothing_else(place, set_up, monkeypatch):
    """Against the whole grid, by the projector that is told nothing of what is empty."""
    monkeypatch.setattr(joseph_rays, "SLICES", 8)
    monkeypatch.setattr(joseph, "LOOKED_FOR", 0)
    geometry, spacing = {
        "narrow": (SMALL, (2, 3, 2)),
        "wide": (dataclasses.replace(SMALL, pixel_mm=60.0), (4, 6, 4)),
        "tilted": (dataclasses.replace(SMALL, tilt_deg=35.0, offset_mm=(20, -15)), (2, 3, 2)),
        "source beside the volume": (dataclasses.replace(SMALL, pixel_mm=30.0), (10.3, 10.3, 10.3)),
    }[set_up]
    values = torch.zeros(2, 35, 41, 38)
    filled = {
        "middle": [(slice(14, 22), slice(17, 19), slice(18, 27))],
        "corner": [(slice(0, 3), slice(38, 41), slice(37, 38))],
        "two": [(slice(0, 1), slice(0, 1), slice(0, 1)), (slice(30, 35), slice(20, 41), 3)],
        "nowhere": [],
    }[place]
    for n, where in enumerate(filled):
        values[n][where] = torch.rand(values[n][where].shape).add_(0.1)
    a = Projector(values.shape[1:], spacing, geometry)
    image = project_volume(values, spacing, geometry)
    torch.testing.assert_close(image, a(values), rtol=1e-5, atol=1e-5)
    assert bool((image != 0).any()) == bool((a(values) != 0).any())
    matter = joseph._matter(values, None)
    frames, picture = geometry.frames_of_views(), (geometry.rows, geometry.cols)
    found = aim(values.shape[1:], spacing, frames, picture, matter=matter)
    met, all_met = (
        sum(joseph_rays.samples_of(call) for bundle in bundles for call in bundle.calls)
        for bundles in (found, a.bundles)
    )
    assert met < 0.75 * all_met
    assert place != "nowhere" or met == 0


def test_matter_of_what_attenuates():
    """Air of a CT attenuates nothing although its voxels are not zero."""
    values = torch.full((1, 20, 20, 20), -1000, dtype=torch.int16)
    values[0, 9, 3, 19] = 40
    found = joseph._matter(values, lambda hu: (1 + hu / 1000).clamp_min(0))
    assert found.nonzero().tolist() == [[1, 0, 2]] and found.shape == (3, 3, 3)
    assert joseph._matter(values, None).all()


def test_kept_slices_follow_the_volume():
    a = Projector((8, 8, 8), (10, 10, 10), SMALL)
    values = torch.rand(8, 8, 8)
    first = a(values)
    torch.testing.assert_close(a(values), first, rtol=0, atol=0)
    values.mul_(2)
    torch.testing.assert_close(a(values), 2 * first)
    with torch.inference_mode():
        torch.testing.assert_close(a(values * 1.5), 3 * first)


def test_a_volume_out_of_the_picture():
    x = torch.ones(2, 4, 4, 4, requires_grad=True)
    a = Projector((4, 4, 4), (1, 1, 1), SMALL, centre_mm=(0, 0, 150))
    a(x).sum().backward()
    assert not a(x).any() and not x.grad.any() and not a.adjoint(torch.ones(2, 4, 9, 11)).any()


def test_half_precision_is_summed_in_single():
    values = torch.rand(8, 8, 8).to(torch.bfloat16)
    torch.testing.assert_close(
        project_volume(values, (10, 10, 10), SMALL),
        project_volume(values.float(), (10, 10, 10), SMALL),
        rtol=0,
        atol=0,
    )


def test_an_orbit_about_a_turned_body_is_the_same_orbit():
    """A body that is round about z looks alike from every side, to the accuracy of its voxels."""
    c = torch.arange(48) - 23.5
    body = (1 + torch.tanh(16 - (c**2 + c[:, None] ** 2).sqrt())).expand(48, 48, 48)
    images = project_volume(body, (2, 2, 2), DEFAULTS["knee"].resized(48).orbit(12))
    assert (images - images.mean(0)).abs().max() < 0.01 * images.max()


def test_refuses_what_it_cannot_project():
    with pytest.raises(UserError, match="reaches the X-ray source"):
        project_volume(torch.ones(8, 8, 8), (100, 100, 100), SMALL)
    with pytest.raises(UserError, match="reaches the X-ray source"):
        project_volume(torch.ones(8, 8, 8), (5, 5, 5), SMALL, centre_mm=(290, 0, 0))
    # long but thin: reaches far up, not to the source
    project_volume(torch.ones(60, 8, 8), (5, 5, 20), SMALL)
    with pytest.raises(ValueError, match="at least one view"):
        project_volume(torch.ones(8, 8, 8), (5, 5, 5), SMALL, torch.tensor([]))
    with pytest.raises(ValueError, match="spacing"):
        project_volume(torch.ones(8, 8, 8), (5, 0, 5), SMALL)
    with pytest.raises(ValueError, match=r"expected \[..., 8, 8, 8\]"):
        Projector((8, 8, 8), (5, 5, 5), SMALL)(torch.ones(8, 8, 9))
    with pytest.raises(ValueError, match=r"expected \[..., 4, 9, 11\]"):
        Projector((8, 8, 8), (5, 5, 5), SMALL).adjoint(torch.ones(4, 9, 9))
    assert math.isclose(
        float(
            project_volume(
                torch.ones(1, 1, 1), (5, 5, 5), dataclasses.replace(SMALL, rows=1, cols=1)
            )[0, 0, 0]
        ),
        5.0,
        rel_tol=1e-6,
    )
