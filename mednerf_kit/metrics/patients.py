"""What a few patients say of the next one: pure functions of one number a patient [P]."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

RESAMPLES = 2000
#: Standard errors by which a mean over patients is kept above a level: a bound of 95 %.
MARGIN_ERRORS = 1.645


def bootstrap_interval(
    values: Tensor, rng: Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13) of the mean over patients.

    Patients without a value (NaN) are left out; with fewer than two there is no interval.

    >>> bootstrap_interval(torch.full((5,), 3.0), Generator().manual_seed(0))
    (3.0, 3.0)
    """
    values = values[~values.isnan()].double()
    n = len(values)
    if n < 2:
        return None
    means = values[torch.randint(n, (resamples, n), generator=rng)].mean(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def conformal_quantile(scores: Tensor, level: float = 0.9) -> float | None:
    """The ⌈(n + 1)·level⌉-th smallest of n scores (Vovk et al. 2005; Lei et al. 2018).

    A new patient's score, exchangeable with these, is at most that with probability ``level`` or
    more. None where n patients cannot promise it: below 9 for 0.9.

    >>> conformal_quantile(torch.arange(1.0, 10.0)), conformal_quantile(torch.arange(8.0))
    (9.0, None)
    """
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(scores.kthvalue(rank).values) if rank <= len(scores) else None


def factor_for_coverage(ratios: Tensor, level: float = 0.9) -> float:
    """The least factor f with which patients' mean share of places with ratio ≤ f, less
    MARGIN_ERRORS of its standard errors, is ``level``.

    ``ratios`` [P, Q] are equally spaced quantiles of each patient's |error| over the half-width of
    an uncalibrated interval, so that every patient counts the same, however large. The standard
    error, of the mean over P patients, leaves a margin for those that were not seen: the mean over
    further patients falls short of ``level`` about once in twenty times, not every second (a
    confidence bound on a risk, after Bates et al. 2021).

    >>> factor_for_coverage(torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]), 0.75)
    3.0
    >>> factor_for_coverage(torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]), 0.75)
    40.0
    """
    candidates = ratios.flatten().sort().values
    low, high = 0, len(candidates) - 1  # the largest covers everything
    while low < high:
        middle = (low + high) // 2
        shares = (ratios <= candidates[middle]).double().mean(1)
        error = float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        if float(shares.mean()) - MARGIN_ERRORS * error >= level - 1e-9:
            high = middle
        else:
            low = middle + 1
    return float(candidates[low])
