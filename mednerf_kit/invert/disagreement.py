"""Where a prior and a film disagree before the film corrects it, in standard deviations.

The innovation r = y − A x of a posterior's members (:mod:`.update`) is looked at through filters
F_s of nodules (a difference of Gaussians) and of opacities (a wide Gaussian):

    z = mean(F_s r) / √(var(F_s r) + m_s²),

with mean and variance over members, and m_s the root mean square of mean(F_s r) that validation
patients have inside the body. The z of largest |z| over s is kept. A region beyond what such
patients reach is something that the prior does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..imaging.film.exposure import blurred
from ..imaging.geometry import Geometry

#: Standard deviations at the isocentre of the Gaussian of each F_s, and of the one subtracted.
FILTERS_MM = ((4.0, 12.0), (20.0, None))
#: m_s in image values and the largest |z|, where a prior's own were not fitted: those of phantoms
#: that the phantom prior of chests was not trained on.
DEFAULT_MISFIT = (0.010, 0.014)
DEFAULT_LIMIT = 7.0
#: Share of a blur's weight that has to lie on pixels that count.
LEAST_COVERED = 0.3
#: Image values above which a pixel lies in the body.
BODY = 0.03


@dataclass(frozen=True)
class Misfit:
    """What films of patients like those in training leave unexplained."""

    rms: tuple[float, ...] = DEFAULT_MISFIT  # m_s, image values
    limit: float = DEFAULT_LIMIT  # |z| that a region must exceed to be named
    fitted: bool = False  # on validation patients of the prior

    @classmethod
    def of(cls, known: Mapping[str, Any] | None) -> Misfit:
        """That of a prior's calibration, or the default."""
        return cls() if not known else cls(tuple(known["rms"]), float(known["limit"]), True)

    @classmethod
    def fit(cls, patients: Sequence[Sequence[Sequence[float]]]) -> Misfit:
        """From the :func:`levels` of each validation patient."""
        count = len(patients)
        rms = tuple(
            (sum(one[s][0] ** 2 for one in patients) / count) ** 0.5 for s in range(len(FILTERS_MM))
        )
        limit = max(one[s][1] / rms[s] for one in patients for s in range(len(FILTERS_MM)))
        return cls(rms, limit, True)

    def to_json(self) -> dict[str, Any]:
        """As ``calibration.json`` holds it."""
        return {"rms": list(self.rms), "limit": self.limit}


@dataclass(frozen=True)
class Region:
    """A place on a film where it disagrees with all that the prior holds for possible."""

    film: int
    x: float  # of its middle, in shares of the picture's width from the left
    y: float  # in shares of its height from above
    width_mm: float  # of a disc as large, at the isocentre
    z: float  # the largest, with its sign: positive where the film shows more attenuation

    @property
    def text(self) -> str:
        """Where it is and what it is like, in words."""
        more = "more" if self.z > 0 else "less"
        return (
            f"{more} attenuation, {abs(self.z):.1f} standard deviations, about {self.width_mm:.0f} "
            f"mm wide, {100 * self.x:.0f} % from the left and {100 * self.y:.0f} % "
            "from above"
        )


def filtered(
    values: Tensor, weights: Tensor, seen: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over members of F_s r [S, n, rows, cols], and the body [n, rows, cols].

    ``values`` [M, n, rows, cols] is r, ``weights`` [n, rows, cols] are zero where a pixel says
    nothing, ``seen`` [n, rows, cols] the mean of A x.
    """
    counted = (weights > 0).to(values)
    pixel_mm = 2 * geometry.half_width_mm / values.shape[-1]

    def smooth(sigma_mm: float) -> Tensor:
        share = blurred(counted, sigma_mm / pixel_mm)
        found = blurred(values * counted, sigma_mm / pixel_mm) / share.clamp_min(LEAST_COVERED)
        return torch.where(share >= LEAST_COVERED, found, 0.0)

    means, variances = [], []
    for sigma_mm, around_mm in FILTERS_MM:
        found = smooth(sigma_mm) - (0.0 if around_mm is None else smooth(around_mm))
        means.append(found.mean(0))
        variances.append(found.var(0, unbiased=len(found) > 1))
    return torch.stack(means), torch.stack(variances), (seen > BODY) & (counted > 0)


def standardised(mean: Tensor, variance: Tensor, misfit: Misfit) -> Tensor:
    """z [n, rows, cols] from the mean and the variance of each filter [S, n, rows, cols]."""
    known = torch.tensor(misfit.rms).to(mean)[:, None, None, None]
    z = mean / (variance + known.square()).sqrt()
    return z.gather(0, z.abs().argmax(0, keepdim=True))[0]


def levels(mean: Tensor, body: Tensor) -> tuple[tuple[float, float], ...]:
    """RMS and peak inside the body [n, rows, cols] of what each filter leaves [S, n, rows, cols].

    Both are zero of films without a body.
    """
    inside = [left[body] if bool(body.any()) else left.new_zeros(1) for left in mean]
    return tuple((float(left.square().mean().sqrt()), float(left.abs().amax())) for left in inside)


def regions_beyond(z: Tensor, limit: float, geometry: Geometry) -> list[Region]:
    """Connected regions of |z| > ``limit`` on films z [n, rows, cols], the strongest first."""
    from scipy import ndimage

    pixel_mm = 2 * geometry.half_width_mm / z.shape[-1]
    found = []
    for k, film in enumerate(z.cpu()):
        labels, count = ndimage.label((film.abs() > limit).numpy())
        for label in range(1, count + 1):
            own = torch.from_numpy(labels == label)
            y, x = own.nonzero().double().mean(0).add(0.5).tolist()
            values = film[own]
            found.append(
                Region(
                    film=k,
                    x=x / film.shape[1],
                    y=y / film.shape[0],
                    width_mm=2 * pixel_mm * float(own.sum() / torch.pi) ** 0.5,
                    z=float(values[values.abs().argmax()]),
                )
            )
    return sorted(found, key=lambda region: -abs(region.z))
