"""Paired tests of two cells over the views or patients on which both were scored.

p-values are corrected for the number of tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .results import Result

# a two-sided signed-rank test of n pairs cannot give less than 2 / 2^n: below 0.05 from 6 on
LEAST_PAIRS = 6


@dataclass(frozen=True)
class Comparison:
    """A cell against its reference in one metric.

    p-values are two-sided, and None where there is nothing to test.
    """

    cell: str
    reference: str
    metric: str
    difference: float  # mean of cell − reference over the pairs
    ratio: float | None  # mean of the cell over mean of the reference
    n: int  # pairs
    # "view" or "patient", or "run" where the metric is known per run only: what was paired
    unit: str
    seeds: int  # over which every view's or patient's difference was averaged
    interval: tuple[float, float] | None = None  # 95 %, of the mean difference (t)
    wilcoxon: float | None = None
    t: float | None = None
    wilcoxon_holm: float | None = None
    t_holm: float | None = None


def paired(
    differences: Sequence[float],
) -> tuple[tuple[float, float] | None, float | None, float | None]:
    """95 % interval of the mean, p of Wilcoxon's signed-rank test, p of the paired t-test.

    Below 6 pairs all three are None. Without any difference both p-values are 1; with the same
    difference everywhere there is no t-test.

    >>> [round(p, 4) for p in paired([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[1:]]
    [0.0312, 0.0059]
    """
    from scipy import stats

    if len(differences) < LEAST_PAIRS:
        return None, None, None
    if not any(differences):
        return (0.0, 0.0), 1.0, 1.0
    rank = float(stats.wilcoxon(differences).pvalue)
    if max(differences) - min(differences) < 1e-12 * max(map(abs, differences)):
        return None, rank, None
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    return (float(low), float(high)), rank, float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of several p-values.

    The k-th smallest of m is multiplied by m − k + 1, and none falls below a smaller one.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - k) * p_values[i]))
        corrected[i] = least
    return corrected


def compare(results: Sequence[Result], cell: str, reference: str, metric: str) -> Comparison | None:
    """One comparison over everything both cells have finished; None when they share nothing.

    Pairs are views or patients (of all scenes), each averaged over the seeds both cells finished
    there; where the metric has no such scores, pairs are the runs of equal scene and seed, and
    nothing is tested: seeds are few, and scenes are no sample.
    """
    one, two = (
        {
            (r.cell.scene, r.cell.seed): r
            for r in results
            if r.status == "done" and r.cell.name == name
        }
        for name in (cell, reference)
    )
    shared = [key for key in one if key in two]
    both = [(key, one[key].scores, two[key].scores) for key in shared]
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (scene, _), a, b in both:
        for name in a.units:
            if metric in a.units[name] and metric in b.units.get(name, {}):
                pairs.setdefault((scene, name), []).append(
                    (a.units[name][metric], b.units[name][metric])
                )
    counts = {scene: sum(key[0] == scene for key in shared) for scene, _ in shared}
    whole = [values for (scene, _), values in pairs.items() if len(values) == counts[scene]]
    unit, seeds = next((a.unit for _, a, _ in both if a.unit), ""), max(counts.values(), default=0)
    if not whole:
        whole = [
            [(a.metrics[metric], b.metrics[metric])]
            for _, a, b in both
            if metric in a.metrics and metric in b.metrics
        ]
        unit, seeds = "run", 1
    if not whole:
        return None
    means = [
        tuple(math.fsum(side) / len(side) for side in zip(*values, strict=True)) for values in whole
    ]
    differences = [a - b for a, b in means]
    mean_a, mean_b = (math.fsum(side) / len(means) for side in zip(*means, strict=True))
    interval, wilcoxon, t = (None, None, None) if unit == "run" else paired(differences)
    ratio = mean_a / mean_b if mean_b else None
    return Comparison(
        cell,
        reference,
        metric,
        mean_a - mean_b,
        ratio,
        len(means),
        unit,
        seeds,
        interval,
        wilcoxon,
        t,
    )


def compare_all(
    results: Sequence[Result], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[Comparison]:
    """Every comparison in every metric, p-values corrected over all of them.

    Each kind of test is corrected on its own.
    """
    found = [
        compare(results, cell, reference, metric) for cell, reference in pairs for metric in metrics
    ]
    rows = [row for row in found if row is not None]
    ranks, means = _corrected([row.wilcoxon for row in rows]), _corrected([row.t for row in rows])
    return [
        replace(row, wilcoxon_holm=w, t_holm=t)
        for row, w, t in zip(rows, ranks, means, strict=True)
    ]


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of those that are there."""
    left = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(left) for p in p_values]
