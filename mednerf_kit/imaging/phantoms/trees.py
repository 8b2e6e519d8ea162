"""Branching trees that reach everywhere in a solid: pulmonary vessels."""

from __future__ import annotations

import numpy as np

from .solids import Array, Segment, Solid


def vessel_tree(
    root: Array, targets: Array, *, tip_mm: float, reach: float = 0.45, exponent: float = 2.6
) -> list[Solid]:
    """A tree from ``root`` [3] to every target [N, 3].

    Each node walks part of the way to the mean of its targets and halves them.

    Radii follow Murray's law, r_parent^exponent = Σ r_child^exponent, from tips of ``tip_mm``;
    ``reach`` is the share of the way walked.
    """
    result: list[Solid] = []

    def grow(start: Array, group: Array) -> float:
        if len(group) == 1:
            result.append(Segment(start, group[0], tip_mm, 0.7 * tip_mm))
            return tip_mm
        fork = start + np.float32(reach) * (group.mean(0) - start)
        order = np.argsort(group[:, np.argmax(np.ptp(group, axis=0))], kind="stable")
        middle = len(group) // 2
        radii = [grow(fork, group[order[:middle]]), grow(fork, group[order[middle:]])]
        radius = float(sum(r**exponent for r in radii) ** (1 / exponent))
        result.append(Segment(start, fork, radius, radius))
        return radius

    grow(root.astype(np.float32), targets.astype(np.float32))
    return result


def scattered(solid: Solid, n: int, rng: np.random.Generator, *, margin_mm: float = 0.0) -> Array:
    """``n`` points [n, 3] inside a solid, at least ``margin_mm`` deep, evenly spread.

    Each is the best of a few candidates.
    """
    found: list[Array] = []
    while sum(map(len, found)) < 4 * n:
        candidates = rng.uniform(solid.lo, solid.hi, (16 * n, 3)).astype(np.float32)
        found.append(candidates[solid.distance(*candidates.T) < -margin_mm])
    pool = np.concatenate(found)
    chosen = [pool[0]]
    gap = np.full(len(pool), np.inf, np.float32)
    for _ in range(n - 1):
        gap = np.minimum(gap, ((pool - chosen[-1]) ** 2).sum(1))
        among = rng.integers(0, len(pool), 8)
        chosen.append(pool[among[np.argmax(gap[among])]])
    return np.stack(chosen)
