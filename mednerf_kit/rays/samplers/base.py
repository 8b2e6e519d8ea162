"""Where along a ray the field is asked. A sampler is a quadrature rule: nodes and lengths, ``dt =
0`` means "not there".

All share one signature, ``sampler(rays, previous, generator) -> Samples``: ``previous`` is the
coarser level's samples and weights; without a generator the nodes are the midpoints, which makes
test renders deterministic. No gradient flows through nodes. A sampler may also have
``advance(progress)`` (how far the training is, before each step) and ``observe(step, field)`` (a
look at its level's field). ``docs/theory.md`` derives the rules. A new sampler is a new module of
this package that registers itself.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ...core.config import Registry
from ...core.errors import UserError
from ...core.raymath import inverse_cdf
from ...core.types import Rays, Sampler, Samples

SAMPLERS: Registry[Sampler] = Registry("sampler", home=__package__)
Previous = tuple[Samples, Tensor] | None


@SAMPLERS.register("stratified")
class Stratified:
    """One node in each of n equal strata of [near, far] (Mildenhall et al. 2020, eq. 2).

    With ``disparity`` the strata are equal in 1/t instead, finer towards the camera; near must then
    be above 0.
    """

    def __init__(self, *, n: int = 48, disparity: bool = False) -> None:
        self.n, self.disparity = at_least_one(n), disparity

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        near, far = rays.near[..., None], rays.far[..., None]
        place = strata((*rays.near.shape, self.n), rng, near.device)
        if not self.disparity:
            return Samples(near + place * (far - near), ((far - near) / self.n).expand_as(place))
        if bool(((near <= 0) & (near < far)).any()):
            raise UserError(
                "got strata equal in disparity on rays that begin at 0",
                "wanted near > 0",
                "set disparity=false (NDC scenes are even in disparity already)",
            )
        borders = torch.arange(self.n + 1, device=near.device) / self.n
        return Samples(
            between_in_disparity(near, far, place),
            between_in_disparity(near, far, borders).diff(dim=-1),
        )


@SAMPLERS.register("importance")
class Importance:
    """n nodes by inverse transform of the coarser level's weights; ``merge`` keeps its nodes too
    (as NeRF's fine pass does).

    Cells end halfway between coarse nodes, as in Mildenhall et al. 2020 §5.2; where the coarser
    level has gaps (an occupancy grid's empty cells) no node falls into them.
    """

    refines = True

    def __init__(self, *, n: int = 64, merge: bool = True) -> None:
        self.n, self.merge = at_least_one(n), merge

    @torch.no_grad()
    def __call__(self, rays: Rays, previous: Previous, rng: Generator | None = None) -> Samples:
        coarse, w = needed(previous, "importance")
        start, length = cells(rays, coarse)
        return by_weight(rays, coarse, start, length, w, self.n, merge=self.merge, rng=rng)


def by_weight(
    rays: Rays,
    coarse: Samples,
    start: Tensor,
    length: Tensor,
    w: Tensor,
    n: int,
    *,
    merge: bool,
    rng: Generator | None,
) -> Samples:
    """n nodes by inverse transform of weights w [..., S], one in each of n strata of equal weight.

    Only the coarse cells of positive ``length`` count, and all distances are measured along them
    alone: what lies between is neither sampled nor stood for. Merged with the coarse nodes of these
    cells, each node stands for what lies nearer to it than to its neighbours, [..., S + n] with the
    left-out nodes at ``far`` and of length 0. Alone, [..., n], each stands for its own stratum,
    within which it is placed evenly (mip-NeRF's intervals), and cells without weight are left out
    too. A ray without weight is sampled evenly.
    """
    w = torch.where(length > 0, w, 0.0)
    w = torch.where(w.sum(-1, keepdim=True) > 0, w, length)
    if not merge:
        length = torch.where(w > 0, length, 0.0)
    border = pad(length.cumsum(-1), (1, 0))
    place = strata((*w.shape[:-1], n), rng, w.device)
    if not merge:
        index = torch.arange(n + 1, device=w.device)
        ends = inverse_cdf(border, w, (index / n).expand(*w.shape[:-1], n + 1))
        dt = ends.diff(dim=-1).clamp_min(0)
        return Samples(position(start, length, ends[..., :-1] + (place * n - index[:-1]) * dt), dt)
    s = inverse_cdf(border, w, place)
    t = position(start, length, s)
    here = length > 0
    coarse_s = border[..., :-1] + (coarse.t - start).clamp_min(0).minimum(length)
    s, order = torch.cat([s, torch.where(here, coarse_s, torch.inf)], -1).sort(-1)
    t = torch.cat([t, torch.where(here, coarse.t, rays.far[..., None])], -1).gather(-1, order)
    total = border[..., -1:]
    edges = torch.cat(
        [torch.zeros_like(total), 0.5 * (s[..., 1:] + s[..., :-1]), total], -1
    ).minimum(total)
    return Samples(t, edges.diff(dim=-1).clamp_min(0))


def spread(start: Tensor, length: Tensor, n: int, rng: Generator | None) -> Samples:
    """One node in each of n equal strata of the cells [start, start + length] [..., S] laid end to
    end.
    """
    total = length.sum(-1, keepdim=True)
    place = strata((*length.shape[:-1], n), rng, length.device)
    return Samples(position(start, length, place * total), (total / n).expand_as(place))


def together(first: Samples, second: Samples) -> Samples:
    """Two rules for two parts of a ray as one, sorted."""
    t, order = torch.cat([first.t, second.t], -1).sort(-1)
    return Samples(t, torch.cat([first.dt, second.dt], -1).gather(-1, order))


def cells(rays: Rays, samples: Samples) -> tuple[Tensor, Tensor]:
    """Where the cell of each node starts and how long it is, [..., S] both: cells end halfway
    between neighbours.

    A rule that does not cover its ray has gaps: there a cell is no longer than ``dt``, its node in
    the middle. Nodes of length 0 have no cell.

    >>> rays = Rays(torch.zeros(3), torch.eye(3)[0], torch.tensor(0.0), torch.tensor(4.0))
    >>> cells(rays, Samples(torch.tensor([0.5, 1.5, 3.5]), torch.tensor([1.0, 1.0, 1.0])))
    (tensor([0., 1., 3.]), tensor([1., 1., 1.]))
    """
    t, dt, near, far = samples.t, samples.dt, rays.near[..., None], rays.far[..., None]
    covered = dt.sum(-1, keepdim=True) >= (1 - 1e-4) * (far - near)
    reach = torch.where(covered & (dt > 0), torch.inf, 0.5 * dt)
    low, high = (t - reach).maximum(near), (t + reach).minimum(far)
    middle = 0.5 * (t[..., 1:] + t[..., :-1])
    start = torch.cat([low[..., :1], middle.minimum(high[..., :-1]).maximum(low[..., 1:])], -1)
    end = torch.cat([middle.maximum(low[..., 1:]).minimum(high[..., :-1]), high[..., -1:]], -1)
    return start, torch.where(dt > 0, (end - start).clamp_min(0), 0.0)


def position(start: Tensor, length: Tensor, s: Tensor) -> Tensor:
    """Distance along the ray at which a length s [..., n] of the cells [start, start + length]
    [..., S] is behind.

    >>> position(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 1.5]))
    tensor([1.5000, 5.5000])
    """
    border = length.cumsum(-1)
    s = s.minimum(border[..., -1:])
    first = (length > 0).int().argmax(-1, keepdim=True)
    k = torch.searchsorted(border, s.contiguous()).clamp_max(length.shape[-1] - 1).maximum(first)
    length = length.gather(-1, k)
    return start.gather(-1, k) + (s - border.gather(-1, k) + length).clamp_min(0).minimum(length)


def strata(shape: tuple[int, ...], rng: Generator | None, device: torch.device) -> Tensor:
    """One place in each of shape[-1] equal strata of [0, 1]: uniform random, or the middle without
    a generator.

    Numbers are drawn where the generator is: one of the ``device`` itself is fast, one of the CPU
    gives the same on every device.

    >>> strata((4,), None, torch.device("cpu"))
    tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    offset = 0.5 if rng is None else torch.rand(shape, generator=rng, device=rng.device).to(device)
    return (torch.arange(shape[-1], device=device) + offset).expand(shape) / shape[-1]


def between_in_disparity(near: Tensor, far: Tensor, u: Tensor) -> Tensor:
    """1 / ((1 − u)/near + u/far): u in [0, 1] linear in disparity."""
    return near * far / (far + (near - far) * u).clamp_min(torch.finfo(near.dtype).tiny)


def at_least_one(n: int) -> int:
    """A number of samples a sampler can use."""
    if n < 1:
        raise UserError(f"got {n} samples per ray", "wanted at least 1", "set the level's n higher")
    return n


def a_share(value: float, name: str) -> float:
    """A number in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(
            f"got {name} {value:g}", "wanted a share between 0 and 1", "correct the recipe or --set"
        )
    return value


def needed(previous: Previous, name: str) -> tuple[Samples, Tensor]:
    """The coarser level, which a refining sampler cannot do without."""
    if previous is None:
        raise UserError(
            f"got sampler '{name}' on the first level",
            "wanted a coarser level before it",
            "put 'stratified' first",
        )
    return previous
