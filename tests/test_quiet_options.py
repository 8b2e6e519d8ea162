"""Options that no recipe sets: each is turned, and what it promises is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mednerf_kit.data.posed.scene import SCENES, load_scene
from mednerf_kit.data.posed.toy import toy_cameras
from mednerf_kit.fields.base import FIELDS
from mednerf_kit.gan.augment.parameters import Augment
from mednerf_kit.gan.augment.probability import AdaptiveProbability
from mednerf_kit.imaging.cameras import average_pose
from mednerf_kit.rays.selectors.quadtree import Quadtree
from mednerf_kit.scene.pose.search import PixelSets, PoseSearch

BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])  # its longest side is 2.5
HASH = {"name": "hash", "levels": 2, "log2_table": 6, "base": 2, "finest": 8}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Scenes


@pytest.mark.parametrize("factor", [0.75, 0.5])
def test_llffs_lengths_are_counted_in_a_share_of_the_nearest_bound(factor, tmp_path):
    """The toy's bounds are 2 and 6."""
    scene = load_scene(SCENES["llff"].example(tmp_path), split="all", ndc=False, bd_factor=factor)
    scale = 1 / (2 * factor)
    assert scene.facts["scale"] == pytest.approx(scale)
    assert scene.cameras.near == pytest.approx(
        0.9 * 2 * scale
    ) and scene.cameras.far == pytest.approx(6 * scale)
    apart = torch.pdist(scene.cameras.position)
    torch.testing.assert_close(
        apart, scale * torch.pdist(toy_cameras().position), rtol=1e-4, atol=1e-4
    )


def test_llffs_poses_are_about_their_average_or_the_files_own(tmp_path):
    root = SCENES["llff"].example(tmp_path)
    recentred, own = (
        load_scene(root, split="all", ndc=False, recentre=r).cameras for r in (True, False)
    )
    torch.testing.assert_close(average_pose(recentred.c2w), torch.eye(4)[:3], atol=1e-5, rtol=0)
    wanted = toy_cameras().c2w.clone()
    wanted[:, :, 3] /= 2 * 0.75
    torch.testing.assert_close(own.c2w, wanted, atol=1e-4, rtol=0)


def test_colmaps_points_are_no_depth_where_nobody_wants_it(tmp_path):
    root = SCENES["colmap"].example(tmp_path)
    with_depth, without = (load_scene(root, split="all", sparse_depth=on) for on in (True, False))
    assert with_depth.depth is not None and with_depth.confidence is not None
    assert without.depth is None and without.confidence is None
    assert len(without.facts["points"]) == 40 and torch.equal(with_depth.box, without.box)


# Fields


