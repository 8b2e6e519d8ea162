"""Surfaces of fitted scenes: closed triangle meshes, and their distance from the exact surface.

A mesh is vertices [N, 3] in scene units and faces [F, 3], turned outwards. Fields with a signed
distance (``sdf``) are cut at distance 0, the others at a density.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..core.errors import UserError
from . import field_queries

if TYPE_CHECKING:
    from ..data.posed.types import Scene
    from ..imaging.cameras import Cameras
    from .load import Fit

SCORED_CELLS = 128  # along each side of the box, where a surface is scored
MESH_POINTS = 8  # points of the mesh for each of the true surface


class ExactSurface(Protocol):
    """What a scene knows of its own surface (``facts["surface"]``)."""

    def distance(self, x: Tensor) -> Tensor:
        """Signed distance of points [..., 3]."""

    def sample(self, n: int, rng: Generator) -> Tensor:
        """Points [n, 3] spread evenly over it."""


def mesh_of(fit: Fit, *, size: int = 256, threshold: float | None = None) -> tuple[Tensor, Tensor]:
    """The surface of a fitted scene by marching cubes on size³ cells of its box.

    ``threshold`` is a density, or of a field with signed distances the distance to cut at; without
    it the surface itself. Raises UserError for a forward-facing scene, and for a threshold that
    yields nothing.
    """
    check_mesh(fit.scene("train").cameras)
    if (sdf := field_queries.signed_distance(fit)) is not None:
        distances, box = field_queries.distance_grid(fit, sdf, size)
        return level_set(distances, box, 0.0 if threshold is None else threshold)
    values, box = field_queries.density_grid(fit, size)
    if threshold is None:
        threshold = default_threshold(values, box, surfaces=fit.meta["quantity"] == "colour")
    return surface(values, box, threshold)


def check_mesh(cameras: Cameras) -> None:
    """Refuse the mesh of a scene that lies in a warped space."""
    if cameras.ndc:
        raise UserError(
            "got the mesh of a forward-facing scene, whose box is warped by NDC",
            "wanted a scene in its own space",
            "export its points, or fit it without NDC",
        )


def default_threshold(values: Tensor, box: Tensor, *, surfaces: bool) -> float:
    """A density to cut at: of surfaces, where one cell stops half the light, ln 2 / cell.

    For other scenes it is half the largest density.

    >>> box = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    >>> round(default_threshold(torch.full((10, 10, 10), 50.0), box, surfaces=True), 3)
    6.931
    """
    if not surfaces:
        return 0.5 * float(values.max())
    cell = float((box[1] - box[0]).max()) / max(values.shape)
    return math.log(2) / cell


def surface(values: Tensor, box: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The mesh where densities [D, H, W] = [z, y, x] cross a threshold.

    Densities are those at the centres of the cells that fill ``box`` [2, 3].

    Outside the box there is nothing, so that every surface is closed. A threshold that no density
    crosses is a UserError.
    """
    low, high = float(values.min()), float(values.max())
    if not 0 < threshold < high:
        raise UserError(
            f"got threshold {threshold:g}, which yields no surface",
            f"wanted more than 0 and less than {high:.4g}",
            f"the densities of this scene lie between {low:.4g} and {high:.4g}",
        )
    # Densities may leap from nothing to thousands: capped, such a step is cut in its middle instead
    # of at its foot.
    return marching_cubes_mesh(
        functional.pad(values.float().clamp_max(2 * threshold), (1,) * 6), box, threshold
    )


def level_set(distances: Tensor, box: Tensor, level: float = 0.0) -> tuple[Tensor, Tensor]:
    """The mesh where signed distances [D, H, W] = [z, y, x] equal ``level``, inside below it.

    Distances are those at the centres of the box's cells.

    What reaches the box is closed there, on the box's own faces. A level that no distance crosses
    is a UserError.
    """
    low, high = float(distances.min()), float(distances.max())
    if not low < level < high:
        raise UserError(
            f"got threshold {level:g}, which yields no surface",
            f"wanted a distance above {low:.4g} and below {high:.4g}",
            "the distances of this scene lie between these; train it longer, or give another "
            "--threshold",
        )
    within = level - distances.float()
    # Beyond the box each value is mirrored to the outside: the step is cut in its middle, half a
    # cell on, on the box's face.
    padded = -functional.pad(within[None, None], (1,) * 6, mode="replicate")[0, 0].abs()
    padded[1:-1, 1:-1, 1:-1] = within
    return marching_cubes_mesh(padded, box, 0.0)


