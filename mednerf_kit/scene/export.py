"""A fitted scene for other programs: a coloured point cloud and a triangle mesh, as binary PLY."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from ..core.errors import UserError
from ..core.files import atomic
from ..data.posed.world import world_points
from ..metrics import scene as scene_metrics
from . import field_queries, load
from .surface import check_mesh, default_threshold, mesh_of, seen_from_outside, surface

__all__ = [
    "check_mesh",
    "check_points",
    "default_threshold",
    "export_mesh",
    "export_points",
    "point_cloud",
    "surface",
    "write_ply",
]

if TYPE_CHECKING:
    from .load import Fit

# what is rendered for each point that is kept: most rays of many scenes hit nothing
RAYS_PER_POINT = 4


def export_points(
    fit: Fit,
    path: str | Path,
    *,
    split: str = "train",
    n: int = 200_000,
    seed: int = 0,
    to_world: Tensor | None = None,
) -> int:
    """Write coloured points where rays stop as PLY; returns their number.

    The rays are those of a split's views; at most ``n`` points are written, after ``to_world``
    [4, 4].
    """
    points, colours = point_cloud(fit, split=split, n=n, rng=Generator().manual_seed(seed))
    write_ply(path, placed(points, to_world), colours)
    return len(points)


def placed(points: Tensor, to_world: Tensor | None) -> Tensor:
    """Points [N, 3] after ``to_world``: float64, as single precision would round them there."""
    return points if to_world is None else world_points(points.cpu(), to_world)


def export_mesh(
    fit: Fit,
    path: str | Path,
    *,
    size: int = 256,
    threshold: float | None = None,
    to_world: Tensor | None = None,
) -> tuple[int, int]:
    """Write the surface, coloured where the field has colour, as PLY; returns vertices and faces.

    It is that of :func:`~.surface.mesh_of`, after ``to_world`` [4, 4].
    """
    vertices, faces = mesh_of(fit, size=size, threshold=threshold)
    colours = None
    if fit.meta["channels"]:
        colours = field_queries.colour_at(fit, *seen_from_outside(fit, vertices, faces))
    write_ply(path, placed(vertices, to_world), colours, faces)
    return len(vertices), len(faces)


def check_points(fit: Fit) -> None:
    """Refuse the points of a scene whose rays stop nowhere."""
    if fit.meta["quantity"] != "colour":
        raise UserError(
            "got a scene of line integrals, which has no first surface",
            "wanted a scene of photographs",
            "export its mesh at a density instead",
        )


def point_cloud(
    fit: Fit, *, split: str = "train", n: int = 200_000, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Where rays of opacity > 0.5 are half stopped [N, 3], and the colours they see [N, C].

    That is at their median depth.

    The views are rendered as small as ``n`` points allow, and ``n`` of the points are kept.
    Forward-facing scenes come back from NDC to their own space.
    """
    check_points(fit)
    cameras = fit.scene(split).cameras
    scale = min(1.0, math.sqrt(RAYS_PER_POINT * n / (cameras.count * cameras.rows * cameras.cols)))
    cameras = cameras.resized(
        max(1, round(cameras.rows * scale)), max(1, round(cameras.cols * scale))
    )
    points, colours = [], []
    for v in range(cameras.count):
        seen = load.render_views(fit, cameras.take([v]))
        yx = ((seen.opacity[0] > scene_metrics.OPAQUE) & seen.median_depth[0].isfinite()).nonzero()
        y, x = yx.unbind(-1)
        view = torch.full((len(yx),), v)
        origin, direction = cameras.world_rays(view, yx.float())
        distance = cameras.from_ray(view, yx.float(), seen.median_depth[0, y, x])
        points.append(origin + distance[:, None] * direction)
        colours.append(seen.image[0, y, x])
    found, seen_colours = torch.cat(points), torch.cat(colours)
    keep = torch.randperm(len(found), generator=rng)[:n].sort().values
    return found[keep], seen_colours[keep]


def write_ply(
    path: str | Path, points: Tensor, colours: Tensor | None = None, faces: Tensor | None = None
) -> None:
    """Write points [N, 3], colours [N, 1 or 3] in [0, 1] and triangles [F, 3] as a binary PLY.

    It is little-endian, of the points' own precision, and written atomically.
    """
    double = points.dtype == torch.float64
    fields = [(axis, "<f8" if double else "<f4") for axis in "xyz"]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(points)}",
        *(f"property {'double' if double else 'float'} {axis}" for axis in "xyz"),
    ]
    if colours is not None:
        names = ("red", "green", "blue")
        fields += [(name, "u1") for name in names]
        header += [f"property uchar {name}" for name in names]
    vertices = np.zeros(len(points), dtype=fields)
    for k, axis in enumerate("xyz"):
        vertices[axis] = points[:, k].cpu().numpy()
    if colours is not None:
        bytes_ = (colours.expand(-1, 3).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
        for k, name in enumerate(names):
            vertices[name] = bytes_[:, k]
    parts = [vertices.tobytes()]
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        triangles = np.zeros(len(faces), dtype=[("count", "u1"), ("corners", "<i4", (3,))])
        triangles["count"], triangles["corners"] = 3, faces.cpu().numpy()
        parts.append(triangles.tobytes())
    text = "\n".join([*header, "end_header"]) + "\n"
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("ascii") + b"".join(parts))
