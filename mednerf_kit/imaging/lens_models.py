"""Lenses as rays: from a point of the picture to the direction it was photographed from, and back.

Points of a picture are ((column, row) − principal point) / focal length, directions are unit
vectors to image right, image down and ahead. The models:

- ``brown`` (OpenCV's): a pinhole whose points are moved, radially by
  (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) / (1 + d1 r² + d2 r⁴ + d3 r⁶) and tangentially by p1 and p2;
- ``fisheye`` (Kannala and Brandt 2006, OpenCV's): a direction θ off the axis lies at
  θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) from the middle;
- ``equirectangular``: points are longitude and latitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

STEPS = 30  # of Newton's method, at most
COEFFICIENTS = 9  # k1, k2, k3, k4, p1, p2, d1, d2, d3


@dataclass(frozen=True)
class Lenses:
    """The lenses of V cameras: the number of each one's model in :data:`MODELS`, coefficients."""

    model: Tensor  # [V]
    coefficients: Tensor  # [V, 9] float64: k1, k2, k3, k4, p1, p2, d1, d2, d3

    def take(self, index: Tensor) -> Lenses:
        """The lenses of these cameras only, in this order."""
        return Lenses(self.model[index], self.coefficients[index])

    def name(self, view: int) -> str:
        """The name of a camera's model."""
        return MODELS[int(self.model[view])].name

    def directions(self, view: Tensor, xy: Tensor) -> Tensor:
        """Unit directions [..., 3] (right, down, ahead) of points [..., 2] of views [...].

        Differentiable in the points.
        """
        return self._each(view, xy, lambda model: model.directions, 3)

    def points(self, view: Tensor, directions: Tensor) -> Tensor:
        """Points [..., 2] of directions [..., 3] of any length: :meth:`directions` undone."""
        return self._each(view, directions, lambda model: model.points, 2)

    def _each(
        self, view: Tensor, values: Tensor, rule: Callable[[LensModel], Rule], width: int
    ) -> Tensor:
        """What each model's rule makes of the values of its own views."""
        shape, view = values.shape[:-1], view.expand(values.shape[:-1]).reshape(-1)
        values = values.reshape(-1, values.shape[-1])
        number, coefficients = self.model[view], self.coefficients[view]
        out = values.new_zeros(len(values), width)
        for k in number.unique().tolist():
            own = number == k
            answer = rule(MODELS[k])(values[own].double(), coefficients[own])
            out = out.index_put((own,), answer.to(out.dtype))
        return out.view(*shape, width)


Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LensModel:
    """A model: directions [N, 3] of points [N, 2] by coefficients [N, 9], and points likewise."""

    name: str
    directions: Rule
    points: Rule


def newton(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The fixed point of Newton's ``step``.

    Only the last step has a gradient, which is that of the inverse function.
    """
    with torch.no_grad():
        found = start.detach()
        for _ in range(STEPS):
            found, before = step(found), found
            if torch.allclose(found, before, rtol=0, atol=1e-12):
                break
    return step(found)


def brown_points(directions: Tensor, c: Tensor) -> Tensor:
    """Where Brown's distortion puts directions; those behind the camera are as far as can be."""
    ahead = directions[:, 2:].clamp_min(1e-9)
    return brown_moved(directions[:, :2] / ahead, c)[0]


def brown_moved(xy: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Points [N, 2] moved by Brown's distortion, and the slope [N, 2, 2] of that.

    >>> c = torch.zeros(1, 9, dtype=torch.float64)
    >>> c[0, 0] = 0.25
    >>> brown_moved(torch.tensor([[2.0, 0.0]], dtype=torch.float64), c)[0].tolist()
    [[4.0, 0.0]]
    """
    x, y = xy.unbind(-1)
    k1, k2, k3, k4, p1, p2, d1, d2, d3 = c.unbind(-1)
    r2 = x * x + y * y
    below = 1 + r2 * (d1 + r2 * (d2 + r2 * d3))
    a = (1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))) / below
    rise = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4))
    slope = (rise - a * (d1 + r2 * (2 * d2 + r2 * 3 * d3))) / below  # of a, by r²
    moved = [
        x * a + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * a + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ]
    across = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    along = [
        a + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
        across,
        across,
        a + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
    ]
    return torch.stack(moved, -1), torch.stack(along, -1).unflatten(-1, (2, 2))


def brown_directions(xy: Tensor, c: Tensor) -> Tensor:
    """Directions of points that Brown's distortion moved."""

    def step(guess: Tensor) -> Tensor:
        moved, slope = brown_moved(guess, c)
        return guess - torch.linalg.solve_ex(slope, (moved - xy)[..., None])[0][..., 0]

    straight = newton(step, xy)
    return normalize(torch.cat([straight, torch.ones_like(straight[:, :1])], -1), dim=-1)


def fisheye_radius(theta: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """How far [N] from the middle a direction θ [N] off the axis lies, and the slope of that."""
    k1, k2, k3, k4 = c[:, :4].unbind(-1)
    t2 = theta * theta
    radius = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
    return radius, slope


def fisheye_points(directions: Tensor, c: Tensor) -> Tensor:
    """Where a fisheye lens puts directions."""
    across = directions[:, :2].norm(dim=-1)
    radius = fisheye_radius(torch.atan2(across, directions[:, 2]), c)[0]
    return directions[:, :2] * (radius / across.clamp_min(1e-12))[:, None]


def fisheye_directions(xy: Tensor, c: Tensor) -> Tensor:
    """Directions of the points of a fisheye's picture."""
    radius = xy.square().sum(-1).clamp_min(1e-24).sqrt()

    def step(guess: Tensor) -> Tensor:
        reached, slope = fisheye_radius(guess, c)
        return (guess - (reached - radius) / slope.clamp_min(1e-3)).clamp(0, torch.pi)

    theta = newton(step, radius.clamp_max(torch.pi / 2))
    return torch.cat([xy * (theta.sin() / radius)[:, None], theta.cos()[:, None]], -1)


def sphere_points(directions: Tensor, c: Tensor) -> Tensor:
    """Longitude and latitude (downwards) of directions."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], -1)


def sphere_directions(xy: Tensor, c: Tensor) -> Tensor:
    """Directions of longitudes and latitudes."""
    longitude, latitude = xy.unbind(-1)
    flat = latitude.cos()
    return torch.stack([longitude.sin() * flat, latitude.sin(), longitude.cos() * flat], -1)


MODELS = (
    LensModel("brown", brown_directions, brown_points),
    LensModel("fisheye", fisheye_directions, fisheye_points),
    LensModel("equirectangular", sphere_directions, sphere_points),
)
