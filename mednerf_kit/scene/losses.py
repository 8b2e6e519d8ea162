"""Losses of a fitted scene: functions of one record, by name with weights in a recipe.

Depth terms (docs/theory.md) look only at rays whose depth is known, each weighed with the
confidence of its depth. A ray through a transparent pixel is known too: it meets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import config
from ..core.config import Registry
from ..core.errors import UserError
from ..core.types import Rays
from ..rays.render import Level, LevelRendering

LOSSES: Registry[Loss] = Registry("loss")
LEAST_GAIN, MOST_GAIN = 0.5, 2.0  # of a view: a field that has hardly learned says little about it


@dataclass(frozen=True)
class Outcome:
    """One batch of rays, rendered: what every loss reads."""

    rendered: list[LevelRendering]  # one a level
    levels: list[Level]
    rays: Rays  # [R]
    truth: Tensor  # [R, C]
    importance: Tensor  # [R] mean 1
    progress: float  # of the training, in [0, 1]
    alpha: Tensor | None = None  # [R] coverage of the truth
    confidence: Tensor | None = None  # [R] of the rays' depth
    regularisers: Sequence[Mapping[str, Tensor]] = ()  # of each field, computed when looked up

    def over_levels(self, term: Callable[[LevelRendering], Tensor]) -> Tensor:
        """Σ over supervised levels of the level's weight times a term."""
        parts = [
            level.weight * term(seen)
            for level, seen in zip(self.levels, self.rendered, strict=True)
            if level.weight
        ]
        return torch.stack(parts).sum()

    def over_known_depth(self, values: Tensor) -> Tensor:
        """Mean of values [R] over rays of known depth, weighed by confidence; 0 without any."""
        weight = self._trust()
        return (weight * values).sum() / weight.sum().clamp_min(1e-6)

    def free_until(self) -> Tensor:
        """How far each ray is known to cross nothing, [R]: to its depth.

        Where the truth is transparent, that is for ever.
        """
        return torch.where(self._transparent(), torch.inf, self.known_depth())

    def over_known_free(self, values: Tensor) -> Tensor:
        """Mean of values [R] over rays of known depth, weighed by confidence, and transparent ones.

        0 without any.
        """
        weight = torch.where(self._transparent(), 1.0, self._trust())
        return (weight * values).sum() / weight.sum().clamp_min(1e-6)

    def known_depth(self) -> Tensor:
        """Depth of the rays [R]; 0 where it is unknown, since a NaN would reach every gradient."""
        return self._depth().nan_to_num(nan=0.0, posinf=0.0)

    def _transparent(self) -> Tensor:
        return (
            torch.zeros_like(self.truth[:, 0], dtype=torch.bool)
            if self.alpha is None
            else self.alpha == 0
        )

    def _trust(self) -> Tensor:
        known = self._depth().isfinite().float()
        return known if self.confidence is None else known * self.confidence.nan_to_num()

    def _depth(self) -> Tensor:
        if self.rays.depth is None:
            raise ValueError("a depth loss needs rays with depth")
        return self.rays.depth


class Loss:
    """A scalar of an :class:`Outcome`, times ``weight`` in the sum of all losses.

    Over the training the weight falls to ``anneal`` of itself.
    """

    needs_depth = False
    sees_picture = True
    weight: float
    anneal = 1.0

    def weight_at(self, progress: float) -> float:
        """The weight at ``progress`` in [0, 1]: weight · anneal^progress."""
        return self.weight * self.anneal**progress

    def __call__(self, outcome: Outcome) -> Tensor:
        raise NotImplementedError


def build_losses(node: Mapping[str, Mapping[str, Any] | float]) -> dict[str, Loss]:
    """The losses of a recipe: ``{mse: {weight: 1.0}, tv_density: 0.1}``.

    Those of weight 0 are left out.

    Any of them takes ``anneal``, the share of its weight that is left at the end.

    >>> list(build_losses({"mse": 1.0, "mask": {"weight": 0}}))
    ['mse']
    >>> build_losses({"depth_soft": {"weight": 1.0, "anneal": 0.25}})["depth_soft"].weight_at(0.5)
    0.5
    """
    built = {}
    for name, value in node.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        anneal = config.checked(
            options.pop("anneal", 1.0), float, where=f"'anneal' of loss '{name}'"
        )
        if not 0 < anneal <= 1:
            raise UserError(
                f"got anneal {anneal:g} of loss '{name}'",
                "wanted a share above 0, up to 1",
                "1 keeps the weight",
            )
        loss = LOSSES.build({"name": name, **options})
        loss.anneal = anneal
        if loss.weight:
            built[name] = loss
    return built


