"""What rays are cast into: a CT, a prior's patient, solids, a fitted scene, under one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ...core.types import SUPPORT, Field, FieldOutput, Rays
from ...data.drr import phantom_volume
from ...data.posed import blocks
from ...data.posed.solids import Surface
from ...fields.heads import PerPoint, query_present
from ...fields.hyper import MlpWeights
from ...imaging.cameras import Cameras
from ...imaging.geometry import DEFAULTS, FRONTAL_DEG, Geometry, nearest_view
from ...prior.load import Prior
from ...prior.rendering import Renderer, as_batch
from ...rays.render import Level
from ...rays.samplers.base import SAMPLERS
from ...recon.field_volume import BAKED_HALF_HEIGHT, FieldVolume, sample_trilinear
from ...scene.load import Fit

ImageModel = Literal["line_integral", "emission_absorption"]
IMAGE_MODELS: tuple[ImageModel, ...] = ("line_integral", "emission_absorption")
BLOCKS_GRID = {"resolution": 48, "threshold": 1e-3, "every": 1}
CT_VOXELS = 96
ORBIT_VIEWS = 72
LARGEST_PX = 128  # of a picture: larger ones are seen in fewer pixels
PRIOR_PX = 64  # the same of a prior, whose networks take long


@dataclass(frozen=True)
class Subject:
    """A field, the cameras that look at it, and how it was trained to be looked at."""

    name: str
    coarse: Field  # of a recipe's first level
    fine: Field  # of its last: what pictures show
    levels: Sequence[Level]  # of the recipe, complete
    image_model: ImageModel  # of the recipe
    background: float  # with emission and absorption
    scale: float  # the optical depth that tau = 1 stands for
    views: tuple[str, ...]  # names of the views
    first_view: int
    rows: int
    cols: int
    box: Tensor  # [2, 3] corners of what is there
    unit: str  # of lengths
    quantity: str  # what a pixel holds by ``image_model``
    # rays [1, R] of a view's pixels yx [R, 2]; their depth is exact, or not known
    cast: Callable[[int, Tensor], Rays]
    code: Any = None

    def pixel(self, view: int, row: float, col: float) -> Rays:
        """The ray of one pixel, [1, 1]."""
        return self.cast(view, torch.tensor([[row, col]]))


class CtField:
    """A CT as a field: trilinear between the voxels of a volume about the isocentre."""

    def __init__(self, volume: FieldVolume) -> None:
        self.values = volume.values[None, None]

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Image value per field unit at points x [..., 3]: [...]."""
        return sample_trilinear(self.values, x.reshape(1, -1, 3))[0, 0].view(x.shape[:-1])

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Samples x [..., S, 3] of lengths dt [..., S]."""
        return FieldOutput(self.density(x) * dt)


class SolidsField:
    """Painted solids as a field with a soft surface.

    density = ``opacity`` · sigmoid(−distance / ``softness``) / ``softness``, per unit length of
    the signed distance to the surface; the colour is the paint of the nearest solid in the light
    of the sky and the sun, without shadows and highlights.
    """

    def __init__(self, surface: Surface, *, softness: float = 0.004, opacity: float = 1.0) -> None:
        self.surface, self.softness, self.opacity = surface, softness, opacity

    def at(self, points: Tensor) -> tuple[Tensor, PerPoint]:
        """Density [N] at points [N, 3], and the points themselves."""
        inside = torch.sigmoid(-self.surface.distance(points) / self.softness)
        return self.opacity * inside / self.softness, (points,)

    def color(self, rows: PerPoint, directions: Tensor | None) -> Tensor:
        """Colours [N, 3]."""
        x = rows[0]
        nearest = torch.stack([solid.distance(x) for solid in self.surface.solids]).argmin(0)
        paint = torch.zeros_like(x)
        for k, solid in enumerate(self.surface.solids):
            paint[nearest == k] = solid.paint(x[nearest == k])
        step = 0.5 * self.softness * torch.eye(3)
        rise = [self.surface.distance(x + e) - self.surface.distance(x - e) for e in step]
        normal = torch.nn.functional.normalize(torch.stack(rise, -1), dim=-1)
        light = 0.32 + 0.13 * normal[:, 2] + 0.6 * (normal @ blocks.SUN).clamp_min(0)
        return (paint * light[:, None]).clamp(0, 1)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Density at points x [..., 3]: [...]."""
        return self.at(x.reshape(-1, 3))[0].view(x.shape[:-1])

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Samples x [..., S, 3] of lengths dt [..., S]."""
        return query_present(x, d, dt, dt > 0, self.at, self.color, faint=1e-6)


def of_phantom(anatomy: str, seed: int) -> Subject:
    """The procedural patient of this seed: its CT, in the units of image values."""
    geometry = DEFAULTS[anatomy].orbit(ORBIT_VIEWS)
    assert geometry.line_integral_scale is not None
    per_mm = phantom_volume(anatomy, seed, CT_VOXELS).to_mu().values
    values = per_mm * (geometry.half_width_mm / geometry.line_integral_scale)
    field = CtField(FieldVolume.of(values, geometry))
    levels = [Level(SAMPLERS.build({"name": "stratified", "n": 96}), field)]
    return _orbit(f"{anatomy} phantom, seed {seed}", geometry, field, levels=levels)


def of_prior(prior: Prior, seed: int, *, truncation: float = 1.0) -> Subject:
    """A random patient of a prior, the same for the same seed."""
    generator = prior.generator
    with torch.no_grad():
        rng = Generator().manual_seed(seed)
        code = generator.weights(generator.draw(1, rng, truncation=truncation))
    renderer = Renderer.of(prior.meta["recipe"])
    field = generator.field
    levels = [Level(level.sampler, field, level.weight) for level in renderer.levels]
    geometry = prior.fitted_geometry.resized(min(PRIOR_PX, prior.geometry.cols))

    def cast(view: int, yx: Tensor) -> Rays:
        camera = torch.tensor([geometry.angles_deg[view], geometry.tilt_deg])
        return as_batch(renderer.cameras.rays(geometry, camera, yx, field.support))

    subject = _orbit(
        f"random patient {seed}", geometry, field, levels=levels, support=field.support, code=code
    )
    if not prior.is_line_integral:
        subject = replace(subject, image_model="emission_absorption", scale=1.0, quantity="grey")
    return replace(subject, cast=cast)


def of_blocks() -> Subject:
    """The embedded scene's own solids, as its test cameras see them; depths are exact."""
    cameras = blocks.around(blocks.TEST_VIEWS, LARGEST_PX, 25.0)
    field = SolidsField(blocks.SURFACE)
    occupied = SAMPLERS.build({"name": "occupancy", "n": 256, **BLOCKS_GRID}, box=blocks.BOX)
    for step in range(3):
        occupied.observe(step, field)
    levels = [Level(occupied, field)]

    def depth(rays: Rays) -> Tensor:
        t, _, _ = blocks.SURFACE.first_hit(rays.origin[0], rays.direction[0])
        return torch.where(t.isfinite(), t, torch.nan)[None]

    return _posed(
        "blocks", replace(cameras, box=blocks.BOX), blocks.BOX, field, field, levels, depth=depth
    )


