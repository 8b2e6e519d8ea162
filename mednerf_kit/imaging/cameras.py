"""Cameras of posed pictures: from a pixel to its ray and back, and paths for videos.

Axes are OpenGL's: the columns of a pose are image right, image up and *back* (the camera looks
along minus the third). Lengths are those of the scene's files. X-ray set-ups in millimetres are in
``geometry.py``; one can be written as cameras.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..core.errors import UserError
from ..core.types import Rays
from .motion import square

if TYPE_CHECKING:
    from .lens_models import Lenses


@dataclass(frozen=True)
class Cameras:
    """V cameras with pictures of one size: pinholes, or with ``lenses`` what these are.

    Integer pixels are pixel centres, in the principal point too: a picture of w columns has its
    middle at (w − 1)/2. ``c2w`` need not turn: with mirrored columns (a radiograph) its determinant
    is −1. ``near`` and ``far`` bound every ray, and ``box`` bounds it further where it is given.
    With ``ndc`` rays live in normalised device coordinates (Mildenhall et al. 2020, appendix C: the
    frustum of the first camera's picture behind z = −1 becomes a cube), ``near`` and ``far`` are
    shares of the way from that plane to infinity, and ``box`` is in those coordinates.

    >>> focal_px, centre_px = torch.full((1, 2), 2.0), torch.full((1, 2), 1.0)
    >>> camera = Cameras(torch.eye(3, 4)[None], focal_px, centre_px, 3, 3, 1.0, 5.0)
    >>> camera.rays(torch.tensor(0), torch.tensor([1.0, 1.0])).direction.tolist()
    [0.0, 0.0, -1.0]
    """

    c2w: Tensor  # [V, 3, 4] columns right, up, back, position
    focal_px: Tensor  # [V, 2] (x, y)
    centre_px: Tensor  # [V, 2] (x, y)
    rows: int
    cols: int
    near: float | Tensor  # or [V]
    far: float | Tensor  # or [V]
    ndc: bool = False
    box: Tensor | None = None  # [2, 3] corners
    lenses: Lenses | None = None  # of pictures that no pinhole made

    def __post_init__(self) -> None:
        if bool((torch.as_tensor(self.near) >= torch.as_tensor(self.far)).any()):
            near, far = (
                float(torch.as_tensor(self.near).max()),
                float(torch.as_tensor(self.far).min()),
            )
            raise UserError(
                f"got near {near:g} and far {far:g}",
                "wanted near < far",
                "correct the scene's near and far",
            )

    @property
    def count(self) -> int:
        """How many cameras."""
        return len(self.c2w)

    @property
    def position(self) -> Tensor:
        """Where the cameras stand, [V, 3]."""
        return self.c2w[..., 3]

    def take(self, index: Sequence[int] | Tensor) -> Cameras:
        """The same set with these cameras only, in this order."""
        index = torch.as_tensor(index, dtype=torch.long)
        near, far = (
            v[index] if isinstance(v, Tensor) and v.ndim else v for v in (self.near, self.far)
        )
        return replace(
            self,
            c2w=self.c2w[index],
            focal_px=self.focal_px[index],
            centre_px=self.centre_px[index],
            near=near,
            far=far,
            lenses=self.lenses and self.lenses.take(index),
        )

    def moved(self, motion: Tensor) -> Cameras:
        """The same cameras after motions [V, 4, 4] of the world, or one motion [4, 4].

        The result is differentiable in the motions.

        >>> focal_px, centre_px = torch.full((1, 2), 2.0), torch.full((1, 2), 1.0)
        >>> camera = Cameras(torch.eye(3, 4)[None], focal_px, centre_px, 3, 3, 1.0, 5.0)
        >>> camera.moved(torch.eye(4) + torch.eye(4).roll(3, 1)).position.tolist()
        [[1.0, 0.0, 0.0]]
        """
        return replace(self, c2w=(motion @ square(self.c2w))[:, :3])

    def resized(self, rows: int, cols: int) -> Cameras:
        """The same views sampled by rows × cols pixels over the same area."""
        scale = torch.tensor([cols / self.cols, rows / self.rows])
        return replace(
            self,
            focal_px=self.focal_px * scale,
            centre_px=(self.centre_px + 0.5) * scale - 0.5,
            rows=rows,
            cols=cols,
        )

    def plane(self, view: Tensor, yx: Tensor) -> Tensor:
        """Where pixels [..., 2] lie on the plane at distance 1: image right and up, [..., 2].

        That is of pinholes; of other lenses it is the point of the picture in focal lengths.
        """
        offset = (yx.flip(-1) - self.centre_px[view]) / self.focal_px[view]
        return offset * offset.new_tensor([1.0, -1.0])

    def toward(self, view: Tensor, yx: Tensor) -> Tensor:
        """Directions [..., 3] (right, up, ahead) of pixels [..., 2]; of pinholes (x, y, 1)."""
        offset = self.plane(view, yx)
        if self.lenses is None:
            return torch.cat([offset, torch.ones_like(offset[..., :1])], -1)
        down = offset.new_tensor([1.0, -1.0])
        found = self.lenses.directions(view, offset * down)
        return torch.cat([found[..., :2] * down, found[..., 2:]], -1)

    def planar_factor(self, view: Tensor, yx: Tensor) -> Tensor:
        """What planar depth [...] is multiplied by to be the distance along the pixel's ray.

        It is √(1 + x² + y²) for the direction (x, y, 1), and infinite at a right angle to the axis.
        """
        if self.lenses is None:
            return (1 + self.plane(view, yx).square().sum(-1)).sqrt()
        return 1 / self.toward(view, yx)[..., 2].clamp_min(0)

    def world_rays(self, view: Tensor, yx: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [..., 3] of pixels, in the scene's own space."""
        pose = self.c2w[view]
        right, up, ahead = self.toward(view, yx).split(1, dim=-1)
        direction = right * pose[..., 0] + up * pose[..., 1] - ahead * pose[..., 2]
        return pose[..., 3].expand_as(direction), normalize(direction, dim=-1)

    def rays(self, view: Tensor, yx: Tensor) -> Rays:
        """Rays of the pixels ``yx`` [..., 2] (row, column) of views ``view`` [...].

        Rays that miss ``box`` have ``far`` equal to ``near``. Differentiable in the pixels and in
        the poses.
        """
        origin, direction = self.world_rays(view, yx)
        near, far = (_of_view(v, view).expand(direction.shape[:-1]) for v in (self.near, self.far))
        viewing = None
        if self.ndc:
            viewing = direction
            origin, direction, length = self._normalised(origin, direction)
            near, far = near * length, far * length
        if self.box is not None:
            enter, leave = box_span(origin, direction, self.box)
            near = torch.maximum(near, enter).minimum(far)
            far = torch.maximum(torch.minimum(far, leave), near)
        return Rays(origin, direction, near, far, viewing)

    def _normalised(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rays in normalised device coordinates, and their length.

        They start on the plane z = −1; the length is the way from there to infinity.
        """
        slope = 2 * self.focal_px[0] / self.focal_px.new_tensor([self.cols, self.rows])
        start = origin - ((1 + origin[..., 2]) / direction[..., 2])[..., None] * direction
        at_start, at_infinity = (-slope * v[..., :2] / v[..., 2:] for v in (start, direction))
        minus_one = torch.full_like(at_start[..., :1], -1.0)
        way = torch.cat([at_infinity - at_start, torch.full_like(minus_one, 2.0)], -1)
        length = way.norm(dim=-1)
        return torch.cat([at_start, minus_one], -1), way / length[..., None], length

    def along_ray(self, view: Tensor, yx: Tensor, distance: Tensor) -> Tensor:
        """A distance in the scene's own space as one along the rays of :meth:`rays`.

        The two differ with ``ndc`` only.
        """
        if not self.ndc:
            return distance
        origin, direction = self.world_rays(view, yx)
        z = origin[..., 2] + distance * direction[..., 2]
        return (2 + 2 / z) / self._normalised(origin, direction)[1][..., 2]

    def from_ray(self, view: Tensor, yx: Tensor, t: Tensor) -> Tensor:
        """The inverse of :meth:`along_ray`."""
        if not self.ndc:
            return t
        origin, direction = self.world_rays(view, yx)
        z = 2 / (t * self._normalised(origin, direction)[1][..., 2] - 2)
        return (z - origin[..., 2]) / direction[..., 2]

    def to_pixels(self, view: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels (row, column) [..., 2] and planar depths [...] of points x [..., 3].

        Behind the camera the depth is negative. This is the inverse of :meth:`rays` without
        ``ndc``.
        """
        pose = self.c2w[view]
        right, up, back = ((pose[..., :3] * (x - pose[..., 3])[..., None]).sum(-2)).unbind(-1)
        depth = -back
        if self.lenses is None:
            offset = torch.stack([right, -up], -1) / depth[..., None]
        else:
            offset = self.lenses.points(view, torch.stack([right, -up, depth], -1))
        return (offset * self.focal_px[view] + self.centre_px[view]).flip(-1), depth


def _of_view(value: float | Tensor, view: Tensor) -> Tensor:
    """A number that is the same for all views, or the number of each of the views."""
    value = torch.as_tensor(value, dtype=torch.float32)
    return value[view] if value.ndim else value


def box_span(origin: Tensor, direction: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays [..., 3] enter and leave an axis-aligned box [2, 3] (slab test).

    Nothing before the ray's origin counts; a ray that misses gives 0 and 0.

    >>> box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    >>> [float(v) for v in box_span(torch.tensor([3.0, 0, 0]), torch.tensor([-1.0, 0, 0]), box)]
    [2.0, 4.0]
    """
    tiny = torch.finfo(direction.dtype).tiny ** 0.5
    safe = torch.where(direction.abs() < tiny, torch.full_like(direction, tiny), direction)
    t = (box.to(origin)[:, None] - origin.reshape(-1, 3)) / safe.reshape(-1, 3)
    enter, leave = t.amin(0).amax(-1).clamp_min(0), t.amax(0).amin(-1)
    hit = leave > enter
    zero = torch.zeros_like(enter)
    shape = origin.shape[:-1]
    return torch.where(hit, enter, zero).reshape(shape), torch.where(hit, leave, zero).reshape(
        shape
    )


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Poses [..., 3, 4] of cameras at ``position`` that look at ``target``.

    ``up`` points upwards in the picture.

    >>> look_at(torch.tensor([0.0, 0, 2]), torch.zeros(3), torch.tensor([0.0, 1, 0])).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]]
    """
    back = normalize(position - target, dim=-1)
    right = normalize(torch.linalg.cross(up.expand_as(back), back), dim=-1)
    return torch.stack([right, torch.linalg.cross(back, right), back, position], -1)


def average_pose(c2w: Tensor) -> Tensor:
    """The pose [3, 4] in the middle of poses [V, 3, 4]: mean position, mean view and mean up."""
    mean = c2w.mean(0)
    return look_at(mean[:, 3], mean[:, 3] - mean[:, 2], mean[:, 1])


def nearest_to_axes(c2w: Tensor) -> Tensor:
    """The point [3] nearest to all optical axes: least squares of Σ|(I − d dᵀ)(x − o)|²."""
    across = torch.eye(3).to(c2w) - c2w[:, :, 2:3] * c2w[:, :, 2:3].mT
    return torch.linalg.pinv(across.sum(0), rtol=1e-6) @ (across @ c2w[:, :, 3:]).sum(0).squeeze(-1)


def circle_path(
    like: Cameras,
    *,
    views: int = 40,
    elevation_deg: float | None = None,
    centre: Tensor | None = None,
    radius: float | None = None,
    up: Tensor | None = None,
    start_deg: float = 0.0,
) -> Cameras:
    """A camera path: a full turn about what the cameras look at.

    The picture is that of the first of them. What is not given is their mean: the point they look
    at, how far they stand from it and how high, and what is up.
    """
    up = normalize(like.c2w[:, :, 1].mean(0) if up is None else up, dim=0)
    centre = nearest_to_axes(like.c2w) if centre is None else centre
    away = like.position - centre
    radius = float(away.norm(dim=-1).mean()) if radius is None else radius
    height = normalize(away, dim=-1) @ up
    elevation = (
        float(height.clamp(-1, 1).asin().mean())
        if elevation_deg is None
        else math.radians(elevation_deg)
    )
    elevation = max(-1.4, min(1.4, elevation))  # straight above, nothing tells which way is up
    helper = torch.eye(3).to(up)[int(up.abs().argmin())]
    east = normalize(helper - (helper @ up) * up, dim=0)
    angle = torch.deg2rad(start_deg + 360 * torch.arange(views) / views)[:, None]
    ring = angle.cos() * east + angle.sin() * torch.linalg.cross(up, east)
    position = centre + radius * (math.cos(elevation) * ring + math.sin(elevation) * up)
    return path(like, look_at(position, centre, up))


def spiral(
    like: Cameras,
    *,
    focus: float,
    views: int = 120,
    turns: float = 2.0,
    z_rate: float = 0.5,
    reach: float = 0.9,
) -> Cameras:
    """A camera path: a spiral in front of a forward-facing scene.

    The cameras look at the point ``focus`` ahead of the average pose.

    The radii are the ``reach`` quantile of the cameras' offsets from the average pose along its
    axes (Mildenhall et al. 2019).
    """
    middle = average_pose(like.c2w)
    offsets = (like.position - middle[:, 3]) @ middle[:, :3]
    radii = offsets.abs().quantile(reach, dim=0)
    angle = 2 * math.pi * turns * torch.arange(views) / views
    local = torch.stack([angle.cos(), -angle.sin(), -(angle * z_rate).sin()], -1) * radii
    position = middle[:, 3] + local @ middle[:, :3].mT
    return path(like, look_at(position, middle[:, 3] - focus * middle[:, 2], middle[:, 1]))


def path(like: Cameras, c2w: Tensor) -> Cameras:
    """Cameras at poses [V, 3, 4] with the picture of the first of ``like``, mirrored as it is.

    They are pinholes; instead of the whole sphere they see 90° across.
    """
    if float(torch.linalg.det(like.c2w[0, :, :3])) < 0:
        c2w = c2w * c2w.new_tensor([-1.0, 1.0, 1.0, 1.0])
    first = like.take([0])
    if first.lenses is not None:
        if first.lenses.name(0) == "equirectangular":
            first = replace(first, focal_px=torch.full((1, 2), first.cols / 2))
        first = replace(first, lenses=None)
    near, far = float(torch.as_tensor(like.near).min()), float(torch.as_tensor(like.far).max())
    shape = (len(c2w), 2)
    return replace(
        first,
        c2w=c2w,
        focal_px=first.focal_px.expand(shape),
        centre_px=first.centre_px.expand(shape),
        near=near,
        far=far,
    )
