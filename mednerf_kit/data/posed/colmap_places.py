"""Whether the poses of a COLMAP model put its points where its pictures show them.

Each keypoint with a point says twice where that point was seen: by its pixel, and by pose, lens and
point. A model that was moved far off (into UTM, say) by rotations of single precision keeps its
turns and its points, but its positions are rounded: of 5·10⁶ single precision leaves half a metre.
Keypoints and points tell the positions too, in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...imaging.cameras import Cameras, nearest_to_axes
from .colmap_lens import camera_of, lens_of
from .colmap_model import ColmapModel, ColmapView, seen_rows
from .lens import cameras_of
from .sizes import PictureSize

LEAST = 8  # keypoints that say where a view was taken from
MOST = 500  # of a view's keypoints that are compared, evenly chosen
WRONG = 4.0  # times the points' own error, and of pixels at least half of that
BETTER = 0.25  # of the misfit is what may be left by a position found again
SEEN_PX = 0.1  # a misfit that is worth mending
ROUNDED = 4 * 2.0**-23  # of a position's length is what single precision may have moved it by


def placed_again(model: ColmapModel) -> tuple[ColmapModel, list[str]]:
    """The model with positions that fit its points where they were rounded, and what to say.

    A view's misfit is the median distance of its points from their keypoints. Its position becomes
    the point nearest to the lines through its points along the directions in which they were seen,
    where that is a quarter of the misfit and lies no further off than single precision rounds. Of
    other views a misfit of over four times the points' mean error, and over 2 px, is said.
    """
    error = float(model.errors.clamp_min(0).mean()) if len(model.errors) else 0.0
    views, found, lost = [], [], []
    for view, off_px in zip(model.views, misfits_px(model), strict=True):
        placed = rounded_away(model, view, off_px) if off_px > SEEN_PX else None
        views.append(placed or view)
        if placed:
            found.append(off_px)
        elif off_px > WRONG * max(error, 0.5):
            lost.append(off_px)
    return replace(model, views=views), place_notes(found, lost)


def rounded_away(model: ColmapModel, view: ColmapView, off_px: float) -> ColmapView | None:
    """The view at the position that its points tell, where its own was rounded; else None."""
    rows, xy = keypoints(model, view)
    points, reach = model.points[rows], ROUNDED * float(view.pose[:, 3].norm())
    if reach < 1e-3 * float((points - view.pose[:, 3]).norm(dim=-1).median()):
        return None  # single precision would do no harm here
    camera = camera_as_modelled(model, view)
    position = position_from(camera, points, xy)
    pose = torch.cat([view.pose[:, :3], position[:, None]], -1)
    left_px = misfit_px(replace(camera, c2w=pose[None]), points, xy)
    near = float((position - view.pose[:, 3]).norm()) <= reach
    return replace(view, pose=pose) if near and left_px <= BETTER * off_px else None


def misfits_px(model: ColmapModel) -> list[float]:
    """:func:`misfit_px` of each view; 0 for one with too few keypoints to tell."""
    cameras: dict[int, Cameras] = {}
    found = []
    for view in model.views:
        rows, xy = keypoints(model, view)
        if len(rows) < LEAST:
            found.append(0.0)
            continue
        if view.camera not in cameras:
            cameras[view.camera] = camera_as_modelled(model, view)
        camera = replace(cameras[view.camera], c2w=view.pose[None])
        found.append(misfit_px(camera, model.points[rows], xy))
    return found


def place_notes(found: Sequence[float], lost: Sequence[float]) -> list[str]:
    """What to say of views whose points were off by this many pixels."""
    notes = []
    if found:
        notes.append(
            f"the positions of {len(found)} views were rounded, as by single precision: they put "
            f"the points they see up to {max(found):.1f} px off, and were found again from these"
        )
    if lost:
        notes.append(
            f"the points of {len(lost)} views lie up to {max(lost):.0f} px from their keypoints: "
            "points, poses and cameras of the model do not belong together"
        )
    return notes


def keypoints(model: ColmapModel, view: ColmapView) -> tuple[Tensor, Tensor]:
    """Rows of points that a view sees, and where [N, 2] (x, y), centres of pixels at integers."""
    rows = seen_rows(model, view)
    known = [place for place, number in enumerate(view.seen.tolist()) if number in model.rows]
    xy = torch.from_numpy(view.xy[known].reshape(-1, 2).copy()) - 0.5
    every = max(1, -(-len(rows) // MOST))
    return rows[::every], xy[::every]


def camera_as_modelled(model: ColmapModel, view: ColmapView) -> Cameras:
    """The camera of a view with the size and the lens of the reconstruction."""
    shot = camera_of(model, view)
    size = PictureSize(shot.rows, shot.cols)
    lens = lens_of(shot, size, Path(view.name), undistort=False)
    return cameras_of(view.pose[None], [lens], (shot.rows, shot.cols), 0.0, 1.0)[0]


def misfit_px(camera: Cameras, points: Tensor, xy: Tensor) -> float:
    """The median distance in pixels of points [N, 3] from where [N, 2] one camera saw them."""
    yx, _ = camera.to_pixels(torch.zeros(len(points), dtype=torch.long), points)
    return float((yx.flip(-1) - xy).norm(dim=-1).nan_to_num(torch.inf).median())


def position_from(camera: Cameras, points: Tensor, xy: Tensor) -> Tensor:
    """Where [3] a camera of known turn stood that saw points [N, 3] at pixels [N, 2] (x, y)."""
    view = torch.zeros(len(points), dtype=torch.long)
    _, direction = camera.world_rays(view, xy.flip(-1))
    middle = points.mean(0)  # far from the origin the sums would lose digits
    lines = torch.zeros(len(points), 3, 4, dtype=torch.float64)
    lines[:, :, 2], lines[:, :, 3] = direction, points - middle
    return nearest_to_axes(lines) + middle
