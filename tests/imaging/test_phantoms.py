"""Phantoms: the same seed is the same patient, grid and points agree, organs lie on their side and
have their HU.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging import phantoms
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.phantoms import PHANTOMS, Phantom, phantom
from mednerf_kit.imaging.phantoms.painter import Layer, Pose
from mednerf_kit.imaging.phantoms.solids import (
    Column,
    Cut,
    Profile,
    Segment,
    Union,
    axes_along,
    blob,
    tube,
)
from mednerf_kit.imaging.phantoms.trees import vessel_tree

ANATOMIES = sorted(PHANTOMS.entries)
STILL = Pose(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))


def simple(*layers: Layer, slab_mm: tuple[float, float] = (-1e4, 1e4)) -> Phantom:
    return Phantom("knee", 0, layers, STILL, slab_mm)


def grid(size: int, half: float) -> torch.Tensor:
    axis = (torch.arange(size) - 0.5 * (size - 1)) * (2 * half / size)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)


def own_centroid(p: Phantom, name: str) -> np.ndarray:
    """Middle of a structure in the patient's own frame: its boxes' middles, weighted by their
    volume.
    """
    boxes = [(s.lo, s.hi) for layer in p.layers if layer.name == name for s in layer.solids]
    lo, hi = (np.array([b[i] for b in boxes]) for i in (0, 1))
    weight = np.prod(hi - lo, axis=1)
    return (0.5 * (lo + hi) * weight[:, None]).sum(0) / weight.sum()


def centroid(p: Phantom, name: str) -> np.ndarray:
    """Middle of a structure in the world."""
    return np.linalg.inv(p.pose.matrix) @ own_centroid(p, name) + p.pose.shift_mm


@pytest.fixture(scope="module", params=ANATOMIES)
def patient(request) -> Phantom:
    return phantom(request.param, 0)


def test_registry_and_version():
    assert {"chest", "knee"} <= set(ANATOMIES) and phantoms.VERSION
    with pytest.raises(UserError, match="did you mean 'chest'"):
        phantom("chests", 0)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_a_seed_is_a_patient(anatomy):
    first, again, other = (phantom(anatomy, s).voxelise(24)[0] for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 30


def test_default_grid_holds_what_the_detector_cuts(patient):
    values, spacing = patient.voxelise(20)
    half = 1.4 * DEFAULTS[patient.anatomy].half_width_mm
    assert values.shape == (20, 20, 20) and values.dtype == torch.float32
    assert spacing == pytest.approx((2 * half / 20,) * 3)
    assert (values[:, [0, -1]] == -1000).all()  # nobody is that thick
    assert values.min() >= -1000 and values.max() < 1700


def test_grid_is_points_at_voxel_centres(patient):
    values, spacing = patient.voxelise(28, 90.0)
    at_points = patient.hu(grid(28, 90.0), edge_mm=spacing[0])
    torch.testing.assert_close(at_points, values, atol=2.0, rtol=0)
    assert patient.hu(torch.zeros(0, 3)).shape == (0,)


def test_edges_keep_the_mean_of_fine_points(patient):
    """A coarse voxel is near the mean of the 27 fine points in it: soft edges stand for
    averaging.
    """
    size, half = 14, 48.0
    coarse = patient.voxelise(size, half)[0]
    fine = patient.hu(grid(3 * size, half), edge_mm=2 * half / (3 * size))
    mean = fine.reshape(size, 3, size, 3, size, 3).mean((1, 3, 5))
    assert (coarse - mean).abs().mean() < 25
    assert float((coarse + 1000).mean() / (mean + 1000).mean()) == pytest.approx(1, abs=0.03)


def test_resolution_does_not_change_the_patient(patient):
    coarse, fine = (patient.voxelise(n)[0] for n in (24, 48))
    pooled = fine.reshape(24, 2, 24, 2, 24, 2).mean((1, 3, 5))
    assert np.corrcoef(coarse.flatten(), pooled.flatten())[0, 1] > 0.99


def test_outside_the_slab_is_air(patient):
    bottom, top = patient.slab_mm
    z = torch.tensor([bottom - 3, bottom + 3, top - 3, top + 3])
    columns = torch.stack(
        torch.meshgrid(z, torch.linspace(-80, 80, 41), torch.linspace(-80, 80, 41), indexing="ij"),
        -1,
    ).flip(-1)
    values = patient.hu(columns).flatten(1)
    assert (values[[0, 3]] == -1000).all()
    assert (values[[1, 2]] > -500).any(1).all()


def test_bad_grid_is_refused(patient):
    for size, half in ((0, 10.0), (4, 0.0), (4, math.nan)):
        with pytest.raises(UserError, match="positive extent"):
            patient.voxelise(size, half)


def test_chest_has_every_structure():
    names = set(phantom("chest", 1).names)
    sides = ("left", "right")
    assert {f"rib {i} {side}" for i in range(1, 13) for side in sides} <= names
    assert {
        f"{what} {side}"
        for what in ("lung", "fissure", "vessels", "clavicle", "scapula", "humerus")
        for side in sides
    } <= names
    assert {f"{what} T{i}" for what in ("vertebra", "processes") for i in range(1, 13)} <= names
    assert {
        "skin",
        "muscle",
        "heart",
        "aorta",
        "great vessels",
        "trachea",
        "liver",
        "spleen",
        "stomach bubble",
    } <= names
    assert {"sternum", "cartilage", "disc", "mediastinum"} <= names
    assert any("nodule" in phantom("chest", s).names for s in range(8))


def test_chest_is_not_symmetric():
    for seed in range(6):
        p = phantom("chest", seed)
        assert own_centroid(p, "heart")[0] > 4  # apex to the left, +x
        spine = centroid(p, "vertebra T8")[0]
        assert centroid(p, "stomach bubble")[0] > spine + 20
        assert centroid(p, "spleen")[0] > spine + 40
        assert centroid(p, "lung left")[0] > spine + 30 > spine - 30 > centroid(p, "lung right")[0]
        turn = p.pose.matrix / np.linalg.norm(p.pose.matrix, axis=0)
        # own left is the world's left
        assert np.linalg.det(turn) > 0 and np.diag(turn).min() > 0.95
    mirrored = p.voxelise(48)[0].flip(2)
    assert (mirrored - p.voxelise(48)[0]).abs().mean() > 10


def test_liver_is_right_and_gas_is_left():
    for seed in range(4):
        p = phantom("chest", seed)
        solid = {layer.name: layer.solids[0] for layer in p.layers}
        points = (
            np.random.default_rng(0)
            .uniform((-130, -80, -170), (130, 80, -60), (4000, 3))
            .astype(np.float32)
        )
        liver = points[solid["liver"].distance(*points.T) < 0]
        gas = points[solid["stomach bubble"].distance(*points.T) < 0]
        assert len(liver) > 100 and liver[:, 0].mean() < -25
        assert len(gas) > 0 and gas[:, 0].mean() > 25


def test_heart_reaches_further_left_in_the_voxels():
    """At the height of the heart, soft tissue in the middle of the chest reaches further to +x than
    to −x.
    """
    left, right = 0.0, 0.0
    for seed in range(6):
        p = phantom("chest", seed)
        middle, spine = centroid(p, "heart"), centroid(p, "vertebra T8")[0]
        x = torch.arange(5, 75, 1.0)
        y = torch.linspace(-15, 15, 7) + float(middle[1])
        for sign in (1, -1):
            line = torch.stack(
                torch.broadcast_tensors(
                    spine + sign * x[:, None], y[None], torch.tensor(float(middle[2]))
                ),
                -1,
            )
            soft = float((p.hu(line) > -300).float().mean())
            left, right = (left + soft, right) if sign > 0 else (left, right + soft)
    assert left > right + 0.5


def test_domes_of_the_diaphragm_and_lungs():
    p = phantom("chest", 2)
    lungs = {
        side: next(layer.solids[0] for layer in p.layers if layer.name == f"lung {side}")
        for side in ("left", "right")
    }
    for side, sign in (("left", 1), ("right", -1)):
        z = np.arange(-140, 120, 1.0, dtype=np.float32)

        def floor(x: float, y: float, z=z, sign=sign, solid=lungs[side]) -> float:
            inside = solid.distance(np.full_like(z, sign * x), np.full_like(z, y), z) < 0
            return float(z[inside].min())

        assert floor(62, -5) > floor(100, -5) + 8  # falls to the side
        assert floor(62, -5) > floor(62, 60) + 10  # and to the back
        deep = lungs[side].distance(np.float32(-sign * 40), np.float32(0), np.float32(20))
        assert deep > 0  # nothing on the other side


@pytest.mark.parametrize("seed", range(2))
def test_chest_tissues_have_their_hu(seed):
    p = phantom("chest", seed)
    values = p.voxelise(64)[0]
    body = values[values > -990]
    assert -880 < float(body[(body > -950) & (body < -500)].median()) < -680  # lung
    soft = body[(body > -20) & (body < 120)]
    assert 30 < float(soft.median()) < 60
    assert float((body > 250).float().mean()) > 0.008  # bone is there
    fat = p.hu(grid(40, 200.0))
    assert -105 < float(fat[(fat > -200) & (fat < -60)].median()) < -75


@pytest.mark.parametrize("seed", range(2))
def test_knee_tissues_have_their_hu(seed):
    p = phantom("knee", seed)
    values = p.voxelise(100, 62.0)[0]
    cortex = values[values > 650]
    assert 700 < float(cortex.median()) < 1500
    inner = values[(values > 120) & (values < 450)]
    assert 150 < float(inner.median()) < 400 and len(inner) > len(cortex) / 3
    assert 40 < float(values[(values > 20) & (values < 110)].median()) < 70
    assert -105 < float(values[(values > -200) & (values < -60)].median()) < -80


def test_knees_are_left_and_right_and_the_fibula_is_outside():
    sides = set()
    for seed in range(12):
        p = phantom("knee", seed)
        left = np.linalg.det(p.pose.matrix) < 0
        sides.add(bool(left))
        outward = centroid(p, "fibula")[0] - centroid(p, "tibia")[0]
        assert outward > 15 if left else outward < -15
        assert centroid(p, "patella")[1] < centroid(p, "femur")[1] - 15  # in front
        assert centroid(p, "femur")[2] > centroid(p, "tibia")[2] + 60
    assert sides == {True, False}


def test_knee_has_every_structure_and_a_joint_space():
    p = phantom("knee", 4)
    wanted = {
        "skin",
        "muscle",
        "femur",
        "tibia",
        "fibula",
        "patella",
        "cartilage",
        "tendon",
        "fat pad",
    }
    assert wanted <= set(p.names)
    z = np.linspace(-14, 14, 113, dtype=np.float32)
    for name, sign in (("femur", 1), ("tibia", -1)):
        solid = next(layer.solids[0] for layer in p.layers if layer.name == name)
        inside = solid.distance(np.full_like(z, 20), np.full_like(z, 2), z) < 0
        assert inside[sign * z > 8].all() and not inside[np.abs(z) < 0.9].any()


def test_patients_vary_in_extent_and_size():
    for anatomy, spread in (("chest", 20.0), ("knee", 12.0)):
        people = [phantom(anatomy, s) for s in range(8)]
        heights = [p.slab_mm[1] - p.slab_mm[0] for p in people]
        widths = [np.linalg.norm(np.linalg.inv(p.pose.matrix)[:, 0]) for p in people]
        assert np.std(heights) > spread and np.std(widths) > 0.04
        assert all(abs(sum(p.slab_mm)) < 1e-6 for p in people)  # a CT's middle is the isocentre


def test_solids_are_exact_where_a_formula_is_known():
    rng = np.random.default_rng(1)
    p = rng.uniform(-30, 30, (500, 3)).astype(np.float32)
    x, y, z = p.T
    capsule = Segment(np.array([0, 0, -10], np.float32), np.array([0, 0, 10], np.float32), 5.0, 5.0)
    along = np.clip(z, -10, 10)
    np.testing.assert_allclose(
        capsule.distance(x, y, z), np.sqrt(x**2 + y**2 + (z - along) ** 2) - 5, atol=1e-4
    )
    ball = blob((1, 2, 3), (8, 8, 8), axes_along((1, 1, 0.3)))
    away = np.linalg.norm(p - (1, 2, 3), axis=1)
    assert ((ball.distance(x, y, z) < 0) == (away < 8)).all()
    near = np.abs(away - 8) < 0.5
    np.testing.assert_allclose(ball.distance(x, y, z)[near], away[near] - 8, atol=0.05)
    both = Union([ball, capsule])
    np.testing.assert_array_equal(
        both.distance(x, y, z), np.minimum(ball.distance(x, y, z), capsule.distance(x, y, z))
    )
    left = Cut(ball, away=[capsule])
    assert (
        (left.distance(x, y, z) < 0)
        == ((ball.distance(x, y, z) < 0) & (capsule.distance(x, y, z) > 0))
    ).all()


def test_solids_lie_within_their_bounds():
    rng = np.random.default_rng(2)
    flat = Profile([-20, 20], [12, 12])
    column = Column(
        flat,
        Profile([-20, 20], [-9, -9]),
        Profile([-20, 20], [7, 7]),
        -15,
        15,
        middle=Profile([-20, 20], [2, 4]),
    )
    turned = axes_along((0.4, -0.7, 0.5))
    path = tube([(0, 0, 0), (9, 3, 5), (2, 12, -6)], [2, 3, 1], wide=(0, 0, 1), ratio=2.0)
    for solid in (
        column,
        blob((1, 2, 3), (9, 4, 6), turned),
        blob((0, 1, 0), (7, 5, 3), turned, 8),
        *path,
        Union(path, 6),
    ):
        p = rng.uniform(-30, 30, (20000, 3)).astype(np.float32)
        inside = p[solid.distance(*p.T) < 0]
        assert (
            len(inside) and (inside >= solid.lo - 1e-3).all() and (inside <= solid.hi + 1e-3).all()
        )


def test_thin_structures_keep_their_mass():
    """A vessel thinner than a voxel neither vanishes nor grows: its mass over air is HU excess × π
    r² × length.
    """
    r, length = 1.2, 60.0
    rod = Segment(
        np.array([-length / 2, 1.3, 0.7], np.float32),
        np.array([length / 2, 1.3, 0.7], np.float32),
        r,
        r,
    )
    p = simple(Layer("rod", [rod], 0.0))
    for size in (32, 64, 200):
        values, (step, _, _) = p.voxelise(size, 50.0)
        mass = float((values + 1000).double().sum()) * step**3
        assert mass == pytest.approx(1000 * math.pi * r**2 * length, rel=0.25)


def test_paint_lies_over_paint_and_stays_within():
    ball, slab = blob((0, 0, 0), (20, 20, 20)), blob((10, 0, 0), (40, 5, 5), flat=4)
    p = simple(
        Layer("ball", [ball], 40.0, keep="ball"),
        Layer("bar", [slab], 900.0, within="ball"),
        Layer("core", [ball], -500.0, 15.0),
    )
    x = torch.tensor([0.0, 12.0, 25.0, -45.0])
    points = torch.stack([x, 0 * x, 0 * x], -1)
    assert p.hu(points).tolist() == [-500.0, 900.0, -1000.0, -1000.0]


def test_vessel_tree_reaches_its_targets_and_obeys_murray():
    targets = np.random.default_rng(0).uniform(20, 60, (40, 3)).astype(np.float32)
    tree = vessel_tree(np.zeros(3, np.float32), targets, tip_mm=0.8, exponent=3.0)
    assert len(tree) == 2 * len(targets) - 1
    tips = {tuple(s.b) for s in tree}
    assert {tuple(t) for t in targets} <= tips
    trunk = max(tree, key=lambda s: s.ra)
    assert trunk.ra**3 == pytest.approx(40 * 0.8**3, rel=1e-4) and not trunk.a.any()
