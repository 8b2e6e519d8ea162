"""A phantom is a list of layers painted in order, on a grid or on points, in the patient's own (warped) frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...core.config import Registry
from ...core.errors import UserError
from ..geometry import DEFAULTS
from .solids import Array, Solid

AIR_HU = -1000.0


@dataclass(frozen=True)
class Layer:
    """One stroke: ``hu`` is laid over what is there, as far as the solid covers it."""

    name: str
    solid: Solid
    hu: float
    inset_mm: float = 0.0  # shrink the solid: how a marrow follows its cortex
    blur_mm: float = 0.0  # softness of the edge beyond the voxel's own
    opacity: float = 1.0
    keep: str = ""  # remember the coverage under this name ...
    within: str = ""  # ... and paint only there


def layers(name: str, solids: Solid | Iterable[Solid], hu: float, **options: float | str) -> list[Layer]:
    """A layer for each solid, alike but for the shape."""
    return [Layer(name, s, hu, **options) for s in ([solids] if isinstance(solids, Solid) else solids)]


@dataclass(frozen=True)
class Pose:
    """World millimetres to the patient's own frame: q = A (p − shift), then a smooth wobble of at most ``wobble_mm``.

    wobble_i(q) = (wobble_mm / K) Σ_k a_ik sin(w_k · q + φ_ik), |a| ≤ 1: it takes the ruler out of the shapes.
    """

    matrix: Array  # [3, 3] rotation and scale, world to own frame
    shift_mm: Array  # [3] where the own frame's origin lies in the world
    wobble_mm: float = 0.0
    waves: Array = field(default_factory=lambda: np.zeros((0, 3), np.float32))  # [K, 3] rad/mm
    amplitudes: Array = field(default_factory=lambda: np.zeros((3, 0), np.float32))  # [3, K]
    phases: Array = field(default_factory=lambda: np.zeros((3, 0), np.float32))  # [3, K] rad

    @classmethod
    def draw(cls, rng: np.random.Generator, *, scale: Sequence[float], angles_deg: Sequence[float], shift_mm: Sequence[float],
             wobble_mm: float, wavelength_mm: tuple[float, float] = (110.0, 260.0), mirrored: bool = False) -> Pose:
        """A pose of given scale (x, y, z) and turn about x, y and z, with a random wobble of three waves."""
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
        size = np.asarray(scale) * np.array([-1.0 if mirrored else 1.0, 1.0, 1.0])
        directions = rng.normal(size=(3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * (2 * np.pi / rng.uniform(*wavelength_mm, size=(3, 1)))
        return cls(np.linalg.inv(turn * size).astype(np.float32), np.asarray(shift_mm, np.float32), wobble_mm, waves.astype(np.float32),
                   rng.uniform(-1, 1, (3, 3)).astype(np.float32), rng.uniform(0, 2 * np.pi, (3, 3)).astype(np.float32))

    def to_own(self, x: Array, y: Array, z: Array) -> list[Array]:
        """Own-frame coordinates of world coordinates that broadcast together."""
        world = (x - self.shift_mm[0], y - self.shift_mm[1], z - self.shift_mm[2])
        own = [r[0] * world[0] + r[1] * world[1] + r[2] * world[2] for r in self.matrix]
        if not self.wobble_mm:
            return own
        share = np.float32(self.wobble_mm / len(self.waves))
        moved = [v.copy() for v in own]
        for k, wave in enumerate(self.waves):
            phase = wave[0] * own[0] + wave[1] * own[1] + wave[2] * own[2]
            sine, cosine = share * np.sin(phase), share * np.cos(phase)
            for i in range(3):  # sin(phase + φ) from one sine and one cosine for the three coordinates
                moved[i] += (self.amplitudes[i, k] * np.cos(self.phases[i, k])) * sine
                moved[i] += (self.amplitudes[i, k] * np.sin(self.phases[i, k])) * cosine
        return moved

    def world_bounds(self, lo: Array, hi: Array) -> tuple[Array, Array]:
        """World boxes [N, 3] that hold own-frame boxes, wobble included."""
        back = np.linalg.inv(self.matrix)
        centre, half = 0.5 * (lo + hi), 0.5 * (hi - lo) + self.wobble_mm
        middle, reach = centre @ back.T + self.shift_mm, half @ np.abs(back).T
        return middle - reach, middle + reach


class _Grid:
    """Voxel centres on three axes: boxes are slices."""

    def __init__(self, pose: Pose, axes: tuple[Array, Array, Array]) -> None:
        x, y, z = axes
        self.axes, self.pose = axes, pose
        self.shape = (len(z), len(y), len(x))
        self.own = pose.to_own(x[None, None, :], y[None, :, None], z[:, None, None])

    def boxes(self, lo: Array, hi: Array) -> Iterable[tuple[slice, ...] | None]:
        lo, hi = self.pose.world_bounds(lo, hi)
        edges = [(np.searchsorted(a, lo[:, i]), np.searchsorted(a, hi[:, i], side="right")) for i, a in enumerate(self.axes)]
        for (x0, x1), (y0, y1), (z0, z1) in zip(*(zip(*e) for e in edges)):
            yield (slice(z0, z1), slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 and z0 < z1 else None


class _Points:
    """Scattered points: boxes are index lists, found through a sort by own height."""

    def __init__(self, pose: Pose, points_mm: Array) -> None:
        self.own = pose.to_own(*points_mm.T)
        self.shape = (len(points_mm),)
        self.order = np.argsort(self.own[2], kind="stable")
        self.heights = self.own[2][self.order]

    def boxes(self, lo: Array, hi: Array) -> Iterable[Array | None]:
        first, last = np.searchsorted(self.heights, lo[:, 2]), np.searchsorted(self.heights, hi[:, 2], side="right")
        for box_lo, box_hi, i, j in zip(lo, hi, first, last):
            near = self.order[i:j]
            x, y = self.own[0][near], self.own[1][near]
            near = near[(x >= box_lo[0]) & (x <= box_hi[0]) & (y >= box_lo[1]) & (y <= box_hi[1])]
            yield near if len(near) else None


@dataclass(frozen=True)
class Phantom:
    """One procedural patient: layers in the patient's own frame, a pose, and the slab that was scanned.

    Values are HU in world millimetres (LPS, isocentre at the origin); outside the slab there is air, as in a CT cut from a body.
    """

    anatomy: str
    seed: int
    layers: tuple[Layer, ...]
    pose: Pose
    slab_mm: tuple[float, float]  # lowest and highest scanned z in the world

    @property
    def names(self) -> list[str]:
        """The structures painted, each once, in order of painting."""
        return list(dict.fromkeys(layer.name for layer in self.layers))

    @property
    def half_extent_mm(self) -> float:
        """Half the default grid: 1.4 half-widths of the anatomy's usual detector, so that bodies cut by its edge still exist."""
        return 1.4 * DEFAULTS[self.anatomy].half_width_mm

    def _paint(self, canvas: _Grid | _Points, edge_mm: float) -> Array:
        values = np.full(canvas.shape, AIR_HU, np.float32)
        kept: dict[str, Array] = {}
        softness = [max(edge_mm, layer.blur_mm) for layer in self.layers]
        margin = np.array(softness, np.float32)[:, None]
        lo = np.stack([layer.solid.lo for layer in self.layers]) - margin
        hi = np.stack([layer.solid.hi for layer in self.layers]) + margin
        for layer, soft, where in zip(self.layers, softness, canvas.boxes(lo, hi)):
            if where is None:
                continue
            share = layer.solid.coverage(*(v[where] for v in canvas.own), soft, layer.inset_mm)
            if layer.opacity != 1:
                share *= np.float32(layer.opacity)
            if layer.within:
                share *= kept[layer.within][where] if layer.within in kept else 0
            if layer.keep:
                mask = kept.setdefault(layer.keep, np.zeros(canvas.shape, np.float32))
                mask[where] = np.maximum(mask[where], share)
            share *= np.float32(layer.hu) - values[where]
            values[where] += share
        return values

    def hu(self, points_mm: Tensor, *, edge_mm: float = 1.0) -> Tensor:
        """HU at points [..., 3] in world mm; ``edge_mm`` is how soft an edge is. Returns [...] float32 on the points' device."""
        flat = points_mm.detach().reshape(-1, 3).cpu().numpy().astype(np.float32)
        scanned = self._scanned(flat[:, 2], edge_mm)
        values = np.full(len(flat), AIR_HU, np.float32)
        inside = np.flatnonzero(scanned)
        if len(inside):
            values[inside] += (self._paint(_Points(self.pose, flat[inside]), edge_mm) - AIR_HU) * scanned[inside]
        return torch.from_numpy(values).reshape(points_mm.shape[:-1]).to(points_mm.device)

    def _scanned(self, z: Array, edge_mm: float) -> Array:
        bottom, top = self.slab_mm
        return np.clip(0.5 + np.minimum(z - bottom, top - z) / np.float32(edge_mm), 0, 1)

    def voxelise(self, size: int = 128, half_extent_mm: float | None = None) -> tuple[Tensor, tuple[float, float, float]]:
        """Voxels of a cube centred at the isocentre: HU [size, size, size] (z, y, x) float32, and the spacing (x, y, z) in mm.

        Values are taken at voxel centres with edges one voxel wide, which keeps the mass of thin structures.
        """
        if size < 1:
            raise UserError(f"got a grid of {size} voxels", "wanted at least 1", "choose a larger size")
        half = self.half_extent_mm if half_extent_mm is None else half_extent_mm
        step = 2 * half / size
        axis = ((np.arange(size) - 0.5 * (size - 1)) * step).astype(np.float32)
        scanned = self._scanned(axis, step)
        rows = np.flatnonzero(scanned)
        values = np.full((size, size, size), AIR_HU, np.float32)
        if len(rows):
            painted = self._paint(_Grid(self.pose, (axis, axis, axis[rows])), step)
            values[rows] += (painted - AIR_HU) * scanned[rows, None, None]
        return torch.from_numpy(values), (step, step, step)


PHANTOMS: Registry[Phantom] = Registry("phantom")
