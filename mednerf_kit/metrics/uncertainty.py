"""Whether an uncertainty is honest: how often the truth lies in an interval, and whether a wide
spread tells a large error. Pure functions of tensors, over all pixels or those of a mask.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..core.errors import RunError


def coverage(lower: Tensor, upper: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Share of (masked) pixels whose truth lies in [lower, upper]; 0.9 for an honest 90 % interval.

    >>> import torch
    >>> coverage(torch.zeros(4), torch.ones(4), torch.tensor([0.5, 1.0, 1.5, -0.1]))
    0.5
    """
    inside = (lower <= truth) & (truth <= upper)
    return float(_chosen(inside.double(), mask).mean())


def spread_error_correlation(
    spread: Tensor, error: Tensor, mask: Tensor | None = None
) -> dict[str, float]:
    """Whether a wide spread tells a large |error|: the correlations ``pearson`` and ``spearman``
    (ranks, ties shared) over (masked) pixels.

    ``pearson_ceiling`` is what ``pearson`` would be for errors that are normal with exactly this
    spread, |e| = s |z|, since chance remains: c √(2/π) / √(c² + 1 − 2/π), with c the spread's
    standard deviation over its mean.

    A constant spread or error has no correlation and answers NaN.

    >>> import torch
    >>> spread_error_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([-1.0, 4, -9]))["spearman"]
    1.0
    """
    x, y = _chosen(spread.double(), mask), _chosen(error.double().abs(), mask)
    varies = float(x.std(correction=0) / x.mean()) or math.nan
    return {
        "pearson": _correlation(x, y),
        "pearson_ceiling": varies * (2 / math.pi / (varies**2 + 1 - 2 / math.pi)) ** 0.5,
        "spearman": _correlation(_ranks(x), _ranks(y)),
    }


def calibrate_scale(
    spread: Tensor, error: Tensor, level: float = 0.9, mask: Tensor | None = None
) -> float:
    """The least factor f with |error| <= f·spread at a share ``level`` of the (masked) pixels; to
    be fitted on validation patients only.

    Raises :class:`RunError` where no factor does it, because the spread is zero at too many wrong
    pixels.

    >>> import torch
    >>> calibrate_scale(torch.ones(10), torch.arange(10.0))
    8.0
    """
    ratio = _chosen(error.double().abs(), mask) / _chosen(spread.double(), mask)
    # no error where there is no spread is covered by any factor
    ratio = ratio.nan_to_num(nan=0.0, posinf=math.inf)
    scale = (
        float(ratio.kthvalue(max(1, math.ceil(level * len(ratio) - 1e-9))).values)
        if len(ratio)
        else math.inf
    )
    if math.isinf(scale):
        raise RunError(
            f"got a spread that is zero (or masked away) at more than {1 - level:.0%} of the "
            "pixels",
            "wanted a spread wherever there is an error",
            "draw more codes",
        )
    return scale


def _chosen(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.flatten() if mask is None else values[mask.expand(values.shape)]


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt())


def _ranks(x: Tensor) -> Tensor:
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place]
