"""Near, far and the bounding box of a scene whose files do not give them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...imaging.cameras import Cameras, nearest_to_axes


@dataclass(frozen=True)
class Bounds:
    """Where a scene lies, and in words how that was found."""

    near: float
    far: float
    box: Tensor  # [2, 3]
    how: str


def bounds_of_poses(c2w: Tensor) -> Bounds:
    """Bounds from poses [V, 3, 4] alone.

    Cameras about an object look at one point, at a mean distance r: half and one and a half r bound it, and a cube of 0.375 r
    half a side, which is 2, 6 and ±1.5 for the r = 4 of nerf_synthetic. Otherwise the cameras' own spread is all there is to go
    by.
    """
    position = c2w[:, :, 3]
    point = nearest_to_axes(c2w)
    away = position - point
    distance = away.norm(dim=-1)
    r = float(distance.mean())
    along = (away * c2w[:, :, 2]).sum(-1)
    missed = (away - along[:, None] * c2w[:, :, 2]).norm(dim=-1)
    if len(c2w) > 1 and r > 0 and float(missed.mean()) < 0.25 * r and float((along > 0).float().mean()) > 0.9:
        if 3.5 < r < 4.6 and float(point.norm()) < 0.75:
            return Bounds(2.0, 6.0, cube(torch.zeros(3), 1.5), "those of nerf_synthetic, whose cameras stand as far away")
        near = max(float(distance.min()) - 0.5 * r, 0.05 * r)
        return Bounds(near, float(distance.max()) + 0.5 * r, cube(point, 0.375 * r), "derived from the point the cameras look at")
    middle = position.mean(0)
    spread = max(float((position - middle).norm(dim=-1).max()), 1e-3)
    return Bounds(
        0.05 * spread, 10 * spread, cube(middle, 10 * spread), "a guess from the spread of the cameras: give near, far and box"
    )


def bounds_of_box(c2w: Tensor, box: Tensor) -> Bounds:
    """Near and far that reach every corner of a known box [2, 3] from every camera."""
    x, y, z = box.T
    corners = torch.cartesian_prod(x, y, z)
    far = float(torch.cdist(c2w[:, :, 3], corners).max())
    outside = torch.maximum(box[0] - c2w[:, :, 3], c2w[:, :, 3] - box[1]).clamp_min(0).norm(dim=-1)
    return Bounds(max(float(outside.min()), 0.01 * far), far, box, "derived from the box")


def bounds_of_points(c2w: Tensor, points: Tensor, depths: Tensor) -> Bounds:
    """Bounds of a reconstruction from its points [N, 3] and the planar depths [M] at which they were seen, outliers left out."""
    low, high = points.double().quantile(0.01, dim=0), points.double().quantile(0.99, dim=0)
    margin = 0.1 * (high - low).max()
    near, far = (float(depths.double().quantile(q)) for q in (0.005, 0.995))
    return Bounds(0.8 * near, 1.25 * far, torch.stack([low - margin, high + margin]).float(), "derived from the points")


def box_of_frusta(cameras: Cameras) -> Tensor:
    """The box [2, 3] of everything the cameras see between near and far, in the space of their rays."""
    corners = torch.tensor([[y, x] for y in (0.0, cameras.rows - 1.0) for x in (0.0, cameras.cols - 1.0)])
    view = torch.arange(cameras.count)[:, None].expand(-1, 4)
    rays = cameras.rays(view, corners.expand(cameras.count, 4, 2))
    ends = torch.cat([rays.origin + t[..., None] * rays.direction for t in (rays.near, rays.far)]).reshape(-1, 3)
    return torch.stack([ends.amin(0), ends.amax(0)])


def cube(centre: Tensor, half: float) -> Tensor:
    """A cube of 2·half a side as a box [2, 3]."""
    return torch.stack([centre - half, centre + half]).float()
