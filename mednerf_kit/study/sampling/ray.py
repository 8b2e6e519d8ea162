"""One ray by every strategy: the levels of training's own samplers, rendered by its own renderer.

The reference is a dense stratified quadrature of the whole ray. A strategy's error is what its
pixel is away from that of the reference; its evaluations are counted as everywhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.raymath import exclusive_sum
from ...core.types import Field, FieldOutput, Rays, Samples
from ...prior.rendering import image_model_of
from ...rays.render import Level, LevelRendering, render
from ...rays.samplers.base import SAMPLERS
from ...rays.samplers.occupancy import Occupancy
from ...scene.views import evaluations
from .subject import ImageModel, Subject

DENSE = 4096  # nodes of the reference
GRID = {"resolution": 32, "n": 256, "threshold": 1e-3, "warmup_steps": 3, "every": 1}
BUDGETS = (8, 16, 32, 64, 128, 256, 512)  # samples of a curve's points, coarse and fine together
DRAWS = 8  # with jitter, a point of a curve is the root mean square of so many


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a ray is sampled.

    Options:
        coarse: samples of the first level.
        fine: samples of the second; strategies of one level take ``coarse + fine``.
        seed: of the random places.
        jitter: whether places are random in their strata, or the middles.
        near: where sampling starts, as a share of the ray.
        far: where it ends.
        threshold: of local sampling, the weight that a coarse sample must reach.
        kappa: of local sampling, the factor on ``fine``.
    """

    coarse: int = 64
    fine: int = 128
    seed: int = 0
    jitter: bool = False
    near: float = 0.0
    far: float = 1.0
    threshold: float = 5e-4
    kappa: float = 0.4

    def __post_init__(self) -> None:
        if min(self.coarse, self.fine) < 1 or not 0 <= self.near < self.far <= 1:
            raise UserError(
                f"got {self.coarse} + {self.fine} samples from {self.near:g} to {self.far:g}",
                "wanted at least one of each, and a beginning before the end",
                "move the sliders",
            )

    def rng(self) -> Generator | None:
        """What places are drawn from; None for middles."""
        return Generator().manual_seed(self.seed) if self.jitter else None

    def of_total(self, n: int) -> Options:
        """The same with n samples in the same proportion."""
        coarse = min(max(1, round(n * self.coarse / (self.coarse + self.fine))), n - 1)
        return replace(self, coarse=coarse, fine=n - coarse)


class BoundField:
    """A subject's field with its code, ``factor`` times as dense, white where it has no colour."""

    def __init__(self, field: Field, code: Any = None, factor: float = 1.0) -> None:
        self.field, self.code, self.factor = field, code, factor

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Attenuation per unit length at points x [..., 3]: [...]."""
        found = self.field.density(x.reshape(1, -1, 3), self.code)
        return self.factor * found.view(x.shape[:-1])

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Samples x [1, R, S, 3] of lengths dt [1, R, S]."""
        output = self.field(x, d, dt, self.code)
        color = torch.ones_like(dt)[..., None] if output.color is None else output.color
        return replace(output, tau=self.factor * output.tau, color=color)


class View:
    """A subject seen by an image model: what its levels evaluate, and what makes a pixel of it.

    X-rays are in image values, as trained; emission and absorption are of optical depths.
    """

    def __init__(self, subject: Subject, image_model: ImageModel) -> None:
        self.subject, self.name = subject, image_model
        factor = 1.0 if image_model == "line_integral" else subject.scale
        self.coarse, self.fine = (
            BoundField(field, subject.code, factor) for field in (subject.coarse, subject.fine)
        )
        self.exact = BoundField(_with_every_colour(subject.fine), subject.code, factor)
        self.image_model = image_model_of(image_model, subject.background)
        # what the tau of its levels is multiplied by to be an optical depth
        self.depth_of_tau = subject.scale / factor

    @torch.no_grad()
    def render(
        self, rays: Rays, levels: Sequence[Level], rng: Generator | None = None
    ) -> list[LevelRendering]:
        """Rays [1, R] through levels of this view's fields."""
        return render(rays, None, levels, image_model=self.image_model, rng=rng)

    def recipe(self) -> list[Level]:
        """The levels of the subject's own recipe."""
        own = [level.field for level in self.subject.levels]
        known = {id(self.subject.coarse): self.coarse, id(self.subject.fine): self.fine}
        fields = [known.get(id(f)) or BoundField(f, self.subject.code) for f in own if f]
        return [
            Level(level.sampler, field, level.weight)
            for level, field in zip(self.subject.levels, fields, strict=True)
        ]

    def reference(self, rays: Rays) -> LevelRendering:
        """Rays by many even nodes, none of which is too faint to be asked for its colour."""
        return self.render(rays, [Level(stratified(DENSE), self.exact)])[-1]

    def occupancy_grid(self) -> Occupancy:
        """A grid that has looked at the field as often as a training's warm-up would."""
        grid = SAMPLERS.build({"name": "occupancy", **GRID}, box=self.subject.box)
        assert isinstance(grid, Occupancy)
        seen = BoundField(self.fine, factor=self.depth_of_tau)
        for step in range(grid.warmup_steps):
            grid.observe(step, seen)
        return grid