@LOSSES.register("mse")
class SquaredError(Loss):
    """Weighted mean squared error of the picture, summed over the supervised levels.

    Mildenhall et al. 2020, eq. 6.

    Options:
        weight: of this loss in the sum.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        return outcome.over_levels(
            lambda seen: (
                outcome.importance * (seen.rendering.image - outcome.truth).square().mean(-1)
            ).mean()
        )


@LOSSES.register("photometric_l1")
class AbsoluteError(Loss):
    """Weighted mean absolute error of the picture, summed over the supervised levels.

    Options:
        weight: of this loss in the sum.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        return outcome.over_levels(
            lambda seen: (
                outcome.importance * (seen.rendering.image - outcome.truth).abs().mean(-1)
            ).mean()
        )


@LOSSES.register("mse_gain")
class SquaredErrorUpToGain(Loss):
    """Weighted mean of (p − g_v y)² with the gain g_v of each view that fits its rays best.

    For pictures whose scale is known up to one factor a view: a set in which each view was
    stretched to its own maximum. Of the rays of a batch g_v = Σ w p y / Σ w y². Gains average 1
    over the views, which fixes the scale, and carry no gradient. Views are told apart by where
    their rays start, so this is for cameras at different places.

    Options:
        weight: of this loss in the sum.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        sources, view = outcome.rays.origin.unique(dim=0, return_inverse=True)

        def term(seen: LevelRendering) -> Tensor:
            gain = fitted_gains(
                seen.rendering.image.detach(), outcome.truth, outcome.importance, view, len(sources)
            )
            return (
                outcome.importance
                * (seen.rendering.image - gain[view, None] * outcome.truth).square().mean(-1)
            ).mean()

        return outcome.over_levels(term)


@LOSSES.register("mask")
class Coverage(Loss):
    """Weighted mean binary cross-entropy of the opacity against the truth's alpha.

    NeuS, Wang et al. 2021, §3.3. The opacity keeps 1e-3 away from 0 and 1, so that what is right
    already has no slope.

    Options:
        weight: of this loss in the sum.
    """

    needs_alpha, sees_picture = True, False

    def __init__(self, *, weight: float = 0.1) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        if outcome.alpha is None:
            raise ValueError("the mask loss needs pictures with alpha")
        opacity = outcome.rendered[-1].rendering.w.sum(-1).clamp(1e-3, 1 - 1e-3)
        return torch.nn.functional.binary_cross_entropy(opacity, outcome.alpha, outcome.importance)


@LOSSES.register("depth_soft")
class SoftDepth(Loss):
    """Mean squared error of the expected depth Σ w t, over rays of known depth.

    Options:
        weight: of this loss in the sum.
    """

    needs_depth, sees_picture = True, False

    def __init__(self, *, weight: float = 0.01) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        return outcome.over_levels(
            lambda seen: outcome.over_known_depth(
                (expected_depth(seen) - outcome.known_depth()).square()
            )
        )


@LOSSES.register("depth_free")
class FreeSpace(Loss):
    """Mean density of what a ray crosses before its known depth: Σ tau / Σ dt there.

    A transparent pixel's ray counts with all of its length: else walls of the background's colour
    may stand there unseen. The mean is by length and not by node, so that it does not depend on
    where a sampler puts its nodes.

    Options:
        weight: of this loss in the sum.
        margin: length in front of the surface that is left out, in units of the scene.
    """

    needs_depth, sees_picture = True, False

    def __init__(self, *, weight: float = 0.005, margin: float = 0.05) -> None:
        self.weight, self.margin = weight, margin

    def __call__(self, outcome: Outcome) -> Tensor:
        depth = outcome.free_until()

        def term(seen: LevelRendering) -> Tensor:
            before = (seen.samples.t < depth[:, None] - self.margin) & (seen.samples.dt > 0)
            length = (seen.samples.dt * before).sum(-1)
            return outcome.over_known_free(
                (seen.output.tau * before).sum(-1) / length.clamp_min(1e-6)
            )

        return outcome.over_levels(term)


@LOSSES.register("depth_surface")
class SurfaceConcentration(Loss):
    """|Σ w t − D| + variance · Var_w(t): weights lie at the surface D, and close together.

    Options:
        weight: of this loss in the sum.
        variance: factor of the second term.
    """

    needs_depth, sees_picture = True, False

    def __init__(self, *, weight: float = 0.005, variance: float = 0.1) -> None:
        self.weight, self.variance = weight, variance

    def __call__(self, outcome: Outcome) -> Tensor:
        def term(seen: LevelRendering) -> Tensor:
            mean = expected_depth(seen)
            spread = (
                (seen.rendering.w * seen.samples.t.square()).sum(-1) - mean.square()
            ).clamp_min(0)
            return outcome.over_known_depth(
                (mean - outcome.known_depth()).abs() + self.variance * spread
            )

        return outcome.over_levels(term)


@LOSSES.register("depth_sight")
class LineOfSight(Loss):
    """Weights follow a narrow bell at the depth D and vanish before it.

    Urban Radiance Fields, Rematas et al. 2022, eq. 12–14: Σ_{|t−D|<eps} (w − k)² + Σ_{t<D−eps} w²,
    k the bell N(D, (eps/3)²) integrated over each sample's length and scaled to sum to 1. Weights
    vanish all along a transparent pixel's ray.

    Options:
        weight: of this loss in the sum.
        window: eps at the beginning of the training, in units of the scene.
        window_end: eps at its end; in between it falls exponentially.
    """

    needs_depth, sees_picture = True, False

    def __init__(
        self, *, weight: float = 0.05, window: float = 0.3, window_end: float = 0.05
    ) -> None:
        self.weight, self.window, self.window_end = weight, window, window_end

    def __call__(self, outcome: Outcome) -> Tensor:
        depth = outcome.free_until()
        eps = self.window * (self.window_end / self.window) ** outcome.progress

        def term(seen: LevelRendering) -> Tensor:
            away = seen.samples.t - depth[:, None]
            bell = torch.exp(-0.5 * (away / (eps / 3)).square()) * seen.samples.dt
            bell = bell / bell.sum(-1, keepdim=True).clamp_min(1e-9)
            near = (seen.rendering.w - bell).square() * (away.abs() < eps)
            empty = seen.rendering.w.square() * (away < -eps)
            return outcome.over_known_free((near + empty).sum(-1))

        return outcome.over_levels(term)


class Regulariser(Loss):
    """A penalty that the fields themselves compute, by its name."""

    sees_picture = False

    def __init__(self, name: str, weight: float) -> None:
        self.name, self.weight = name, weight

    def __call__(self, outcome: Outcome) -> Tensor:
        found = [
            penalties[self.name] for penalties in outcome.regularisers if self.name in penalties
        ]
        return torch.stack(found).sum() if found else outcome.truth.new_zeros(())


@LOSSES.register("density_l1")
def density_l1(*, weight: float = 8e-5) -> Loss:
    """Mean absolute value of a grid's density features: what is not needed is let go.

    Options:
        weight: of this loss in the sum.
    """
    return Regulariser("density_l1", weight)


@LOSSES.register("tv_density")
def tv_density(*, weight: float = 0.1) -> Loss:
    """Total variation of a grid's density features: neighbours agree.

    Options:
        weight: of this loss in the sum.
    """
    return Regulariser("tv_density", weight)


@LOSSES.register("tv_appearance")
def tv_appearance(*, weight: float = 0.01) -> Loss:
    """Total variation of a grid's appearance features: neighbours agree.

    Options:
        weight: of this loss in the sum.
    """
    return Regulariser("tv_appearance", weight)


@LOSSES.register("eikonal")
def eikonal(*, weight: float = 0.1) -> Loss:
    """Mean (|∇f| − 1)² of a signed distance, whose slope is 1 (Gropp et al., ICML 2020; NeuS).

    Options:
        weight: of this loss in the sum.
    """
    return Regulariser("eikonal", weight)


def expected_depth(seen: LevelRendering) -> Tensor:
    """Σ w t along each ray, [R]."""
    return (seen.rendering.w * seen.samples.t).sum(-1)


def fitted_gains(image: Tensor, truth: Tensor, weight: Tensor, view: Tensor, views: int) -> Tensor:
    """Least-squares gains [V] of truth [R, C] for image [R, C], their mean 1.

    Rays have a ``weight`` [R] and belong to a ``view`` [R].

    >>> truth, view = torch.tensor([[1.0], [2.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    >>> image = truth * torch.tensor([[0.8], [0.8], [1.2], [1.2]])
    >>> fitted_gains(image, truth, torch.ones(4), view, 2)
    tensor([0.8000, 1.2000])
    """
    both = image.new_zeros(2, views)
    products = torch.stack([(image * truth).sum(-1), truth.square().sum(-1)]) * weight
    both.index_add_(1, view, products)
    gain = both[0] / both[1].clamp_min(1e-9)
    gain = torch.where(
        both[1] > 1e-6, gain / gain.mean().clamp_min(1e-9), torch.ones_like(gain)
    ).clamp(LEAST_GAIN, MOST_GAIN)
    return gain / gain.mean()
