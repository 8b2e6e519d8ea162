"""Near, far and the bounding box of a scene whose files do not give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras, nearest_to_axes

# the mean of viewing directions is shorter where they spread by more than some 30° about it
SPREAD = 0.85


@dataclass(frozen=True)
class Bounds:
    """Where a scene lies, and in words how that was found."""

    near: float
    far: float
    box: Tensor  # [2, 3]
    how: str


def bounds_of_poses(c2w: Tensor) -> Bounds:
    """Bounds from poses [V, 3, 4] alone.

    Cameras about an object look at one point, at a mean distance r: half and one and a half r bound
    it, and a cube of 0.375 r half a side, which is 2, 6 and ±1.5 for the r = 4 of nerf_synthetic.
    Otherwise the cameras' own spread is all there is to go by, and so it is where :func:`look_away`
    says that the poses are not what they should be.
    """
    point, distance, ahead = common_point(c2w)
    r, doubtful = float(distance.mean()), look_away(c2w)
    if ahead > 0.9 and not doubtful:
        if 3.5 < r < 4.6 and float(point.norm()) < 0.75:
            return Bounds(
                2.0,
                6.0,
                cube(torch.zeros(3), 1.5),
                "those of nerf_synthetic, whose cameras stand as far away",
            )
        near = max(float(distance.min()) - 0.5 * r, 0.05 * r)
        return Bounds(
            near,
            float(distance.max()) + 0.5 * r,
            cube(point, 0.375 * r),
            "derived from the point the cameras look at",
        )
    position = c2w[:, :, 3]
    middle = position.mean(0)
    spread = max(float((position - middle).norm(dim=-1).max()), 1e-3)
    how = "a guess from the spread of the cameras"
    if doubtful and common_point(c2w)[2] < 0.1 and upright(c2w):
        how += (
            ", which look away from what they surround, as in a room seen from its middle: give "
            "near, far and box (or are the axes OpenCV's?)"
        )
    elif doubtful:
        how += (
            ", which look away from what they surround: OpenCV axes or world-to-camera matrices? "
        )
        how += "Write camera to world in the format's axes (data/README.md)"
    else:
        how += ": give near, far and box"
    return Bounds(0.05 * spread, 10 * spread, cube(middle, 10 * spread), how)


def common_point(c2w: Tensor) -> tuple[Tensor, Tensor, float]:
    """The point [3] nearest to the optical axes, and how the cameras lie about it.

    Also returned are each camera's distance from it [V], and the share of cameras it lies ahead
    of.

    That share is nan where there is no such point: axes that pass it, on average, by more than a
    quarter of that distance.
    """
    point = nearest_to_axes(c2w)
    away = c2w[:, :, 3] - point
    distance = away.norm(dim=-1)
    along = (away * c2w[:, :, 2]).sum(-1)
    missed = (away - along[:, None] * c2w[:, :, 2]).norm(dim=-1)
    meet = len(c2w) > 1 and float(missed.mean()) < 0.25 * float(distance.mean())
    return point, distance, float((along > 0).float().mean()) if meet else math.nan


def look_away(c2w: Tensor) -> bool:
    """Whether poses [V, 3, 4] are those of cameras round a place in other axes, or their inverses.

    In OpenCV's axes the place lies behind them. Of inverses only the inverses stand round a place,
    which is then near the origin. Views from the front, whose axes hardly spread, say neither.
    """

    def all_round(poses: Tensor) -> bool:
        return float(poses[:, :, 2].mean(0).norm()) < SPREAD

    turn = c2w[:, :, :3].mT
    inverse = torch.cat([turn, -turn @ c2w[:, :, 3:]], -1)
    centre, distance, ahead = common_point(inverse)
    inverted = (ahead > 0.9 or ahead < 0.1) and float(centre.norm()) < 0.2 * float(distance.mean())
    return (inverted and all_round(inverse)) or (common_point(c2w)[2] < 0.1 and all_round(c2w))


def upright(c2w: Tensor) -> bool:
    """Whether the pictures' up is, on average, the world's +z or +y: OpenCV's axes turn it over.

    >>> upright(torch.eye(3, 4)[None]), upright(-torch.eye(3, 4)[None])
    (True, False)
    """
    up = c2w[:, :, 1].mean(0)
    return float(up.abs().max()) > 0.3 and float(up[up.abs().argmax()]) > 0


def bounds_of_box(c2w: Tensor, box: Tensor) -> Bounds:
    """Near and far that reach every corner of a known box [2, 3] from every camera."""
    box = box.to(c2w)
    x, y, z = box.T
    corners = torch.cartesian_prod(x, y, z)
    far = float(torch.cdist(c2w[:, :, 3], corners).max())
    outside = torch.maximum(box[0] - c2w[:, :, 3], c2w[:, :, 3] - box[1]).clamp_min(0).norm(dim=-1)
    return Bounds(max(float(outside.min()), 0.01 * far), far, box, "derived from the box")


def bounds_of_points(c2w: Tensor, points: Tensor, depths: Tensor) -> Bounds:
    """Bounds of a reconstruction from its points [N, 3], outliers left out.

    ``depths`` [M] are the planar depths at which the points were seen.
    """
    low, high = points.double().quantile(0.01, dim=0), points.double().quantile(0.99, dim=0)
    margin = 0.1 * (high - low).max()
    near, far = (float(depths.double().quantile(q)) for q in (0.005, 0.995))
    return Bounds(
        0.8 * near,
        1.25 * far,
        torch.stack([low - margin, high + margin]),
        "derived from the points",
    )


def both(a: Bounds, b: Bounds) -> Bounds:
    """Bounds that hold both."""
    box = torch.stack([torch.minimum(a.box[0], b.box[0]), torch.maximum(a.box[1], b.box[1])])
    return Bounds(
        min(a.near, b.near), max(a.far, b.far), box, f"{a.how}, which are few, and {b.how}"
    )


def box_of_frusta(cameras: Cameras) -> Tensor:
    """The box [2, 3] of all that cameras see between near and far, in the space of their rays."""
    corners = torch.tensor(
        [[y, x] for y in (0.0, cameras.rows - 1.0) for x in (0.0, cameras.cols - 1.0)]
    )
    view = torch.arange(cameras.count)[:, None].expand(-1, 4)
    rays = cameras.rays(view, corners.expand(cameras.count, 4, 2))
    ends = torch.cat(
        [rays.origin + t[..., None] * rays.direction for t in (rays.near, rays.far)]
    ).reshape(-1, 3)
    return torch.stack([ends.amin(0), ends.amax(0)])


def cube(centre: Tensor, half: float) -> Tensor:
    """A cube of 2·half a side as a box [2, 3]."""
    return torch.stack([centre - half, centre + half])


def as_box(corners: Sequence[Sequence[float]]) -> Tensor:
    """Two corners as a box [2, 3], float64."""
    try:
        box = torch.tensor(corners, dtype=torch.float64)
    except (TypeError, ValueError):
        box = torch.zeros(0)
    fits = box.shape == (2, 3) and bool(box.isfinite().all() and (box[0] < box[1]).all())
    if not fits:
        raise UserError(
            f"got box {corners}",
            "wanted [[x, y, z], [x, y, z]], the lower corner first",
            "correct the scene's box",
        )
    return box
