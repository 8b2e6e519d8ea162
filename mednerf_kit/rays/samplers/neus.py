"""NeuS's sampling: even sections, then finer ones where a signed distance finds a surface."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad, relu, softplus

from ...core.errors import UserError
from ...core.raymath import exclusive_sum, inverse_cdf
from ...core.types import Rays, Samples
from .base import (
    SAMPLERS,
    Previous,
    Sampler,
    at_least_one,
    between_in_disparity,
    in_unit_interval,
    strata,
)

FAR_AWAY = 1e6  # the distance to anything on a ray that misses the support


@runtime_checkable
class SignedDistance(Protocol):
    """What this sampler needs of its level's field."""

    sharpness: Tensor  # s of the opacity Φ_s, per unit of length

    def sdf(self, x: Tensor) -> Tensor:
        """Signed distance [...] of points x [..., 3], negative inside."""


@SAMPLERS.register("neus")
class Sections(Sampler):
    """NeuS's up-sampling (Wang et al. 2021, §3.3): even sections, then more borders in rounds.

    Round i puts its borders by inverse transform of the weights that the distances at the borders
    give at sharpness ``sharpness`` · 2ⁱ, so that they close in on the surface; distances are
    evaluated at new borders only. The nodes are the middles of the sections: there the field
    reckons from both ends. In training the even sections of a ray shift together by up to half of
    one. Sections lie within the box.

    A section is left out (length 0) where its optical depth at the field's own sharpness is at most
    ``faint`` even if a surface of slope 1 passes as near as it may, or where less than ``faint`` of
    the light is left. On a trained surface most sections are, and what costs is the field's normals
    and colours, not these distances (a sixth, which evaluations per ray do not count).

    The level's own field is a fact like ``box`` and no option. The rounds could also be levels of
    weight 0, but a level hands on weights at the learned sharpness, has no distances left where
    these are 0, and would pay for colours; and what ``observe`` shows is not there when a trained
    scene is opened. Without a field there is nothing to close in on: the sections stay even.

    Options:
        n: even sections per ray.
        refine: borders that the rounds add, all together; 0: none.
        rounds: number of rounds.
        sharpness: of the first round, per longest half side of the box.
        faint: optical depth, and share of the light left, up to which a section is left out; 0
            keeps all.
        outside: nodes behind the box, even in disparity, for a background (a scene of
            ``clip: false``).
    """

    def __init__(
        self,
        *,
        n: int = 64,
        refine: int = 64,
        rounds: int = 4,
        sharpness: float = 64.0,
        faint: float = 1e-3,
        outside: int = 0,
        box: Tensor | None = None,
        field: SignedDistance | None = None,
    ) -> None:
        if min(refine, rounds, outside) < 0 or (refine and refine < rounds) or sharpness <= 0:
            raise UserError(
                f"got refine {refine} in {rounds} rounds, sharpness {sharpness:g}, outside "
                f"{outside}",
                "wanted at least one new border a round and a sharpness above 0",
                "correct the level's sampler",
            )
        if field is not None and not isinstance(field, SignedDistance):
            raise UserError(
                "got sampler 'neus' on a field without signed distances",
                "wanted a field such as 'neus'",
                "use 'importance' or 'occupancy' here",
            )
        if outside and box is None:
            raise UserError(
                "got sampler 'neus' with outside, without a box",
                "wanted a scene with bounds",
                "set outside=0",
            )
        self.n = at_least_one(n)
        self.refine = refine
        self.rounds = rounds
        self.sharpness = sharpness
        self.faint = in_unit_interval(faint, "faint")
        self.outside = outside
        self.box = box
        self.field = field

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        enter, leave = self.span(rays)
        shift = strata(enter.shape, rng, enter.device)
        index = torch.arange(1, self.n, device=enter.device)
        inner = enter + (index - 0.5 + shift) * (leave - enter) / self.n
        t = torch.cat([enter, inner, leave], -1)
        found = self.sections(t) if self.field is None else self.refined(rays, t, self.field, rng)
        if not self.outside:
            return found
        far = rays.far[..., None]
        borders = torch.arange(self.outside + 1, device=enter.device) / self.outside
        ends = between_in_disparity(leave.clamp_min(1e-6), far.clamp_min(1e-6), borders)
        behind = self.sections(ends.minimum(far).maximum(leave))
        return Samples(torch.cat([found.t, behind.t], -1), torch.cat([found.dt, behind.dt], -1))

    def refined(
        self, rays: Rays, t: Tensor, field: SignedDistance, rng: Generator | None
    ) -> Samples:
        """Sections [..., n + refine] after all rounds, from borders t [..., n + 1].

        Sections that cannot be seen have length 0.
        """
        f = distances(field, rays, t)
        unit = 1.0 if self.box is None else 0.5 * float((self.box[1] - self.box[0]).max())
        for i in range(self.rounds if self.refine else 0):
            count = self.refine // self.rounds + (i < self.refine % self.rounds)
            w = section_weights(f, t, self.sharpness / unit * 2**i)
            new = inverse_cdf(t, w + 1e-5, strata((*t.shape[:-1], count), rng, t.device))
            t, order = torch.cat([t, new], -1).sort(-1)
            f = torch.cat([f, distances(field, rays, new)], -1).gather(-1, order)
        found = self.sections(t)
        if not self.faint:
            return found
        seen = visible(f, found.dt, field.sharpness, self.faint)
        return Samples(found.t, torch.where(seen, found.dt, 0.0))

    @staticmethod
    def sections(t: Tensor) -> Samples:
        """Middles and lengths of the sections between borders [..., S + 1]."""
        return Samples(0.5 * (t[..., 1:] + t[..., :-1]), t.diff(dim=-1))

    def span(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave the box within [near, far], [..., 1] each.

        Both are ``near`` for a ray that misses it.
        """
        if self.box is None:
            return rays.near[..., None], rays.far[..., None]
        slow = rays.direction.abs() < 1e-12
        speed = torch.where(slow, 1e-12, rays.direction)
        ends = (self.box.to(rays.origin) - rays.origin[..., None, :]) / speed[..., None, :]
        enter = ends.amin(-2).amax(-1).maximum(rays.near)
        leave = ends.amax(-2).amin(-1).minimum(rays.far)
        hit = leave > enter
        enter = torch.where(hit, enter, rays.near)
        leave = torch.where(hit, leave, rays.near)
        return enter[..., None], leave[..., None]


def distances(field: SignedDistance, rays: Rays, t: Tensor) -> Tensor:
    """Signed distance at places t [..., S] of rays.

    It is not evaluated on a ray without length, which misses the support.
    """
    hit = rays.far > rays.near
    x = rays.origin[hit][:, None] + t[hit][..., None] * rays.direction[hit][:, None]
    f = torch.full_like(t, FAR_AWAY)
    f[hit] = field.sdf(x).to(t)
    return f


def section_weights(f: Tensor, t: Tensor, s: float) -> Tensor:
    """Weights [..., S] of the sections between borders t [..., S + 1], at sharpness s.

    f [..., S + 1] are the signed distances at the borders. A section's slope is (f⁺ − f⁻)/dt, or
    that of the section before where this is steeper (and 0 where the ray leaves): a surface that a
    border has just passed still draws nodes. The slope runs through the mean of f⁻ and f⁺.

    >>> f, t = torch.tensor([0.2, 0.1, -0.1, -0.2]), torch.tensor([0.0, 0.1, 0.3, 0.4])
    >>> section_weights(f, t, 50.0).argmax()
    tensor(1)
    """
    dt = t.diff(dim=-1)
    slope = f.diff(dim=-1) / dt.clamp_min(1e-5)
    slope = slope.minimum(pad(slope[..., :-1], (1, 0))).clamp(-1e3, 0)
    middle = 0.5 * (f[..., 1:] + f[..., :-1])
    half = 0.5 * slope * dt
    tau = relu(softplus(-s * (middle + half)) - softplus(-s * (middle - half)))
    return torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)


def visible(f: Tensor, dt: Tensor, s: Tensor, faint: float) -> Tensor:
    """Which sections [..., S] can be seen at sharpness s: bool.

    f [..., S + 1] are the signed distances at their borders, dt [..., S] their lengths. Between
    two borders a distance of slope 1 falls to (f⁻ + f⁺ − dt)/2 at most, so tau is at most
    log(1 + exp(−s · that)).
    """
    lowest = 0.5 * (f[..., 1:] + f[..., :-1] - dt)
    depth = softplus(-s * f)
    left = torch.exp(-exclusive_sum(relu(depth.diff(dim=-1))))
    return (softplus(-s * lowest) > faint) & (left > faint)