@pytest.mark.parametrize(
    ("node", "option", "grids"),
    [
        ({"name": "hash", "encoding": HASH, "width": 8}, "network_rate", "encoding"),
        (
            {"name": "tensorf", "density_ranks": 2, "appearance_ranks": 2, "start_voxels": 5**3},
            "network_rate",
            "grid",
        ),
        (
            {"name": "nerf", "encoding": HASH, "width": 8, "depth": 2, "skip": 0},
            "grid_rate",
            "encoding",
        ),
        (
            {"name": "neus", "encoding": HASH, "width": 8, "depth": 2, "skip": 0, "head_depth": 1},
            "grid_rate",
            "encoding",
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_grids_and_networks_learn_at_their_own_rates(node, option, grids):
    """One of them at 1, the other as the option says."""
    field = FIELDS.build({**node, option: 0.3}, box=BOX, channels=3)
    rates = {id(p): group["rate"] for group in field.groups() for p in group["params"]}
    found = {True: set(), False: set()}
    for name, parameter in field.named_parameters():
        if "log" not in name and parameter.ndim:  # NeuS' sharpness is neither
            found[grids in name].add(rates[id(parameter)])
    assert found == (
        {True: {1.0}, False: {0.3}} if option == "network_rate" else {True: {0.3}, False: {1.0}}
    )


@pytest.mark.parametrize("scale", [25.0, 5.0])
def test_tensorfs_density_is_scaled_to_a_box_of_three(scale):
    """Of empty grids: softplus(shift) · scale · 3 / longest side."""
    field = FIELDS.build(
        {
            "name": "tensorf",
            "density_ranks": 2,
            "appearance_ranks": 2,
            "start_voxels": 5**3,
            "shift": -2.0,
            "density_scale": scale,
        },
        box=BOX,
        channels=3,
    )
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        found = field.density(BOX.mean(0)[None])
    assert found.item() == pytest.approx(math.log1p(math.exp(-2)) * scale * 3 / 2.5)


# What a discriminator sees


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_brightness_and_contrast_have_their_spread(strength):
    """A shift ~ N(0, std²), and a gain whose logarithm to base 2 is ~ N(0, octaves²)."""
    one = Augment(brightness=1.0, brightness_std=strength).draw(20_000, (1, 8, 8), 1.0, seeded())
    assert one.color[:, 0, 3].std().item() == pytest.approx(strength, rel=0.02)
    assert (one.color[:, 0, 0] == 1).all()
    one = Augment(contrast=1.0, contrast_octaves=strength, contrast_pivot=0.0)
    gain = one.draw(20_000, (1, 8, 8), 1.0, seeded()).color
    assert gain[:, 0, 0].log2().std().item() == pytest.approx(strength, rel=0.02)
    assert gain[:, 0, 0].log2().mean().abs() < 0.02 and not gain[:, 0, 3].any()


@pytest.mark.parametrize("most_deg", [180.0, 30.0])
def test_hues_turn_evenly_up_to_their_angle(most_deg):
    """A turn about the grey axis: its trace is 1 + 2 cos θ, and |θ| is even in [0, most]."""
    drawn = Augment(hue=1.0, hue_max_deg=most_deg).draw(20_000, (3, 8, 8), 1.0, seeded())
    turn = torch.rad2deg(
        (drawn.color[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) - 1).div(2).clamp(-1, 1).acos()
    )
    assert turn.max() <= most_deg + 0.1 and turn.mean().item() == pytest.approx(
        most_deg / 2, rel=0.02
    )


@pytest.mark.parametrize("octaves", [1.0, 0.25])
def test_saturation_has_its_spread_and_leaves_grey_alone(octaves):
    """The trace is 1 + 2 · chroma, log2 chroma ~ N(0, octaves²)."""
    color = (
        Augment(saturation=1.0, saturation_octaves=octaves)
        .draw(20_000, (3, 8, 8), 1.0, seeded())
        .color
    )
    chroma = (color[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert chroma.log2().std().item() == pytest.approx(octaves, rel=0.03)
    torch.testing.assert_close(color[:, :3, :3].sum(2), torch.ones(20_000, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("octaves", [1.0, 0.25])
def test_bands_are_louder_by_independent_octaves(octaves):
    """The power is restored in all bands alike: their ratio has √2 times the spread of one gain."""
    bands = Augment(filter=1.0, filter_octaves=octaves).draw(20_000, (1, 8, 8), 1.0, seeded()).bands
    ratio = (bands[:, 1] / bands[:, 3]).log2()
    assert ratio.std().item() == pytest.approx(math.sqrt(2) * octaves, rel=0.02)


def test_the_probability_stops_at_its_most():
    adaptive = AdaptiveProbability(start=0.1, p_max=0.25, interval=1, kimg=0.1)
    found = []
    for _ in range(3):
        adaptive.observe(torch.ones(10))
        found.append(adaptive.p)
    assert found == pytest.approx([0.2, 0.25, 0.25])
    assert AdaptiveProbability(start=0.9, p_max=0.25).p == 0.25
    default = AdaptiveProbability(interval=1, kimg=0.001)
    default.observe(torch.ones(10))
    assert default.p == 0.8


# Pixels


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_quadtree_is_split_after_its_epochs(epochs):
    """An epoch of open leaves is a ray a pixel: 2 views of 256 pixels are 8 batches of 64."""
    images = torch.rand(2, 16, 16, 3, generator=seeded())
    tree = Quadtree(n=64, depth=1, max_depth=3, refresh_epochs=epochs, images=images)
    rng, depths = seeded(1), []
    for step in range(2 * 8 * epochs + 1):
        pixels = tree.select(step, rng)
        tree.observe(pixels, torch.ones(64))
        depths.append(int(tree.depth.max()))
    assert [depths.index(2), depths.index(3)] == [8 * epochs, 16 * epochs]


@pytest.mark.parametrize(("kernel", "iterations"), [(3, 1), (3, 4), (5, 2)])
def test_a_region_grows_as_often_as_it_is_told(kernel, iterations):
    """Each time by half a kernel to every side of a corner."""
    point = torch.zeros(1, 31, 31, dtype=torch.bool)
    point[0, 15, 15] = True
    search = PoseSearch(pixels="region", kernel=kernel, iterations=iterations, rays=500)
    yx, _ = PixelSets(torch.rand(1, 31, 31, 3), point, search).draw(0, torch.tensor([0]), seeded())
    reach = iterations * (kernel // 2)
    side = np.arange(15 - reach, 15 + reach + 1)
    assert {tuple(at) for at in yx[0].int().tolist()} == {(y, x) for y in side for x in side}