def _with_every_colour(field: Field) -> Field:
    """A field that leaves colours of faint samples out (``faint``), made to ask for them all.

    Thousands of samples are faint each, and together are not.
    """
    whole: Any = copy.copy(field)
    if getattr(whole, "faint", None):
        whole.faint = 0.0
    elif getattr(getattr(whole, "options", None), "faint", None):
        whole.options = replace(whole.options, faint=0.0)
    return whole


def stratified(n: int) -> Any:
    """The plain sampler of n nodes."""
    return SAMPLERS.build({"name": "stratified", "n": n})


def strategies(view: View, options: Options, grid: Occupancy) -> dict[str, list[Level]]:
    """Levels of every strategy, by the names of their samplers."""
    both = options.coarse + options.fine
    first = Level(stratified(options.coarse), view.coarse)

    def alone(**node: Any) -> list[Level]:
        return [Level(SAMPLERS.build(node), view.fine)]

    def after(**node: Any) -> list[Level]:
        return [first, Level(SAMPLERS.build(node), view.fine)]

    occupancy = SAMPLERS.build({"name": "occupancy", **GRID, "n": both}, box=grid.box)
    assert isinstance(occupancy, Occupancy)
    occupancy.load_state_dict(grid.state_dict())
    return {
        "stratified": alone(name="stratified", n=both),
        "importance": after(name="importance", n=options.fine),
        "local": after(
            name="local", n=options.fine, threshold=options.threshold, kappa=options.kappa
        ),
        "guided": alone(name="guided", n=both),
        "occupancy": [Level(occupancy, view.fine)],
    }


@dataclass(frozen=True)
class Sampled:
    """One pixel by one strategy."""

    bins: Samples  # of the first level: the middles of its strata, and how long they are
    levels: list[LevelRendering]
    image: Tensor  # [C]
    error: float  # root mean square over channels of what the reference is away
    evaluations: int  # of the field, all levels together


def sampled(
    view: View, rays: Rays, levels: Sequence[Level], options: Options, reference: LevelRendering
) -> Sampled:
    """The pixel of rays [1, 1] by these levels, between the options' near and far."""
    rays = shortened(rays, options)
    found = view.render(rays, levels, options.rng())
    bins = levels[0].sampler(rays)
    image = found[-1].rendering.image[0, 0]
    away = image - reference.rendering.image[0, 0]
    count = int(sum(evaluations(level) for level in found))
    return Sampled(bins, found, image, float(away.square().mean().sqrt()), count)


def shortened(rays: Rays, options: Options) -> Rays:
    """Rays between the options' near and far."""
    length = rays.far - rays.near
    return replace(
        rays, near=rays.near + options.near * length, far=rays.near + options.far * length
    )


def with_depth(rays: Rays, reference: LevelRendering) -> Rays:
    """Rays whose depth is known: where it is not, half of the reference's weight lies before it."""
    if rays.depth is not None:
        return rays
    w = reference.rendering.w
    half = (w.cumsum(-1) < 0.5 * w.sum(-1, keepdim=True)).sum(-1, keepdim=True)
    depth = reference.samples.t.gather(-1, half.clamp_max(w.shape[-1] - 1))[..., 0]
    return replace(rays, depth=torch.where(w.sum(-1) > 0.01, depth, torch.nan))


def error_curves(
    view: View, rays: Rays, options: Options, grid: Occupancy, reference: LevelRendering
) -> Mapping[str, list[tuple[float, float]]]:
    """For every strategy its evaluations and errors at a number of budgets.

    With jitter both are of several draws.
    """
    n = DRAWS if options.jitter else 1
    several = {k: v.expand(1, n, *v.shape[2:]) for k, v in vars(rays).items() if v is not None}
    many = shortened(replace(rays, **several), options)
    curves: dict[str, list[tuple[float, float]]] = {}
    for budget in BUDGETS:
        for name, levels in strategies(view, options.of_total(budget), grid).items():
            found = view.render(many, levels, options.rng())
            away = found[-1].rendering.image - reference.rendering.image
            count = float(sum(evaluations(level) for level in found)) / n
            curves.setdefault(name, []).append((count, float(away.square().mean().sqrt())))
    return curves


def along(reference: LevelRendering, depth_of_tau: float, n: int) -> dict[str, Tensor]:
    """The reference's curves in n pieces: t, density sigma, transmittance T, weight per length w.

    Each is [n]. T is what is left of a beam at the beginning of a piece.
    """
    tau, dt, t = (
        v[0, 0].view(n, -1)
        for v in (reference.output.tau, reference.samples.dt, reference.samples.t)
    )
    w = reference.rendering.w[0, 0].view(n, -1).sum(-1)
    length = dt.sum(-1).clamp_min(1e-12)
    piece = tau.sum(-1)
    return {
        "t": t.mean(-1),
        "sigma": piece / length,
        "T": torch.exp(-depth_of_tau * exclusive_sum(piece)),
        "w": w / length,
    }


def whole_picture(view: View, number: int, *, rays_at_once: int = 1024) -> Tensor:
    """A view of the subject, every pixel by the levels of its recipe: [rows, cols, C]."""
    subject = view.subject
    y, x = torch.meshgrid(torch.arange(subject.rows), torch.arange(subject.cols), indexing="ij")
    yx = torch.stack([y, x], -1).flatten(0, 1).float()
    levels = view.recipe()
    parts = [
        view.render(subject.cast(number, some), levels)[-1].rendering.image[0]
        for some in yx.split(rays_at_once)
    ]
    return torch.cat(parts).unflatten(0, (subject.rows, subject.cols))