def of_fit(fit: Fit, name: str) -> Subject:
    """A fitted scene, as its test cameras see it."""
    scene = fit.scene()
    cameras = fit.model.narrowed(scene.cameras)
    shrink = min(1.0, LARGEST_PX / max(cameras.rows, cameras.cols))
    cameras = cameras.resized(round(cameras.rows * shrink), round(cameras.cols * shrink))
    levels = fit.model.levels
    first, last = levels[0].field, levels[-1].field
    assert first is not None and last is not None
    is_xray = scene.quantity == "line_integral"
    return _posed(
        name,
        cameras,
        scene.box if cameras.box is None else cameras.box,
        first,
        last,
        levels,
        views=scene.stems,
        background=scene.background,
        image_model="line_integral" if is_xray else "emission_absorption",
        quantity="line integral" if is_xray else "colour",
    )


def _orbit(
    name: str,
    geometry: Geometry,
    field: Any,
    *,
    levels: Sequence[Level],
    support: float = SUPPORT,
    code: MlpWeights | None = None,
) -> Subject:
    def cast(view: int, yx: Tensor) -> Rays:
        angle_deg = torch.tensor(geometry.angles_deg[view])
        return as_batch(geometry.field_rays(angle_deg, yx, geometry.distance, support))

    high = min(BAKED_HALF_HEIGHT, support)
    return Subject(
        name=name,
        coarse=field,
        fine=field,
        levels=levels,
        image_model="line_integral",
        background=0.0,
        scale=geometry.line_integral_scale or 1.0,
        views=tuple(f"{angle:g}°" for angle in geometry.angles_deg),
        first_view=nearest_view(geometry.angles_deg, FRONTAL_DEG),
        rows=geometry.rows,
        cols=geometry.cols,
        box=torch.tensor([[-support, -support, -high], [support, support, high]]),
        unit=f"units of {geometry.half_width_mm:g} mm",
        quantity="image value",
        cast=cast,
        code=code,
    )


def _posed(
    name: str,
    cameras: Cameras,
    box: Tensor,
    coarse: Field,
    fine: Field,
    levels: Sequence[Level],
    *,
    views: Sequence[str] = (),
    background: float = 1.0,
    image_model: ImageModel = "emission_absorption",
    quantity: str = "colour",
    depth: Callable[[Rays], Tensor] | None = None,
) -> Subject:
    def cast(view: int, yx: Tensor) -> Rays:
        rays = cameras.rays(torch.full((len(yx),), view), yx)
        rays = replace(rays, **{k: v[None] for k, v in vars(rays).items() if v is not None})
        return rays if depth is None else replace(rays, depth=depth(rays))

    return Subject(
        name=name,
        coarse=coarse,
        fine=fine,
        levels=levels,
        image_model=image_model,
        background=background,
        scale=1.0,
        views=tuple(views) or tuple(f"view {k}" for k in range(cameras.count)),
        first_view=0,
        rows=cameras.rows,
        cols=cameras.cols,
        box=box,
        unit="units of the scene",
        quantity=quantity,
        cast=cast,
    )
