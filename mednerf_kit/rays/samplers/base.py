"""The contract of samplers, and the quadrature helpers that they share.

A sampler chooses where along a ray a field is evaluated. It is a quadrature rule: nodes t and the
lengths dt they stand for, where ``dt = 0`` means that a node is not there. ``docs/theory.md``
derives the rules. A new sampler is a new module of this package that registers itself.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ...core.config import Registry
from ...core.errors import UserError
from ...core.raymath import inverse_cdf
from ...core.types import Field, Rays, Samples

# The coarser level: its samples and their weights w [..., S]. None on the first level.
Previous = tuple[Samples, Tensor] | None


class Sampler:
    """What every sampler promises; all but the call itself has a default.

    A task calls ``advance(progress)`` before each training step, then the sampler with the rays of
    the step, then ``observe(step, field)``. A sampler that keeps a state which belongs into a
    snapshot is a :class:`torch.nn.Module` too, with that state in buffers.
    """

    n: int  # samples per ray that the recipe asks for
    refines: bool = False  # whether it follows a coarser level, and so cannot be the first
    needs_depth: bool = False  # whether training needs rays whose depth is known

    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        """Nodes and lengths [..., S] along rays [...], sorted, within [near, far].

        No gradient flows through them. ``previous`` holds the coarser level's samples and their
        weights. Without ``rng`` every node is the middle of its stratum, so that test renders are
        deterministic.
        """
        raise NotImplementedError

    def advance(self, progress: float) -> None:
        """Take note of how far the training is, in [0, 1]; without this call it is at its end."""

    def observe(self, step: int, field: Field) -> None:
        """Look at the field of this sampler's level after a training step."""


