"""Random patients as numbers: how they are drawn, given the training patients' own numbers.

A prior describes its training patients' codes by one Gaussian, in whose coordinates (``eps``) they
have mean 0 and roughly unit covariance. Few patients do not fill that Gaussian: most of its
directions were never seen. The other ways of drawing stay where patients are, and may leave out
what is as good as one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..core.config import Registry
from ..core.errors import UserError

DRAWS: Registry[Draw] = Registry("draw")
LEAST_PATIENTS = 4  # with fewer to draw among, every draw is the Gaussian
TRIES = 64  # draws of one random patient, until one is far enough from all known ones


@dataclass(frozen=True)
class Likeness:
    """How alike patients are: as near as their places, [n, F] of numbers [n, latent_dim].

    >>> likeness = Likeness(lambda eps: 2 * eps, torch.tensor([[0.0], [1.0], [4.0]]))
    >>> likeness.least, likeness.to_nearest(torch.tensor([[1.5]]))
    (2.0, tensor([1.]))
    """

    place: Callable[[Tensor], Tensor]
    known: Tensor  # numbers [P, latent_dim] of the training patients

    @cached_property
    def places(self) -> Tensor:
        """Of the training patients, [P, F]."""
        return self.place(self.known)

    @cached_property
    def least(self) -> float:
        """How far the two nearest training patients are from each other."""
        return float(torch.pdist(self.places).min())

    def to_nearest(self, eps: Tensor) -> Tensor:
        """How far patients [n, latent_dim] are from the nearest training patient: [n]."""
        return torch.cdist(self.place(eps), self.places).min(1).values


class Draw(Protocol):
    """Draws the numbers [n, latent_dim] of n random patients.

    ``known`` [P, latent_dim] are those of the training patients; priors that were trained without
    patients have none. By default patients are as alike as their numbers are.
    """

    def __call__(
        self, known: Tensor, n: int, rng: Generator, likeness: Likeness | None = None
    ) -> Tensor: ...


@DRAWS.register("normal")
class Normal:
    """The prior's own Gaussian: independent standard normal numbers.

    Options:
        spread: factor on the numbers; below 1 patients are more alike.

    >>> Normal()(torch.zeros(0, 3), 2, Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """

    def __init__(self, *, spread: float = 1.0) -> None:
        self.spread = _positive("spread", spread)

    def __call__(
        self, known: Tensor, n: int, rng: Generator, likeness: Likeness | None = None
    ) -> Tensor:
        eps = torch.randn((n, known.shape[1]), generator=rng, device=rng.device)
        return self.spread * eps.to(known)


@DRAWS.register("bootstrap")
class SmoothedBootstrap:
    """A smoothed bootstrap with shrinkage (Silverman & Young 1987) about mixtures of patients.

    Of the training patients' numbers e_i with mean ē, a few are mixed with uniform weights w on the
    simplex, m = Σ w_i (e_i − ē) / |w|, whose covariance is the patients' own. Noise
    z = Σ g_i (e_i − ē) / √(P − 1) with g ~ N(0, 1) has the same covariance and stays in the plane
    of the patients. Then

        eps = ē + spread · (m + noise · z) / √(1 + noise²).

    Options:
        patients: how many are mixed; 1: each draw is one patient, with noise.
        noise: h, how much noise there is for one part of the mixture; the larger, the more normal.
            null: √(P / latent_dim), for the more patients there are, the better they fill a
            Gaussian.
        spread: factor on the distance from the mean; below 1 patients are more alike. What a
            generator blurs away its patients lack in distance: hence more than 1.

    >>> known = torch.eye(5)
    >>> copied = SmoothedBootstrap(patients=1, noise=0.0, spread=1.0)
    >>> copied(known, 2, Generator().manual_seed(0)).sum(1)
    tensor([1., 1.])
    """

    def __init__(
        self, *, patients: int = 2, noise: float | None = None, spread: float = 1.1
    ) -> None:
        if patients < 1 or (noise is not None and noise < 0):
            raise UserError(
                f"got patients {patients} and noise {noise} for a draw",
                "wanted at least 1 patient and a noise of at least 0",
                "correct the draw's options",
            )
        self.patients, self.noise = patients, noise
        self.spread = _positive("spread", spread)

    def __call__(
        self, known: Tensor, n: int, rng: Generator, likeness: Likeness | None = None
    ) -> Tensor:
        if len(known) < max(LEAST_PATIENTS, self.patients):
            return Normal(spread=self.spread)(known, n, rng)
        count = len(known)
        h = (count / known.shape[1]) ** 0.5 if self.noise is None else self.noise
        mean = known.mean(0)
        chosen = torch.rand((n, count), generator=rng, device=rng.device).argsort(1)
        # exponential numbers over their sum are uniform on the simplex
        weights = torch.empty((n, self.patients), device=rng.device).exponential_(generator=rng)
        weights = weights / weights.norm(dim=1, keepdim=True)
        noise = torch.randn((n, count), generator=rng, device=rng.device) * h
        mixture = (noise / (count - 1) ** 0.5).scatter_add(1, chosen[:, : self.patients], weights)
        factor = self.spread / (1 + h**2) ** 0.5
        return mean + factor * mixture.to(known) @ (known - mean)


@DRAWS.register("plane")
class PatientPlane:
    """The Gaussian of the training patients alone, in the plane that they span.

    Of their numbers e_i with mean ē, eps = ē + spread · Σ g_i (e_i − ē) / √(P − 1) with
    g ~ N(0, 1) has their mean, and ``spread`` squared times their covariance. A draw that is nearer
    to a training patient than ``apart`` times what the two nearest of these are from each other is
    as good as a copy: it is drawn again, and every time a little wider, for the fewer patients
    there are, the more of what lies between them is like one of them.

    Options:
        spread: factor on the distance from the mean; below 1 patients are more alike.
        wider: by what share of itself the spread grows each time a patient is drawn again.
        apart: how far from every training patient, as a multiple of how far the two nearest of
            these are from each other; 0: anywhere.

    >>> known = torch.eye(5)
    >>> drawn = PatientPlane(apart=0.5)(known, 20, Generator().manual_seed(0))
    >>> bool((torch.cdist(drawn, known) >= 0.5**0.5).all())  # 1/2 of √2
    True
    """

    def __init__(self, *, spread: float = 1.0, wider: float = 0.02, apart: float = 1.1) -> None:
        if min(wider, apart) < 0:
            raise UserError(
                f"got wider {wider:g} and apart {apart:g} for a draw",
                "wanted at least 0",
                "correct the draw's options",
            )
        self.spread, self.wider, self.apart = _positive("spread", spread), wider, apart

    def __call__(
        self, known: Tensor, n: int, rng: Generator, likeness: Likeness | None = None
    ) -> Tensor:
        if len(known) < LEAST_PATIENTS:
            return Normal()(known, n, rng)
        mean, count = known.mean(0), len(known)
        likeness = likeness or Likeness(lambda eps: eps, known)

        def once(tries: int = 0) -> Tensor:
            g = torch.randn((1, count), generator=rng, device=rng.device).to(known)
            spread = self.spread * (1 + self.wider) ** tries
            return mean + spread / (count - 1) ** 0.5 * g @ (known - mean)

        if not self.apart:
            return torch.cat([once() for _ in range(n)])
        least = self.apart * likeness.least
        return torch.cat([_far_enough(once, likeness, least) for _ in range(n)])


def _far_enough(once: Callable[[int], Tensor], likeness: Likeness, least: float) -> Tensor:
    """The first of TRIES draws that is at least so far away; the farthest where none is."""
    best = once(0)
    reached = float(likeness.to_nearest(best))
    for tries in range(1, TRIES):
        if reached >= least:
            break
        candidate = once(tries)
        if (far := float(likeness.to_nearest(candidate))) > reached:
            best, reached = candidate, far
    return best


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise UserError(
            f"got {name} {value:g} for a draw", "wanted one above 0", "correct the draw's options"
        )
    return value


#: How random patients are drawn where nothing else is asked for.
DEFAULT_DRAW: Draw = PatientPlane()
