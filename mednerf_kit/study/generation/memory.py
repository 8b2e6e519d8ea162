"""Whether a generator copies its training patients: distances from samples to patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.resampling import area_resized

# orbits are compared at this size at most: copies are told by anatomy, not by pixels
LARGEST_PX = 64


def orbit_rmse(a: Tensor, b: Tensor) -> Tensor:
    """RMSE between orbits a [S, V, H, W] and b [P, V, H, W] at the same angles -> [S, P].

    >>> orbits = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 2, 4, 4)
    >>> orbit_rmse(torch.zeros(1, 2, 4, 4), orbits)
    tensor([[0.0000, 0.5000]])
    """
    a, b = (x.float() if max(x.shape[-2:]) <= LARGEST_PX else _reduced(x.float()) for x in (a, b))
    return torch.stack([(a - one).square().mean((1, 2, 3)).sqrt() for one in b], 1)


def nearest(
    samples: Tensor, orbits: Tensor, columns: Sequence[int], turns: Sequence[int] = (0,)
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest patient of each sample: its distance, its number, how far it is turned; [S] each.

    Samples [S, n, H, W] are compared at the views ``columns`` of orbits [P, V, H, W]. ``turns`` are
    the numbers of views by which a patient may be turned against a sample: a generator that was
    never told an angle has its own zero.
    """
    apart = torch.stack(
        [
            orbit_rmse(samples, orbits[:, [(c + turn) % orbits.shape[1] for c in columns]])
            for turn in turns
        ],
        1,
    )
    least, place = apart.flatten(1).min(1)
    return least, place % len(orbits), torch.tensor(turns)[place // len(orbits)]


def memorisation(
    samples: Tensor,
    training: Tensor,
    names: Sequence[str],
    columns: Sequence[int],
    *,
    unseen: Tensor | None = None,
    turns: Sequence[int] = (0,),
) -> dict[str, Any]:
    """Distances of samples to the nearest training patients, as ratios to those between patients.

    Samples [S, n, H, W] are seen at the views ``columns`` of the training orbits [P, V, H, W].
    ``patient_rmse`` is the median over training patients of the distance to the nearest other one.
    A ratio near 0 is a copy; ``unseen_ratio`` is the median ratio of patients the generator has not
    seen, which honest samples resemble. With fewer than two patients, or two alike, there is no
    ratio (None).

    >>> orbit = torch.tensor([0.0, 0.1, 0.3]).view(3, 1, 1, 1).expand(3, 2, 8, 8)
    >>> found = memorisation(orbit[:1] + 0.02, orbit, "abc", [0, 1])
    >>> found["nearest"][0]["patient"], round(found["ratio_least"], 6)
    ('a', 0.2)
    """
    columns = list(columns)
    apart = orbit_rmse(training[:, columns], training[:, columns]).fill_diagonal_(torch.inf)
    typical = float(apart.min(1).values.median()) if len(training) > 1 else 0.0
    scale = 1 / typical if typical > 0 else None
    distance, which, turn = nearest(samples, training, columns, turns)
    others = None if unseen is None else nearest(unseen[:, columns], training, columns)[0]
    entries = [
        {
            "sample": i,
            "patient": names[k],
            "rmse": d,
            "ratio": d * scale if scale else None,
            "turned_views": t,
        }
        for i, (d, k, t) in enumerate(
            zip(distance.tolist(), which.tolist(), turn.tolist(), strict=True)
        )
    ]
    return {
        "patient_rmse": typical if scale else None,
        "ratio_median": float(distance.median()) * scale if scale else None,
        "ratio_least": float(distance.min()) * scale if scale else None,
        "unseen_ratio": float(others.median()) * scale if scale and others is not None else None,
        "n_patients": len(training),
        "n_views": len(columns),
        "nearest": entries,
    }


def _reduced(x: Tensor) -> Tensor:
    rows, cols = x.shape[-2:]
    scale = LARGEST_PX / max(rows, cols)
    return area_resized(x, max(1, round(rows * scale)), max(1, round(cols * scale)))