def marching_cubes_mesh(padded: Tensor, box: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Marching cubes (Lewiner et al. 2003, in scikit-image) of values, higher inside.

    The values have one cell more on each side of the box.
    """
    from skimage.measure import marching_cubes

    zyx, faces, _, _ = marching_cubes(padded.numpy(), level, allow_degenerate=False)
    cells = torch.tensor(padded.shape[::-1]) - 2
    vertices = box[0] + (torch.from_numpy(zyx[:, ::-1].copy()) - 0.5) / cells * (box[1] - box[0])
    return vertices.float(), torch.from_numpy(faces.astype(np.int64))


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit outward normals [N, 3]: the sum of the faces' normals, weighed by area."""
    across = twice_areas(vertices, faces)
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(0, faces[:, corner], across)
    return functional.normalize(normals, dim=-1)


def seen_from_outside(fit: Fit, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Places and directions [N, 3], against the normals, to query the colours of a mesh at.

    Places are kept a hair inside the box. Of a signed distance the normals are its own: where a
    mesh was closed at the box they are not those of its faces, and against these nothing would be
    seen.
    """
    box = torch.tensor(fit.meta["box"])
    hair = 1e-4 * (box[1] - box[0])
    places = vertices.maximum(box[0] + hair).minimum(box[1] - hair)
    sdf = field_queries.signed_distance(fit)
    if sdf is None:
        return places, -vertex_normals(vertices, faces)
    normals = []
    for some in places.split(1 << 16):
        x = some.to(fit.device).requires_grad_()
        normals.append(torch.autograd.grad(sdf(x).sum(), x)[0].cpu())
    return places, -functional.normalize(torch.cat(normals), dim=-1)


def twice_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Outward normals [F, 3] of faces, each as long as twice its area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def is_watertight(faces: Tensor) -> bool:
    """Whether every edge belongs to exactly two faces [F, 3].

    >>> tetrahedron = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    >>> is_watertight(tetrahedron), is_watertight(tetrahedron[:3])
    (True, False)
    """
    if not len(faces):
        return False
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(-1).values
    keys = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    return bool((keys.unique(return_counts=True)[1] == 2).all())


def spread_over(vertices: Tensor, faces: Tensor, n: int, rng: Generator) -> Tensor:
    """Points [n, 3] spread evenly over a mesh: strata of equal area, a random place in each."""
    area = twice_areas(vertices, faces).norm(dim=-1).double().cumsum(0)
    place = (torch.arange(n) + torch.rand(n, generator=rng)).double() / n * area[-1]
    a, b, c = vertices[faces[torch.searchsorted(area, place).clamp_max(len(faces) - 1)]].unbind(1)
    u, v = torch.rand((2, n, 1), generator=rng)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return a + u * (b - a) + v * (c - a)


def chamfer(
    vertices: Tensor, faces: Tensor, truth: ExactSurface, *, n: int = 30_000, seed: int = 0
) -> dict[str, float]:
    """``accuracy``, ``completeness`` and their mean ``chamfer``, as shares of the scene's size.

    Accuracy is the mean distance of points spread over the mesh to the true surface, in closed
    form; completeness that of ``n`` points spread over the true surface, hidden sides included, to
    the nearest of eight times as many of the mesh (scipy's cKDTree), which reads about half their
    spacing too much. The scene's size is the diagonal of the true surface's bounding box.
    """
    from scipy.spatial import cKDTree

    rng = Generator().manual_seed(seed)
    true_points = truth.sample(n, rng)
    ours = spread_over(vertices, faces, MESH_POINTS * n, rng)
    size = float((true_points.amax(0) - true_points.amin(0)).norm())
    accuracy = float(truth.distance(ours[::MESH_POINTS]).abs().double().mean()) / size
    completeness = float(cKDTree(ours.numpy()).query(true_points.numpy())[0].mean()) / size
    return {
        "chamfer": 0.5 * (accuracy + completeness),
        "accuracy": accuracy,
        "completeness": completeness,
    }


def surface_scores(fit: Fit, scene: Scene, *, size: int = SCORED_CELLS) -> dict[str, Any]:
    """Scores of a fit's mesh against the exact surface, where the scene knows it.

    They are ``chamfer``, ``accuracy``, ``completeness`` and ``watertight``.

    Empty where it does not; None each where the field has no surface to cut (yet).
    """
    truth = scene.facts.get("surface")
    if truth is None:
        return {}
    try:
        vertices, faces = mesh_of(fit, size=size)
    except UserError:
        return dict.fromkeys(("chamfer", "accuracy", "completeness", "watertight"))
    return chamfer(vertices, faces, truth) | {"watertight": is_watertight(faces)}
