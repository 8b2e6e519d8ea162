"""How poses are refined, in closed form: losses that are parabolas in a shift, and Adam's path."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from linear_game import adam

from mednerf_kit.imaging.cameras import Cameras
from mednerf_kit.scene.pose import approach
from mednerf_kit.scene.pose.options import PoseSearch
from mednerf_kit.scene.pose.search import refine

SIZE = 8


def cameras(count: int) -> Cameras:
    """Along no axis in particular, with nothing to turn about but themselves."""
    middle = torch.full((count, 2), (SIZE - 1) / 2)
    return Cameras(
        torch.eye(3, 4).expand(count, 3, 4),
        torch.full((count, 2), 9.0),
        middle,
        SIZE,
        SIZE,
        1.0,
        5.0,
    )


class Ruler:
    """A model whose every pixel is where its ray begins, along x."""

    def narrowed(self, cameras):
        return cameras

    def render(self, rays, rng=None):
        return [SimpleNamespace(rendering=SimpleNamespace(image=rays.origin[..., :1]))]


def test_a_pose_goes_adams_way_while_the_rate_falls():
    """The error of a camera at x is x²; betas (0.9, 0.99), rate · final_rate^(step / steps)."""
    starts = torch.eye(3, 4).repeat(2, 1, 1)
    starts[:, 0, 3] = torch.tensor([0.5, -2.0])
    search = PoseSearch(pixels="random", rays=6, steps=12, rate=0.05, final_rate=0.1)
    photos = torch.zeros(2, SIZE, SIZE, 1)
    found = refine(
        Ruler(),
        cameras(2),
        photos,
        starts,
        torch.arange(2),
        search,
        rng=torch.Generator().manual_seed(0),
        keep_every=1,
    )
    x, gradients = starts[:, 0, 3].double(), []
    rates = [0.05 * 0.1 ** (step / 12) for step in range(12)]
    for step in range(12):
        torch.testing.assert_close(found.path[step, :, 0, 3].double(), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.loss[step].double(), x.square(), rtol=1e-4, atol=1e-6)
        gradients.append(2 * x)
        x = starts[:, 0, 3].double() + adam(gradients, rates[: step + 1], (0.9, 0.99))
    torch.testing.assert_close(found.c2w[:, 0, 3].double(), x, rtol=0, atol=1e-5)
    assert (x - starts[:, 0, 3]).abs().min() > 0.15


def test_the_approach_halves_its_rate_from_blur_to_blur(monkeypatch):
    """Betas (0.9, 0.9), 30 steps under each blur, rate 0.02 under the first."""
    shown = []

    def parabola(cameras, photos, poses, points, colours, which):
        shown.append(int(photos))
        return (poses[..., 0, 3] - 1.0).square()

    monkeypatch.setattr(approach, "_carried", parabola)
    poses = torch.eye(3, 4).repeat(1, 2, 1, 1)
    poses[0, 1, 0, 3] = -1.5
    ends, losses = approach._follow(cameras(1), [0, 1, 2], poses, None, [None] * 3, None)
    start = poses[..., 0, 3].double()
    x, gradients = start, []
    rates = [rate for rate in (0.02, 0.01, 0.005) for _ in range(30)]
    for step in range(90):
        gradients.append(2 * (x - 1.0))
        x = start + adam(gradients, rates[: step + 1], (0.9, 0.9))
    torch.testing.assert_close(ends[..., 0, 3].double(), x, rtol=0, atol=2e-4)
    torch.testing.assert_close(losses.double(), (x - 1.0).square(), rtol=0, atol=2e-3)
    assert shown == [0] * 30 + [1] * 30 + [2] * 31 and (x - start).abs().min() > 0.3
