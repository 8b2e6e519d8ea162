"""Rays, sampling, compositing and encoding against nerf-pytorch's published behaviour.

The oracle below is written in NumPy double precision from the formulas (Mildenhall et al. 2020, and
how the port fills in what the paper leaves open); no code is shared with it. Where this package
differs on purpose, the test states the change under which both are the same and checks them equal
after it:

======================  =====================================
============================================== what                    nerf-pytorch
here ======================  =====================================
============================================== principal point         (W/2, H/2) for integer pixels
((W − 1)/2, (H − 1)/2): pixels are centres parameter along a ray   planar depth z, direction of
length    distance t, unit direction: t = z · length
                        √(1 + x² + y²)
coarse nodes            N planes, both ends included; cells    middles of N equal strata of [near,
far]
                        end halfway
last length             1e10                                   up to far: nothing is behind it
lengths                 to the next node                       what lies nearer to a node than to
its neighbours transmittance           Π (1 − α + 1e-10)                      exp(−Σ τ) fine nodes
inner N − 2 weights + 1e-5, u random   all N weights, u stratified, (i + ½)/n in tests
                        or linspace(0, 1)
======================  =====================================
==============================================
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mednerf_kit.core.raymath import cell_lengths, emission_absorption, inverse_cdf
from mednerf_kit.core.types import Rays
from mednerf_kit.fields.frequency import frequency_encoding
from mednerf_kit.imaging.cameras import Cameras
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.stratified import Stratified

H, W, FOCAL = 6, 8, 9.0
# A quarter turn about the vertical and a nod of 30°, off the origin.
POSE = np.array([[0.0, 0.5, 0.75**0.5, 3.0], [0.0, 0.75**0.5, -0.5, -0.7], [-1.0, 0.0, 0.0, 0.4]])


def oracle_rays(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions [H, W, 3]: d = ((x − W/2)/f, −(y − H/2)/f, −1) turned, not
    normalised.
    """
    y, x = np.mgrid[0:H, 0:W].astype(float)
    local = np.stack([(x - W / 2) / FOCAL, -(y - H / 2) / FOCAL, -np.ones_like(x)], -1)
    return np.broadcast_to(pose[:, 3], local.shape), np.einsum("ij,hwj->hwi", pose[:, :3], local)


def oracle_ndc(
    origin: np.ndarray, d: np.ndarray, near: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Appendix C of the paper: rays moved to the plane z = −near, then warped; t in [0, 1] runs to
    infinity.
    """
    o = origin - ((near + origin[..., 2]) / d[..., 2])[..., None] * d
    ax, ay = -2 * FOCAL / W, -2 * FOCAL / H
    (ox, oy, oz), (dx, dy, dz) = np.moveaxis(o, -1, 0), np.moveaxis(d, -1, 0)
    start = np.stack([ax * ox / oz, ay * oy / oz, 1 + 2 * near / oz], -1)
    way = np.stack([ax * (dx / dz - ox / oz), ay * (dy / dz - oy / oz), -2 * near / oz], -1)
    return start, way


def oracle_planes(near: float, far: float, n: int, disparity: bool = False) -> np.ndarray:
    u = np.linspace(0, 1, n)
    return 1 / ((1 - u) / near + u / far) if disparity else near * (1 - u) + far * u


def oracle_weights(sigma: np.ndarray, z: np.ndarray, length: np.ndarray) -> np.ndarray:
    """w = α Π_before (1 − α + 1e-10), α = 1 − exp(−σ Δ |d|), the last Δ without end; [R, S]."""
    step = np.concatenate([np.diff(z, axis=-1), np.full_like(z[:, :1], 1e10)], -1) * length[:, None]
    alpha = 1 - np.exp(-np.maximum(sigma, 0) * step)
    clear = np.cumprod(np.concatenate([np.ones_like(z[:, :1]), 1 - alpha + 1e-10], -1), -1)[:, :-1]
    return alpha * clear


def oracle_fine(z: np.ndarray, w: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse transform of the inner weights + 1e-5 between the middles of coarse nodes; one
    ray.
    """
    edges, p = 0.5 * (z[1:] + z[:-1]), w[1:-1] + 1e-5
    cdf = np.concatenate([[0], np.cumsum(p / p.sum())])
    found = []
    for value in u:
        above = min(int(np.searchsorted(cdf, value, side="right")), len(cdf) - 1)
        below = max(above - 1, 0)
        rise = cdf[above] - cdf[below]
        found.append(
            edges[below]
            + (value - cdf[below]) / (rise if rise >= 1e-5 else 1.0) * (edges[above] - edges[below])
        )
    return np.array(found)


def oracle_encoding(x: np.ndarray, octaves: int) -> np.ndarray:
    return np.concatenate(
        [x, *(f(2.0**k * x) for k in range(octaves) for f in (np.sin, np.cos))], -1
    )


def cameras(
    centre: tuple[float, float], *, ndc: bool = False, pose: np.ndarray = POSE, far: float = 6.0
) -> Cameras:
    pose = torch.tensor(pose, dtype=torch.float32)[None]
    near = 0.0 if ndc else 2.0
    return Cameras(pose, torch.full((1, 2), FOCAL), torch.tensor([centre]), H, W, near, far, ndc)


def all_rays(cameras: Cameras, shift: float = 0.0) -> Rays:
    yx = (
        torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1).float()
        + shift
    )
    return cameras.rays(torch.zeros(H, W, dtype=torch.long), yx)


