"""Convex solids whose rays, distances and surfaces have a closed form, for the embedded scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

# where rays enter [N] and leave [N] a solid (enter > leave: a miss), outward normal there [N, 3]
Span = tuple[Tensor, Tensor, Tensor]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """Two colours in a checker of cubes ``check`` wide, and how strongly the surface shines.

    One colour twice is plain.
    """

    first: Color
    second: Color
    check: float = 0.2
    shine: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Colours [N, 3] at points x [N, 3]."""
        # The offset keeps the cubes' faces off the solids' own, where rounding would decide.
        odd = ((x + 0.0371) / self.check).floor().sum(-1).remainder(2)[:, None]
        return (1 - odd) * x.new_tensor(self.first) + odd * x.new_tensor(self.second)


class ConvexSolid(Protocol):
    """A convex solid."""

    @property
    def centre(self) -> tuple[float, float, float]: ...

    @property
    def paint(self) -> Paint: ...

    @property
    def area(self) -> float:
        """Of its surface."""

    @property
    def reach(self) -> float:
        """Largest distance of its points from its centre."""

    def span(self, origin: Tensor, direction: Tensor) -> Span:
        """Where rays [N, 3] enter and leave."""

    def distance(self, x: Tensor) -> Tensor:
        """Signed Euclidean distance of points [..., 3] to the surface, negative inside."""

    def sample(self, n: int, rng: Generator) -> Tensor:
        """Points [n, 3] spread evenly over the surface."""


@dataclass(frozen=True)
class Ball:
    """A ball."""

    centre: tuple[float, float, float]
    radius: float
    paint: Paint

    @property
    def area(self) -> float:
        return 4 * math.pi * self.radius**2

    @property
    def reach(self) -> float:
        return self.radius

    def span(self, origin: Tensor, direction: Tensor) -> Span:
        o = origin - origin.new_tensor(self.centre)
        along = dot(o, direction)
        square = along.square() - dot(o, o) + self.radius**2
        root = square.clamp_min(0).sqrt()
        enter = torch.where(square > 0, -along - root, torch.inf)
        normal = (o + (-along - root)[:, None] * direction) / self.radius
        return enter, torch.where(square > 0, -along + root, -torch.inf), normal

    def distance(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(self.centre)).norm(dim=-1) - self.radius

    def sample(self, n: int, rng: Generator) -> Tensor:
        unit = torch.nn.functional.normalize(torch.randn((n, 3), generator=rng), dim=-1)
        return unit.new_tensor(self.centre) + self.radius * unit


