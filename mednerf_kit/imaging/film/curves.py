"""Tone curves: from the logarithm of a film's exposure to its grey value.

A curve is called with u in [0, 1] [..., H, W], the apparent line integral over its scale: 0 is the
open beam, 1 the densest ray. It answers with grey values in [0, 1], bone bright, that never fall
where u rises. Every curve keeps 0 and 1, up to what it clips. Apart from ``equalised``, which reads
the histogram, they are point functions and differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...core.config import Registry
from ...core.errors import UserError


class Curve(Protocol):
    """From u in [0, 1] to grey values in [0, 1]; monotone, bone bright."""

    def __call__(self, u: Tensor) -> Tensor: ...


CURVES: Registry[Curve] = Registry("tone curve")


@CURVES.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear:
    """No tone curve: a picture of line integrals.

    >>> Linear()(torch.tensor([0.0, 0.25, 1.0])).tolist()
    [0.0, 0.25, 1.0]
    """

    def __call__(self, u: Tensor) -> Tensor:
        return u


@CURVES.register("gamma")
@dataclass(frozen=True, kw_only=True)
class Gamma:
    """A power of the line integral, y = u^gamma.

    >>> Gamma(gamma=2.0)(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0.0, 0.25, 1.0]

    Options:
        gamma: below 1 soft tissue is brightened, above 1 bone stands out.
    """

    gamma: float = 1.6

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma)

    def __call__(self, u: Tensor) -> Tensor:
        # the slope of a root is infinite at 0
        return u.clamp_min(1e-12) ** self.gamma if self.gamma < 1 else u**self.gamma


@CURVES.register("sigmoid")
@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """The characteristic curve of film: density is a logistic function of the log exposure.

    y = (s(u) − s(0)) / (s(1) − s(0)) with s(u) = 1 / (1 + exp(−slope (u − centre))), after Hurter
    and Driffield (1890); it is DICOM's SIGMOID VOI LUT function too (PS3.3 C.11.2.1.3.1).

    >>> y = Sigmoid(centre=0.5)(torch.tensor([0.0, 0.5, 0.7, 1.0]))
    >>> [round(v, 2) for v in y.tolist()]
    [0.0, 0.5, 0.82, 1.0]

    Options:
        slope: steepness, per unit of u; the contrast in the middle is a quarter of it.
        centre: u of the steepest place.
    """

    slope: float = 7.0
    centre: float = 0.4

    def __post_init__(self) -> None:
        _positive("slope", self.slope)

    def __call__(self, u: Tensor) -> Tensor:
        low, high = (1 / (1 + math.exp(-self.slope * (end - self.centre))) for end in (0.0, 1.0))
        return (torch.sigmoid(self.slope * (u - self.centre)) - low) / (high - low)


@CURVES.register("toe_shoulder")
@dataclass(frozen=True, kw_only=True)
class ToeShoulder:
    """A straight line between a rounded toe and a rounded shoulder, as film and CR tables have.

    y ∝ softplus((u − toe) / softness) − softplus((u − shoulder) / softness), brought to [0, 1].

    >>> y = ToeShoulder(toe=0.2, shoulder=0.8, softness=0.02)(torch.tensor([0.1, 0.5, 0.9]))
    >>> [round(v, 2) for v in y.tolist()]
    [0.0, 0.5, 1.0]

    Options:
        toe: u below which the curve is flat.
        shoulder: u above which it is flat again.
        softness: width of either bend, in u.
    """

    toe: float = 0.12
    shoulder: float = 0.75
    softness: float = 0.05

    def __post_init__(self) -> None:
        _positive("softness", self.softness)
        _rising("toe", self.toe, "shoulder", self.shoulder)

    def __call__(self, u: Tensor) -> Tensor:
        ends = self._ramp(u.new_tensor([0.0, 1.0]))
        return (self._ramp(u) - ends[0]) / (ends[1] - ends[0])

    def _ramp(self, u: Tensor) -> Tensor:
        softplus = torch.nn.functional.softplus
        return softplus((u - self.toe) / self.softness) - softplus(
            (u - self.shoulder) / self.softness
        )


@CURVES.register("window")
@dataclass(frozen=True, kw_only=True)
class Window:
    """A window: black below ``low``, white above ``high``, linear between.

    y = clip((u − low) / (high − low)), as DICOM's LINEAR_EXACT VOI LUT function (PS3.3
    C.11.2.1.3.2).

    >>> Window(low=0.25, high=0.75)(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]

    Options:
        low: u that becomes black.
        high: u that becomes white.
    """

    low: float = 0.1
    high: float = 0.7

    def __post_init__(self) -> None:
        _rising("low", self.low, "high", self.high)

    def __call__(self, u: Tensor) -> Tensor:
        return ((u - self.low) / (self.high - self.low)).clamp(0, 1)


@CURVES.register("transmission")
@dataclass(frozen=True, kw_only=True)
class Transmission:
    """The transmitted intensity itself, shown without a logarithm and inverted.

    y = (1 − exp(−depth u)) / (1 − exp(−depth)), Beer and Lambert's law: raw detector values.

    >>> y = Transmission(depth=math.log(4))(torch.tensor([0.0, 0.5, 1.0]))
    >>> [round(v, 4) for v in y.tolist()]
    [0.0, 0.6667, 1.0]

    Options:
        depth: line integral of u = 1.
    """

    depth: float = 4.0

    def __post_init__(self) -> None:
        _positive("depth", self.depth)

    def __call__(self, u: Tensor) -> Tensor:
        return _exponential(u, -self.depth)


@CURVES.register("light_box")
@dataclass(frozen=True, kw_only=True)
class LightBox:
    """A film on a light box, photographed: the camera's gamma of the luminance 10^(−D).

    The film's density D falls by ``density`` from u = 0 to u = 1, hence
    y = (10^(k u) − 1) / (10^k − 1) with k = density / gamma.

    >>> y = LightBox(density=1.0, gamma=1.0)(torch.tensor([0.0, 0.5, 1.0]))
    >>> [round(v, 3) for v in y.tolist()]
    [0.0, 0.24, 1.0]

    Options:
        density: range of optical density on the film.
        gamma: of the camera; 2.2 is nearly that of sRGB.
    """

    density: float = 2.0
    gamma: float = 2.2

    def __post_init__(self) -> None:
        _positive("density", self.density)
        _positive("gamma", self.gamma)

    def __call__(self, u: Tensor) -> Tensor:
        return _exponential(u, math.log(10) * self.density / self.gamma)


@CURVES.register("gsdf")
@dataclass(frozen=True, kw_only=True)
class Gsdf:
    """A film on a light box as the eye sees it: just noticeable differences above black.

    Luminance L = luminance · 10^(−D) with the density D falling linearly from ``darkest`` to
    ``brightest``; y is the JND index j(L) of DICOM's greyscale standard display function (PS3.14,
    equation 2), brought to [0, 1]. What prints for the eye stores these values.

    >>> y = Gsdf()(torch.tensor([0.0, 0.5, 1.0]))
    >>> [round(v, 2) for v in y.tolist()]
    [0.0, 0.38, 1.0]

    Options:
        luminance: of the light box, cd/m².
        darkest: optical density of u = 0.
        brightest: optical density of u = 1.
    """

    luminance: float = 2000.0
    darkest: float = 3.0
    brightest: float = 0.2

    def __post_init__(self) -> None:
        _positive("luminance", self.luminance)
        _rising("brightest", self.brightest, "darkest", self.darkest)
        darkest, brightest = self._log_luminance(torch.tensor([0.0, 1.0])).tolist()
        if darkest < math.log10(0.05) or brightest > math.log10(4000):
            raise UserError(
                f"got a film of {10**darkest:.3g} to {10**brightest:.3g} cd/m²",
                "wanted 0.05 to 4000 cd/m², where the standard display function is defined",
                "correct luminance, darkest or brightest",
            )

    def __call__(self, u: Tensor) -> Tensor:
        ends = jnd_index(self._log_luminance(u.new_tensor([0.0, 1.0])))
        return (jnd_index(self._log_luminance(u)) - ends[0]) / (ends[1] - ends[0])

    def _log_luminance(self, u: Tensor) -> Tensor:
        return math.log10(self.luminance) - (self.darkest + (self.brightest - self.darkest) * u)


@CURVES.register("equalised")
@dataclass(frozen=True, kw_only=True)
class Equalised:
    """Histogram equalisation: y = (1 − strength) u + strength · F(u).

    F is the picture's own cumulative distribution [..., H, W], linear within a bin; the open beam
    (u below 0.02) is not counted, for it would take half of the grey values.

    >>> Equalised(strength=1.0, bins=2)(torch.tensor([[0.25, 0.25, 0.25, 0.75]])).tolist()
    [[0.375, 0.375, 0.375, 0.875]]

    Options:
        strength: share of the equalised picture; 1 is full equalisation.
        bins: of the histogram.
    """

    strength: float = 0.7
    bins: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1 or self.bins < 2:
            raise UserError(
                f"got a strength of {self.strength:g} and {self.bins} bins",
                "wanted a strength in [0, 1] and at least two bins",
                "correct them",
            )

    def __call__(self, u: Tensor) -> Tensor:
        flat = u.reshape(-1, u.shape[-2] * u.shape[-1])
        whole = torch.stack([self._equalised(picture) for picture in flat]).reshape(u.shape)
        return torch.lerp(u, whole, self.strength)

    def _equalised(self, u: Tensor) -> Tensor:
        """F(u) of one picture [H·W]."""
        counted = u[u > OPEN_BEAM]
        if not len(counted):
            return u
        counts = torch.histc(counted.detach(), self.bins, 0.0, 1.0)
        total = torch.cat([counts.new_zeros(1), counts.cumsum(0)]) / counts.sum()
        place = u * self.bins
        below = place.floor().clamp(0, self.bins - 1)
        index = below.long()
        return total[index] + (total[index + 1] - total[index]) * (place - below)


#: What is taken for the open beam by a histogram, in u.
OPEN_BEAM = 0.02


def jnd_index(log10_luminance: Tensor) -> Tensor:
    """The index of just noticeable differences at a luminance: DICOM PS3.14, equation 2.

    ``log10_luminance`` is of cd/m², between 0.05 and 4000.

    >>> [round(float(jnd_index(torch.tensor(v).log10()))) for v in (0.05, 100.0, 3993.4)]
    [1, 476, 1023]
    """
    total = torch.zeros_like(log10_luminance)
    for coefficient in reversed(JND_COEFFICIENTS):
        total = total * log10_luminance + coefficient
    return total


#: A to I of DICOM PS3.14, equation 2, by rising power of log10(luminance).
JND_COEFFICIENTS = (
    71.498068,
    94.593053,
    41.912053,
    9.8247004,
    0.28175407,
    -1.1878455,
    -0.18014349,
    0.14710899,
    -0.017046845,
)


def _exponential(u: Tensor, k: float) -> Tensor:
    """(exp(k u) − 1) / (exp(k) − 1): convex for k above 0, concave below."""
    return torch.expm1(k * u) / math.expm1(k)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"got a {name} of {value:g}", "wanted a number above 0", f"correct {name}")


def _rising(low_name: str, low: float, high_name: str, high: float) -> None:
    if not low < high:
        raise UserError(
            f"got {low_name} {low:g} and {high_name} {high:g}",
            f"wanted {low_name} below {high_name}",
            "correct them",
        )
