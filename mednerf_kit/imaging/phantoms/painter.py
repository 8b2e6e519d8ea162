"""The painter of phantoms: layers painted in order, on a grid or on points.

Layers are described in the patient's own (warped) frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...core.config import Registry
from ...core.errors import UserError
from ...core.types import SUPPORT
from ..geometry import DEFAULTS
from .solids import Array, Solid

AIR_HU = -1000.0


@dataclass(frozen=True)
class Layer:
    """One stroke: ``hu`` is laid over what is there, as far as any of the solids covers it."""

    name: str
    solids: Sequence[Solid]
    hu: float
    inset_mm: float = 0.0  # shrinks the solids: how a marrow follows its cortex
    blur_mm: float = 0.0  # softness of the edge beyond the voxel's own
    opacity: float = 1.0
    keep: str = ""  # remember the coverage under this name ...
    within: str = ""  # ... and paint only there
    # what lies there for certain (the cortex around a marrow): keeps the mass of thin shells
    onto_hu: float | None = None

    @property
    def lo(self) -> Array:
        return np.min([s.lo for s in self.solids], 0)

    @property
    def hi(self) -> Array:
        return np.max([s.hi for s in self.solids], 0)


@dataclass(frozen=True)
class Pose:
    """World millimetres to the patient's own frame: q = A (p − shift), then a smooth wobble.

    The wobble is at most ``wobble_mm``.

    wobble_i(q) = (wobble_mm / K) Σ_k a_ik sin(w_k · q + φ_ik), |a| ≤ 1: it takes the ruler out of
    the shapes.
    """

    matrix: Array  # [3, 3] rotation and scale, world to own frame
    shift_mm: Array  # [3] where the own frame's origin lies in the world
    wobble_mm: float = 0.0
    waves: Array = field(default_factory=lambda: np.zeros((0, 3), np.float32))  # [K, 3] rad/mm
    amplitudes: Array = field(default_factory=lambda: np.zeros((3, 0), np.float32))  # [3, K]
    phases: Array = field(default_factory=lambda: np.zeros((3, 0), np.float32))  # [3, K] rad

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        scale: ArrayLike,
        angles_deg: ArrayLike,
        shift_mm: ArrayLike,
        wobble_mm: float,
        wavelength_mm: tuple[float, float] = (110.0, 260.0),
        mirrored: bool = False,
    ) -> Pose:
        """A pose of given scale (x, y, z) and turn about x, y and z, with a random wobble.

        The wobble has three waves.
        """
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
        size = np.asarray(scale) * np.array([-1.0 if mirrored else 1.0, 1.0, 1.0])
        directions = rng.normal(size=(3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * (2 * np.pi / rng.uniform(*wavelength_mm, size=(3, 1)))
        return cls(
            np.linalg.inv(turn * size).astype(np.float32),
            np.asarray(shift_mm, np.float32),
            wobble_mm,
            waves.astype(np.float32),
            rng.uniform(-1, 1, (3, 3)).astype(np.float32),
            rng.uniform(0, 2 * np.pi, (3, 3)).astype(np.float32),
        )

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
            # sin(phase + φ) from one sine and one cosine for the three coordinates
            for i in range(3):
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
        edges = [
            (np.searchsorted(a, lo[:, i]), np.searchsorted(a, hi[:, i], side="right"))
            for i, a in enumerate(self.axes)
        ]
        for (x0, x1), (y0, y1), (z0, z1) in zip(
            *(zip(*e, strict=True) for e in edges), strict=True
        ):
            yield (
                (slice(z0, z1), slice(y0, y1), slice(x0, x1))
                if x0 < x1 and y0 < y1 and z0 < z1
                else None
            )


class _Points:
    """Scattered points: boxes are index lists, found through a sort by height."""

    def __init__(self, pose: Pose, points_mm: Array) -> None:
        self.world, self.pose = points_mm, pose
        self.own = pose.to_own(*points_mm.T)
        self.shape = (len(points_mm),)
        self.order = np.argsort(points_mm[:, 2], kind="stable")
        self.heights = points_mm[self.order, 2]

    def boxes(self, lo: Array, hi: Array) -> Iterable[Array | None]:
        lo, hi = self.pose.world_bounds(lo, hi)
        first, last = (
            np.searchsorted(self.heights, lo[:, 2]),
            np.searchsorted(self.heights, hi[:, 2], side="right"),
        )
        for box_lo, box_hi, i, j in zip(lo, hi, first, last, strict=True):
            near = self.order[i:j]
            across = self.world[near, :2]
            near = near[((across >= box_lo[:2]) & (across <= box_hi[:2])).all(1)]
            yield near if len(near) else None


@dataclass(frozen=True)
class Phantom:
    """One procedural patient: layers in the patient's own frame, a pose, and the slab scanned.

    Values are HU in world millimetres (LPS, isocentre at the origin); outside the slab there is
    air, as in a CT cut from a body.
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
        """Half the side of the default grid.

        It is ``SUPPORT`` half-widths of the anatomy's usual detector, so that bodies cut by the
        field of view's edge still exist.
        """
        return SUPPORT * DEFAULTS[self.anatomy].half_width_mm

    def _paint(self, canvas: _Grid | _Points, edge_mm: float) -> Array:
        values = np.full(canvas.shape, AIR_HU, np.float32)
        cover = np.zeros(canvas.shape, np.float32)  # of the layer at hand, nothing between layers
        kept: dict[str, Array] = {}
        margin = np.array([[max(edge_mm, layer.blur_mm)] for layer in self.layers], np.float32)
        whole = canvas.boxes(
            np.stack([v.lo for v in self.layers]) - margin,
            np.stack([v.hi for v in self.layers]) + margin,
        )
        each = margin.repeat([len(layer.solids) for layer in self.layers], 0)
        solids = [s for layer in self.layers for s in layer.solids]
        parts = iter(
            canvas.boxes(
                np.stack([s.lo for s in solids]) - each, np.stack([s.hi for s in solids]) + each
            )
        )
        for layer, here in zip(self.layers, whole, strict=True):
            soft = max(edge_mm, layer.blur_mm)
            # as many of the boxes as there are solids
            for solid, box in zip(layer.solids, parts, strict=False):
                if box is not None:
                    x, y, z = (v[box] for v in canvas.own)
                    cover[box] = np.maximum(
                        cover[box], solid.coverage(x, y, z, soft, layer.inset_mm)
                    )
            if here is None:
                continue
            share = cover[here] * np.float32(layer.opacity)
            cover[here] = 0
            if layer.within:
                share *= kept[layer.within][here] if layer.within in kept else 0
            if layer.keep:
                mask = kept.setdefault(layer.keep, np.zeros(canvas.shape, np.float32))
                mask[here] = np.maximum(mask[here], share)
            below = values[here] if layer.onto_hu is None else np.float32(layer.onto_hu)
            values[here] += share * (np.float32(layer.hu) - below)
        return values

    def hu(self, points_mm: Tensor, *, edge_mm: float = 1.0) -> Tensor:
        """HU at points [..., 3] in world mm: [...] float32 on the points' device.

        ``edge_mm`` is how soft an edge is.
        """
        flat = points_mm.detach().reshape(-1, 3).cpu().numpy().astype(np.float32)
        scanned = self._scanned(flat[:, 2], edge_mm)
        values = np.full(len(flat), AIR_HU, np.float32)
        inside = np.flatnonzero(scanned)
        if len(inside):
            values[inside] += (
                self._paint(_Points(self.pose, flat[inside]), edge_mm) - AIR_HU
            ) * scanned[inside]
        return torch.from_numpy(values).reshape(points_mm.shape[:-1]).to(points_mm.device)

    def _scanned(self, z: Array, edge_mm: float) -> Array:
        bottom, top = self.slab_mm
        return np.clip(0.5 + np.minimum(z - bottom, top - z) / np.float32(edge_mm), 0, 1)

    def voxelise(
        self, size: int = 128, half_extent_mm: float | None = None
    ) -> tuple[Tensor, tuple[float, float, float]]:
        """Voxels of a cube about the isocentre: HU [size, size, size] (z, y, x), and spacing in mm.

        HU are float32; the spacing is (x, y, z).

        Values are taken at voxel centres with edges one voxel wide, which keeps the mass of thin
        structures.
        """
        half = self.half_extent_mm if half_extent_mm is None else half_extent_mm
        if size < 1 or not half > 0:
            raise UserError(
                f"got a grid of {size} voxels over ±{half:g} mm",
                "wanted at least 1 voxel and a positive extent",
                "choose a larger grid",
            )
        step = 2 * half / size
        axis = ((np.arange(size) - 0.5 * (size - 1)) * step).astype(np.float32)
        scanned = self._scanned(axis, step)
        rows = np.flatnonzero(scanned)
        values = np.full((size, size, size), AIR_HU, np.float32)
        if len(rows):
            painted = self._paint(_Grid(self.pose, (axis, axis, axis[rows])), step)
            values[rows] += (painted - AIR_HU) * scanned[rows, None, None]
        return torch.from_numpy(values), (step, step, step)


PHANTOMS: Registry[Phantom] = Registry("phantom", home=__package__)