def close(found: torch.Tensor, wanted: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.double().numpy(), wanted, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("centre", "shift"), [((W / 2, H / 2), 0.0), (((W - 1) / 2, (H - 1) / 2), -0.5)]
)
def test_rays_are_the_same_lines(centre, shift):
    """The port's principal point, or ours half a pixel further: the same rays, ours of unit
    length.
    """
    origin, d = oracle_rays(POSE)
    rays = all_rays(cameras(centre), shift)
    close(rays.origin, origin)
    close(rays.direction, d / np.linalg.norm(d, axis=-1, keepdims=True))


def test_planar_depth_becomes_distance():
    """A node at planar depth z is the point at distance z · |d| along the unit ray."""
    origin, d = oracle_rays(POSE)
    camera = cameras((W / 2, H / 2))
    yx = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1).float()
    factor = camera.planar_factor(torch.zeros(H, W, dtype=torch.long), yx)
    close(factor, np.linalg.norm(d, axis=-1))
    rays = camera.rays(torch.zeros(H, W, dtype=torch.long), yx)
    for z in (2.0, 3.7, 6.0):
        close(rays.origin + (z * factor)[..., None] * rays.direction, origin + z * d, atol=1e-5)


def test_normalised_device_coordinates():
    pose = np.concatenate([np.eye(3), [[0.3], [-0.2], [0.1]]], -1)
    start, way = oracle_ndc(*oracle_rays(pose))
    rays = all_rays(cameras((W / 2, H / 2), ndc=True, pose=pose, far=1.0))
    length = np.linalg.norm(way, axis=-1)
    close(rays.origin, start)
    close(rays.direction, way / length[..., None])
    close(rays.near, np.zeros_like(length)), close(rays.far, length)
    origin, d = oracle_rays(pose)
    close(rays.viewing, d / np.linalg.norm(d, axis=-1, keepdims=True))


def rays_between(near: float, far: float, count: int = 1) -> Rays:
    along = torch.eye(3)[0].expand(count, 3)
    return Rays(torch.zeros(count, 3), along, torch.full((count,), near), torch.full((count,), far))


def test_coarse_nodes_are_the_planes_of_a_range_half_a_step_longer():
    z = oracle_planes(2.0, 6.0, 64)
    half = 0.5 * (6.0 - 2.0) / 63
    found = Stratified(n=64)(rays_between(2.0 - half, 6.0 + half))
    close(found.t[0], z, atol=2e-6)
    close(found.dt[0, :-1], np.diff(z), atol=2e-6)


def test_jittered_nodes_share_their_cells():
    """The port draws each inner node between the middles of the planes: exactly our strata of the
    longer range.
    """
    z = oracle_planes(2.0, 6.0, 64)
    middle = 0.5 * (z[1:] + z[:-1])
    half = 0.5 * (6.0 - 2.0) / 63
    found = (
        Stratified(n=64)(
            rays_between(2.0 - half, 6.0 + half, 500), None, torch.Generator().manual_seed(0)
        )
        .t.double()
        .numpy()
    )
    assert (found[:, 1:-1] >= middle[:-1] - 1e-5).all() and (
        found[:, 1:-1] <= middle[1:] + 1e-5
    ).all()
    np.testing.assert_allclose(
        found[:, 1:-1].mean(0), z[1:-1], atol=4 * half * 2 / math.sqrt(12 * 500)
    )


