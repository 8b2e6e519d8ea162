"""From rendered line integrals to the grey values of a film: scatter, then an unknown tone curve.

The forward model is that of ``imaging/film`` with the curve and the scatter fitted:

    film = f(−ln(T + ratio · S) / scale),    S = K ∗ (T (1 − T)),    T = exp(−scale · u),

u being the rendered picture, K a broad kernel and f an :class:`UnknownCurve`. The gain is f's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.adam import Adam
from ..core.resampling import area_resized
from ..imaging.film.exposure import blurred
from ..imaging.film.unknown_curve import END, UnknownCurve
from ..imaging.geometry import DEFAULTS, Geometry

# Scatter to primary behind a thick object: log-normal, a grid or none at one end, a bedside film
# without one at the other.
RATIO_MEDIAN, RATIO_LOG_STD = 0.15, 1.0
KERNEL_MM = 60.0  # standard deviation at the detector
FIELD_PX = 16  # along a side of S, which is smooth
START_STEPS, START_RATE = 60, 0.15  # of Adam, on the curve of a candidate
SLOPE_STEP = 0.02  # image values on either side, over which a film's slope is taken
HALVINGS = 14  # of the range of line integrals, to less than 1e-4 of an image value
SIGMA_FLOOR = 0.015  # what a film's pixel is trusted to at best, in grey values


@dataclass(frozen=True)
class FilmResponse:
    """What a film shows of pictures of a prior; z [..., Q] holds log ratio and curve."""

    curve: UnknownCurve
    scale: float  # line integral of an image value of 1
    sigma_px: float  # of the kernel, in pixels of S

    @classmethod
    def of(cls, geometry: Geometry, device: torch.device) -> FilmResponse:
        """For pictures of a geometry; one without a scale has that of a chest."""
        scale = geometry.line_integral_scale or DEFAULTS["chest"].line_integral_scale
        assert scale is not None
        width_mm = geometry.cols * geometry.pixel_mm
        curve = UnknownCurve.of_real_curves().to(device)
        return cls(curve, scale, KERNEL_MM / width_mm * FIELD_PX)

    @property
    def parameters(self) -> int:
        """Q."""
        return 1 + self.curve.parameters

    def ratio(self, z: Tensor) -> Tensor:
        """Scatter to primary behind a thick object [...]."""
        return RATIO_MEDIAN * (RATIO_LOG_STD * z[..., 0]).exp()

    def scatter(self, u: Tensor) -> Tensor:
        """S from pictures u [..., FIELD_PX, FIELD_PX]."""
        primary = (-self.scale * u).exp()
        return blurred(primary * (1 - primary), self.sigma_px)

    def __call__(self, z: Tensor, u: Tensor, scatter: Tensor) -> Tensor:
        """Grey values [M, R] of u [M, R], given S there [M, R] and z [M, Q]."""
        primary = (-self.scale * u).exp()
        apparent = -(primary + self.ratio(z)[..., None] * scatter).log() / self.scale
        return self.curve(z[..., 1:], apparent)

    def start(self, u: Tensor, scatter: Tensor, grey: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """z [C, Q] that best turns the u [C, R] of each candidate into ``grey`` [R]; its cost [C].

        The cost is the mean squared error, and ``unit`` times its own share of |z|².
        """
        z = torch.zeros(len(u), self.parameters, device=u.device, requires_grad=True)
        adam = Adam([{"params": [z], "lr": START_RATE}])
        for step in range(START_STEPS):
            for group in adam.param_groups:
                group["lr"] = START_RATE * (0.5 + 0.5 * math.cos(math.pi * step / START_STEPS))
            mse = (self(z, u, scatter) - grey).square().mean(-1)
            cost = mse + unit * z.square().sum(-1)
            adam.zero_grad()
            cost.sum().backward()
            adam.step()
        return z.detach(), cost.detach()


def sampled(fields: Tensor, rows: int, cols: int) -> Tensor:
    """Coarse fields [M, n, h, w] at the pixels of pictures: [M, n, rows, cols]."""
    return interpolate(fields, (rows, cols), mode="bilinear", align_corners=False)


def grey_pictures(response: FilmResponse, z: Tensor, pictures: Tensor) -> Tensor:
    """What a film shows of whole pictures [M, rows, cols] by z [M, Q]: [M, rows, cols]."""
    rows, cols = pictures.shape[-2:]
    scatter = response.scatter(area_resized(pictures, FIELD_PX, FIELD_PX))
    at_pixels = sampled(scatter[:, None], rows, cols)[:, 0]
    return response(z, pictures.flatten(1), at_pixels.flatten(1)).view_as(pictures)


def line_integrals(
    response: FilmResponse, z: Tensor, film: Tensor, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """What a film [rows, cols] says of the line integrals u [M, rows, cols], and its slope there.

    u solves response(z, u, S) = film by bisection, with S the scatter of ``pictures`` [M, rows,
    cols]; what is darker or brighter than the curve by z [M, Q] reaches gets the nearer end of it,
    where the slope tells that it says nothing. The slope is by a central difference of the pixel
    alone. A step from f(picture) by the slope of the picture would overshoot wherever a picture
    lies in the toe or in the shoulder of the curve and the film does not.
    """
    rows, cols = pictures.shape[-2:]
    scatter = response.scatter(area_resized(pictures, FIELD_PX, FIELD_PX))
    at_pixels = sampled(scatter[:, None], rows, cols)[:, 0].flatten(1)
    wanted = film.flatten().expand_as(at_pixels)
    low, high = torch.zeros_like(at_pixels), torch.full_like(at_pixels, END)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = response(z, middle, at_pixels) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    u = (low + high) / 2
    above, below = (response(z, u + step, at_pixels) for step in (SLOPE_STEP, -SLOPE_STEP))
    return u.view_as(pictures), ((above - below) / (2 * SLOPE_STEP)).view_as(pictures)