SAMPLERS: Registry[Sampler] = Registry("sampler", home=__package__)


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
    """n nodes by inverse transform of weights w [..., S], one in each stratum of weight.

    The weights belong to the cells [start, start + length] [..., S] of the coarse nodes. Only cells
    of positive ``length`` count, and all distances are measured along them alone: what lies between
    them is neither sampled nor stood for. A ray without weight is sampled evenly.

    With ``merge`` the coarse nodes of these cells are kept: the result is [..., S + n], each node
    stands for what lies nearer to it than to its neighbours, and the nodes left out lie at ``far``
    with length 0. Without it the result is [..., n]: each node stands for its own stratum, within
    which it is placed evenly (mip-NeRF's intervals), and cells without weight are left out too.
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
        within = place * n - index[:-1]
        return Samples(position(start, length, ends[..., :-1] + within * dt), dt)
    s = inverse_cdf(border, w, place)
    t = position(start, length, s)
    here = length > 0
    coarse_s = border[..., :-1] + (coarse.t - start).clamp_min(0).minimum(length)
    s, order = torch.cat([s, torch.where(here, coarse_s, torch.inf)], -1).sort(-1)
    t = torch.cat([t, torch.where(here, coarse.t, rays.far[..., None])], -1).gather(-1, order)
    total = border[..., -1:]
    middle = 0.5 * (s[..., 1:] + s[..., :-1])
    edges = torch.cat([torch.zeros_like(total), middle, total], -1).minimum(total)
    return Samples(t, edges.diff(dim=-1).clamp_min(0))


def spread(start: Tensor, length: Tensor, n: int, rng: Generator | None) -> Samples:
    """One node in each of n equal strata of the cells [start, start + length] laid end to end.

    ``start`` and ``length`` are [..., S]; the nodes and their lengths are [..., n].
    """
    total = length.sum(-1, keepdim=True)
    place = strata((*length.shape[:-1], n), rng, length.device)
    return Samples(position(start, length, place * total), (total / n).expand_as(place))


def together(first: Samples, second: Samples) -> Samples:
    """Two quadrature rules for two parts of a ray as one, sorted by t."""
    t, order = torch.cat([first.t, second.t], -1).sort(-1)
    return Samples(t, torch.cat([first.dt, second.dt], -1).gather(-1, order))


def cells(rays: Rays, samples: Samples) -> tuple[Tensor, Tensor]:
    """Where each node's cell starts and how long it is, [..., S] both.

    Cells end halfway between neighbours. A rule that does not cover its ray has gaps: there a cell
    is no longer than ``dt``, with its node in the middle. Nodes of length 0 have no cell.

    >>> rays = Rays(torch.zeros(3), torch.eye(3)[0], torch.tensor(0.0), torch.tensor(4.0))
    >>> cells(rays, Samples(torch.tensor([0.5, 1.5, 3.5]), torch.tensor([1.0, 1.0, 1.0])))
    (tensor([0., 1., 3.]), tensor([1., 1., 1.]))
    """
    t, dt = samples.t, samples.dt
    near = rays.near[..., None]
    far = rays.far[..., None]
    covered = dt.sum(-1, keepdim=True) >= (1 - 1e-4) * (far - near)
    reach = torch.where(covered & (dt > 0), torch.inf, 0.5 * dt)
    low = (t - reach).maximum(near)
    high = (t + reach).minimum(far)
    middle = 0.5 * (t[..., 1:] + t[..., :-1])
    start = torch.cat([low[..., :1], middle.minimum(high[..., :-1]).maximum(low[..., 1:])], -1)
    end = torch.cat([middle.maximum(low[..., 1:]).minimum(high[..., :-1]), high[..., -1:]], -1)
    return start, torch.where(dt > 0, (end - start).clamp_min(0), 0.0)


def position(start: Tensor, length: Tensor, s: Tensor) -> Tensor:
    """Distance along the ray at which a length s [..., n] of its cells is behind, [..., n].

    The cells [start, start + length] [..., S] are sorted and may have gaps between them.

    >>> start, length = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, 2.0])
    >>> position(start, length, torch.tensor([0.5, 1.5]))
    tensor([1.5000, 5.5000])
    """
    border = length.cumsum(-1)
    s = s.minimum(border[..., -1:])
    first = (length > 0).int().argmax(-1, keepdim=True)
    k = torch.searchsorted(border, s.contiguous()).clamp_max(length.shape[-1] - 1).maximum(first)
    length = length.gather(-1, k)
    return start.gather(-1, k) + (s - border.gather(-1, k) + length).clamp_min(0).minimum(length)


def strata(shape: tuple[int, ...], rng: Generator | None, device: torch.device) -> Tensor:
    """One place in each of shape[-1] equal strata of [0, 1], of this shape.

    It is random, or the middle without ``rng``. Numbers are drawn on the generator's device: a
    generator of ``device`` itself is fast, one of the CPU gives the same numbers on every device.

    >>> strata((4,), None, torch.device("cpu"))
    tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    offset = 0.5 if rng is None else torch.rand(shape, generator=rng, device=rng.device).to(device)
    return (torch.arange(shape[-1], device=device) + offset).expand(shape) / shape[-1]


def between_in_disparity(near: Tensor, far: Tensor, u: Tensor) -> Tensor:
    """Distances 1 / ((1 − u)/near + u/far), which are linear in disparity for u in [0, 1]."""
    return near * far / (far + (near - far) * u).clamp_min(torch.finfo(near.dtype).tiny)


def at_least_one(n: int) -> int:
    """A number of samples per ray, refused below 1."""
    if n < 1:
        raise UserError(f"got {n} samples per ray", "wanted at least 1", "set the level's n higher")
    return n


def in_unit_interval(value: float, name: str) -> float:
    """The option of this name, refused outside [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(
            f"got {name} {value:g}", "wanted a share between 0 and 1", "correct the recipe or --set"
        )
    return value


def coarser_level(previous: Previous, name: str) -> tuple[Samples, Tensor]:
    """The coarser level, without which the refining sampler of this name cannot work."""
    if previous is None:
        raise UserError(
            f"got sampler '{name}' on the first level",
            "wanted a coarser level before it",
            "put 'stratified' first",
        )
    return previous