def test_planes_in_disparity():
    """Stretched by half a step of disparity on both sides."""
    z = oracle_planes(2.0, 6.0, 32, disparity=True)
    half = 0.5 * (1 / 2 - 1 / 6) / 31
    found = Stratified(n=32, disparity=True)(rays_between(1 / (1 / 2 + half), 1 / (1 / 6 - half)))
    close(found.t[0], z, atol=5e-6)


def some_densities(count: int = 20, n: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Densities with a surface, planes, and lengths of directions."""
    rng = np.random.default_rng(0)
    z = np.broadcast_to(oracle_planes(2.0, 6.0, n), (count, n))
    place = rng.uniform(3, 5, (count, 1))
    sigma = rng.uniform(0.5, 40, (count, 1)) * np.exp(
        -0.5 * ((z - place) / 0.15) ** 2
    ) + rng.normal(0, 0.01, (count, n))
    return sigma, z, rng.uniform(1, 1.2, count)


def test_compositing_with_the_ports_lengths():
    """tau = σ Δ |d| with the port's Δ gives its weights, colour, opacity and (times |d|) its
    depth.
    """
    sigma, z, length = some_densities()
    w = oracle_weights(sigma, z, length)
    color = np.random.default_rng(1).uniform(0, 1, (*z.shape, 3))
    step = np.concatenate([np.diff(z), np.full_like(z[:, :1], 1e10)], -1) * length[:, None]
    tau = torch.tensor(np.maximum(sigma, 0) * step)
    seen = emission_absorption(tau, torch.tensor(color), background=1.0)
    close(seen.w, w, atol=1e-8)
    close(seen.image, (w[..., None] * color).sum(1) + (1 - w.sum(1, keepdims=True)), atol=1e-8)
    t = torch.tensor(z * length[:, None])
    close((seen.w * t).sum(-1), length * (w * z).sum(1), atol=1e-7)


def test_lengths_to_the_next_node_and_lengths_of_nearness_meet():
    """On uneven nodes (the fine pass) both rules see the same optical depth in the limit; ours errs
    less with few nodes.
    """
    rng = np.random.default_rng(4)
    errors = {}
    for n in (64, 1024):
        t = np.sort(rng.uniform(2, 6, (200, n)))
        sigma = 8 * np.exp(-0.5 * ((t - 4) / 0.3) ** 2)
        truth = 8 * 0.3 * math.sqrt(2 * math.pi)
        near, far = torch.full((200,), 2.0).double(), torch.full((200,), 6.0).double()
        ours = (sigma * cell_lengths(torch.tensor(t), near, far).numpy()).sum(1)
        port = (sigma[:, :-1] * np.diff(t)).sum(1)
        errors[n] = [np.sqrt(np.mean((v / truth - 1) ** 2)) for v in (ours, port)]
    assert errors[1024][0] < 0.005 and errors[1024][1] < 0.01
    assert errors[64][0] < errors[64][1]


def test_what_the_endless_last_length_does():
    """Any density in the last node makes the port's ray opaque; here it stands for its own cell."""
    sigma = np.zeros((1, 4))
    sigma[0, -1] = 1e-3
    z = oracle_planes(2.0, 6.0, 4)[None]
    assert oracle_weights(sigma, z, np.ones(1)).sum() == pytest.approx(1.0)
    tau = torch.tensor(sigma) * Stratified(n=4)(rays_between(2.0, 6.0)).dt
    assert emission_absorption(tau, torch.ones(1, 4, 1)).w.sum().item() == pytest.approx(
        1 - math.exp(-1e-3), rel=1e-4
    )


def test_fine_nodes_of_given_random_numbers():
    """inverse_cdf on the port's edges and weights, floor included, is the port's sampler for any
    u.
    """
    sigma, z, length = some_densities()
    w = oracle_weights(sigma, z, length)
    edges = torch.tensor(0.5 * (z[:, 1:] + z[:, :-1]))
    for u in (np.linspace(0, 1, 128)[:-1], np.sort(np.random.default_rng(2).uniform(size=128))):
        found = inverse_cdf(
            edges, torch.tensor(w[:, 1:-1] + 1e-5), torch.tensor(u).expand(len(z), -1)
        )
        for ray in range(len(z)):
            close(found[ray], oracle_fine(z[ray], w[ray], u), atol=2e-3)
            # elsewhere the port's guard for tiny steps of the CDF shows
            steep = np.diff(oracle_fine(z[ray], w[ray], u)) < 0.05
            close(found[ray, 1:][steep], oracle_fine(z[ray], w[ray], u)[1:][steep], atol=1e-6)


def test_the_fine_pass_is_the_union():
    """Importance: coarse planes and inverse transform of their weights; the port's with u = (i +
    ½)/n and weightless ends.
    """
    sigma, z, length = some_densities()
    w = oracle_weights(sigma, z, length)
    w[:, [0, -1]] = 0
    half = 0.5 * 4.0 / 63
    rays = rays_between(2.0 - half, 6.0 + half, len(z))
    floor = np.zeros_like(w)
    floor[:, 1:-1] = 1e-5
    found = Importance(n=128)(
        rays, (Stratified(n=64)(rays), torch.tensor(w + floor, dtype=torch.float32)), None
    )
    assert found.t.shape[-1] == 64 + 128
    u = (np.arange(128) + 0.5) / 128
    for ray in range(len(z)):
        union = np.sort(np.concatenate([z[ray], oracle_fine(z[ray], w[ray], u)]))
        close(found.t[ray], union, atol=2e-3)
        assert np.median(np.abs(found.t[ray].double().numpy() - union)) < 1e-5


@pytest.mark.parametrize(("octaves", "width", "atol"), [(10, 63, 1e-3), (4, 27, 1e-5)])
def test_encoding(octaves, width, atol):
    x = np.random.default_rng(3).uniform(-1.5, 1.5, (50, 3))
    found = frequency_encoding(torch.tensor(x, dtype=torch.float32), octaves)
    assert found.shape[-1] == width
    close(found, oracle_encoding(x.astype(np.float32).astype(float), octaves), atol=atol)


def test_golden_numbers():
    """Small cases worked out by hand with a pocket calculator, so that neither oracle nor package
    can drift.

    Compositing: σ = 1, 2, 0 with Δ = ½, ½, ∞: α = 1 − e^−½, 1 − e^−1, 0 = 0.3934693, 0.6321206, 0;
    T = 1, 0.6065307, 0.2231302; w = α T; colours 0.2, 0.4, 0.9 on white: 0.2·0.3934693 +
    0.4·0.3834005 + 0.2231302 = 0.4551843. Fine nodes: edges 2.5, 3.5, 4.5 with inner weights 1 and
    3: CDF 0, ¼, 1; u = ⅛ is the middle of the first cell, 3.0, and u = ⅝ is half way up the second,
    4.0. Ray: pixel (row 0, column 0) of an 8×6 picture, f = 9: d = (−4/9, 3/9, −1), |d| = √(16 + 9
    + 81)/9 = 1.1439589. Encoding: x = ½, octave 2: sin 1 = 0.8414710, cos 1 = 0.5403023.
    """
    sigma, z = np.array([[1.0, 2.0, 0.0]]), np.array([[1.0, 1.5, 2.0]])
    golden = [0.3934693, 0.3834005, 0.0]
    np.testing.assert_allclose(oracle_weights(sigma, z, np.ones(1))[0], golden, atol=1e-6)
    seen = emission_absorption(
        torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[[0.2], [0.4], [0.9]]]), 1.0
    )
    assert seen.w[0].tolist() == pytest.approx(
        golden, abs=1e-6
    ) and seen.image.item() == pytest.approx(0.4551843, abs=1e-6)
    u = np.array([0.125, 0.625])
    np.testing.assert_allclose(
        oracle_fine(np.arange(2.0, 6.0), np.array([9.0, 1, 3, 9]), u), [3.0, 4.0], atol=1e-5
    )
    assert inverse_cdf(
        torch.tensor([2.5, 3.5, 4.5]), torch.tensor([1.0, 3.0]), torch.tensor(u).float()
    ).tolist() == [3.0, 4.0]
    flat = np.concatenate([np.eye(3), np.zeros((3, 1))], -1)
    np.testing.assert_allclose(oracle_rays(flat)[1][0, 0], [-4 / 9, 3 / 9, -1])
    first = all_rays(cameras((W / 2, H / 2), pose=flat)).direction[0, 0]
    assert first.tolist() == pytest.approx([-0.3885143, 0.2913857, -0.8741573], abs=1e-6)
    assert frequency_encoding(torch.full((1, 3), 0.5), 2)[0, [9, 12]].tolist() == pytest.approx(
        [0.8414710, 0.5403023], abs=1e-6
    )