@dataclass(frozen=True)
class Block:
    """A box, turned about z."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: Paint
    turn_deg: float = 0.0

    @property
    def area(self) -> float:
        a, b, c = self.half
        return 8 * (a * b + b * c + c * a)

    @property
    def reach(self) -> float:
        return math.hypot(*self.half)

    def axes(self) -> Tensor:
        """Its own axes as rows [3, 3]."""
        c, s = math.cos(math.radians(self.turn_deg)), math.sin(math.radians(self.turn_deg))
        return torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    def span(self, origin: Tensor, direction: Tensor) -> Span:
        axes, half = self.axes(), origin.new_tensor(self.half)
        o, d = (origin - origin.new_tensor(self.centre)) @ axes.T, direction @ axes.T
        d = torch.where(d.abs() < 1e-12, 1e-12, d)
        first, last = ((-half * side * d.sign() - o) / d for side in (1, -1))
        enter, face = first.max(-1)
        normal = -d.gather(-1, face[:, None]).sign() * axes[face]
        return enter, last.amin(-1), normal

    def distance(self, x: Tensor) -> Tensor:
        q = ((x - x.new_tensor(self.centre)) @ self.axes().to(x).T).abs() - x.new_tensor(self.half)
        return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)

    def sample(self, n: int, rng: Generator) -> Tensor:
        half = torch.tensor(self.half)
        face = torch.multinomial(half.prod() / half, n, replacement=True, generator=rng)
        x = (2 * torch.rand((n, 3), generator=rng) - 1) * half
        side = torch.randint(0, 2, (n,), generator=rng) * 2.0 - 1
        x.scatter_(1, face[:, None], (side * half[face])[:, None])
        return x @ self.axes() + x.new_tensor(self.centre)


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder."""

    centre: tuple[float, float, float]
    radius: float
    half_height: float
    paint: Paint

    @property
    def area(self) -> float:
        return 2 * math.pi * self.radius * (2 * self.half_height + self.radius)

    @property
    def reach(self) -> float:
        return math.hypot(self.radius, self.half_height)

    def span(self, origin: Tensor, direction: Tensor) -> Span:
        o, d = origin - origin.new_tensor(self.centre), direction
        a = dot(d[:, :2], d[:, :2]).clamp_min(1e-12)
        b = dot(o[:, :2], d[:, :2])
        square = b.square() - a * (dot(o[:, :2], o[:, :2]) - self.radius**2)
        root = square.clamp_min(0).sqrt()
        side_in, side_out = (-b - root) / a, (-b + root) / a
        dz = torch.where(d[:, 2].abs() < 1e-12, 1e-12, d[:, 2])
        cap_in, cap_out = ((-s * dz.sign() * self.half_height - o[:, 2]) / dz for s in (1, -1))
        enter = torch.where(square > 0, torch.maximum(side_in, cap_in), torch.inf)
        leave = torch.where(square > 0, torch.minimum(side_out, cap_out), -torch.inf)
        flat = torch.zeros_like(o[:, 2:])
        wall = torch.cat([(o + side_in[:, None] * d)[:, :2] / self.radius, flat], -1)
        cap = torch.cat([flat, flat, -dz.sign()[:, None]], -1)
        return enter, leave, torch.where((cap_in > side_in)[:, None], cap, wall)

    def distance(self, x: Tensor) -> Tensor:
        o = x - x.new_tensor(self.centre)
        q = torch.stack(
            [o[..., :2].norm(dim=-1) - self.radius, o[..., 2].abs() - self.half_height], -1
        )
        return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)

    def sample(self, n: int, rng: Generator) -> Tensor:
        # wall and caps, by area
        share = torch.tensor([2 * self.half_height, self.radius / 2, self.radius / 2])
        part = torch.multinomial(share, n, replacement=True, generator=rng)
        u, v, w = torch.rand((3, n), generator=rng)
        r = torch.where(part == 0, 1.0, u.sqrt()) * self.radius
        z = torch.where(part == 0, 2 * v - 1, torch.where(part == 1, 1.0, -1.0)) * self.half_height
        angle = 2 * math.pi * w
        return torch.stack([r * angle.cos(), r * angle.sin(), z], -1) + u.new_tensor(self.centre)


@dataclass(frozen=True)
class Surface:
    """Solids that do not touch: the exact surface of a scene."""

    solids: tuple[ConvexSolid, ...]

    def distance(self, x: Tensor) -> Tensor:
        """Signed distance of points [..., 3] to the nearest surface, negative inside a solid."""
        return torch.stack([solid.distance(x) for solid in self.solids]).amin(0)

    def sample(self, n: int, rng: Generator) -> Tensor:
        """Points [n, 3] spread evenly over all surfaces."""
        area = torch.tensor([solid.area for solid in self.solids])
        counts = (
            torch.multinomial(area, n, replacement=True, generator=rng)
            .bincount(minlength=len(area))
            .tolist()
        )
        return torch.cat(
            [solid.sample(k, rng) for solid, k in zip(self.solids, counts, strict=True)]
        )

    def first_hit(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance [N], normal [N, 3] and number of the solid [N] that rays [N, 3] meet first.

        The rays start outside; the distance of those that meet nothing is inf.
        """
        best = torch.full(origin.shape[:1], torch.inf)
        normal, which = torch.zeros_like(origin), torch.zeros(len(origin), dtype=torch.long)
        for k, solid in enumerate(self.solids):
            near = passing(solid, origin, direction)
            enter, leave, n = solid.span(origin[near], direction[near])
            first = (leave > enter) & (enter > 0) & (enter < best[near])
            chosen = near[first]
            best[chosen], normal[chosen], which[chosen] = enter[first], n[first], k
        return best, normal, which

    def blocked(self, origin: Tensor, direction: Tensor) -> Tensor:
        """Whether anything stands in the way of rays [N, 3] that start on a surface."""
        found = torch.zeros(len(origin), dtype=torch.bool)
        for solid in self.solids:
            near = passing(solid, origin, direction)
            enter, leave, _ = solid.span(origin[near], direction[near])
            found[near] |= (leave > enter) & (leave > 1e-3)
        return found


def passing(solid: ConvexSolid, origin: Tensor, direction: Tensor) -> Tensor:
    """Numbers of the rays [N, 3] that meet the ball about a solid; the others miss the solid."""
    away = origin.new_tensor(solid.centre) - origin
    along = dot(away, direction)
    return (dot(away, away) - along.square() <= (solid.reach + 1e-3) ** 2).nonzero()[:, 0]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [N] of [N, k].

    A product with ones is several times faster than a sum over so short an axis.
    """
    return (a * b) @ a.new_ones(a.shape[-1])
