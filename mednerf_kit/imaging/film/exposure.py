"""Films from line integrals: a beam, scatter, quantum noise, a tone curve, and what lies on a film.

With p the line integral over its scale and T the transmission (``beam.py``),

    P = A · T(p),   S = ratio · K ∗ (P (1 − T)),   I = gain · (P + S),
    I' = Poisson(photons · I) / photons,   film = f(−ln I' / scale).

A is the aperture of the collimator, K a broad normalised kernel, f a tone curve (``curves.py``).
With the defaults the film is p itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ...core.errors import UserError, unknown_name
from .beam import MU_60_KEV_PER_MM, Beam
from .curves import CURVES, Curve, Linear
from .overlays import IMPLANTS, aperture, letters

METALS = ("titanium", "iron")
LEAKAGE = 1e-3  # transmitted by a collimator's blades


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """How a film is exposed, developed and labelled.

    Options:
        curve: tone curve from log exposure to grey values.
        beam: the tube's spectrum; None is a beam of one energy, exp(−p).
        gain: exposure, relative to that which makes the open beam black.
        scatter_ratio: scatter to primary behind a thick object of one thickness.
        scatter_mm: standard deviation of the scatter's kernel at the detector.
        photons: counted by a pixel in the open beam at gain 1; None leaves the noise out.
        local_contrast: share of contrast-limited adaptive equalisation (CLAHE) in the film.
        blades: how far the collimator reaches in from left, top, right and bottom, in shares.
        shutter: paint black what the blades cover, as workstations do; else it is white, unexposed.
        marker: lead letter in the upper right corner.
        caption: line of text burned into the lower edge.
        implant: shape of a piece of metal, None for none.
        implant_metal: what it is made of, titanium or iron.
    """

    curve: Curve = field(default_factory=Linear)
    beam: Beam | None = None
    gain: float = 1.0
    scatter_ratio: float = 0.0
    scatter_mm: float = 60.0
    photons: float | None = None
    local_contrast: float = 0.0
    blades: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    shutter: bool = False
    marker: str = ""
    caption: str = ""
    implant: str | None = None
    implant_metal: Literal["titanium", "iron"] = "titanium"

    def __post_init__(self) -> None:
        if self.implant_metal not in METALS:
            raise unknown_name("metal", self.implant_metal, METALS)
        if self.implant is not None and self.implant not in IMPLANTS.entries:
            raise unknown_name("implant", self.implant, IMPLANTS.entries)
        left, top, right, bottom = self.blades
        wanted = {
            "gain": self.gain > 0,
            "scatter_ratio": self.scatter_ratio >= 0,
            "scatter_mm": self.scatter_mm > 0,
            "photons": self.photons is None or self.photons > 0,
            "local_contrast": 0 <= self.local_contrast <= 1,
            "blades": min(self.blades) >= 0 and left + right < 1 and top + bottom < 1,
        }
        for name, holds in wanted.items():
            if not holds:
                raise UserError(
                    f"got a film with {name} {getattr(self, name)}",
                    "wanted a film that can be exposed",
                    f"correct {name}",
                )

    def to_json(self) -> dict[str, Any]:
        """All options, as a record of how a film was made.

        >>> FilmOptions(gain=2.0).to_json()["curve"]
        {'name': 'linear'}
        """
        known = asdict(self)
        return known | {"curve": {"name": CURVES.name_of(self.curve), **known["curve"]}}


@dataclass(frozen=True)
class Film:
    """A film, or a batch of films."""

    pixels: Tensor  # [..., H, W] in [0, 1], bone bright
    #: [H, W] bool, False under the collimator's blades and under letters
    mask: Tensor


def make_film(
    p_unit: Tensor,
    *,
    scale: float,
    pixel_mm: float,
    options: FilmOptions | None = None,
    rng: Generator | None = None,
    bone_unit: Tensor | None = None,
) -> Film:
    """Films of line integrals over their ``scale``, [..., H, W] in [0, 1].

    ``pixel_mm`` is the pixel pitch at the detector. ``bone_unit`` [..., H, W] is bone's part of
    ``p_unit``, which hardens the beam in another way than water; without it all is water. Line
    integrals become thicknesses by the coefficients at 60 keV. Differentiable in ``p_unit`` where
    no noise is asked for; ``rng`` is needed for noise alone.

    >>> p = torch.rand(2, 16, 16)
    >>> torch.allclose(make_film(p, scale=7.5, pixel_mm=4.0).pixels, p, atol=1e-6)
    True
    """
    options = options or FilmOptions()
    rows, cols = p_unit.shape[-2:]
    exposed = aperture(rows, cols, options.blades).to(p_unit.device)
    transmitted = _transmitted(p_unit, bone_unit, scale, pixel_mm, options)
    primary = transmitted * torch.where(exposed, 1.0, LEAKAGE)
    intensity = options.gain * (primary + _scatter(primary, transmitted, pixel_mm, options))
    if options.photons is not None:
        if rng is None:
            raise ValueError("a film with quantum noise needs an rng")
        # a pixel that counted nothing is as dark as one that counted half a photon
        counted = torch.poisson(options.photons * intensity, generator=rng).clamp_min(0.5)
        intensity = counted / options.photons
    pixels = options.curve((-intensity.log() / scale).clamp(0, 1))
    if options.local_contrast:
        pixels = torch.lerp(pixels, locally_equalised(pixels), options.local_contrast)
    if options.shutter:
        pixels = pixels * exposed
    mask = exposed
    if options.marker or options.caption:
        ink = letters(rows, cols, marker=options.marker, caption=options.caption).to(pixels)
        pixels = pixels + (1 - pixels) * ink
        mask = mask & (ink == 0)
    return Film(pixels, mask)


def locally_equalised(pixels: Tensor, *, tiles: int = 8, limit: float = 3.0) -> Tensor:
    """Contrast-limited adaptive histogram equalisation of pictures [..., H, W] in [0, 1].

    After Zuiderveld (Graphics Gems IV, 1994): each of ``tiles``² tiles is equalised with its
    histogram cut at ``limit`` times the mean, and the curves are interpolated between tiles. No
    point function: the same grey value becomes several.
    """
    from skimage.exposure import equalize_adapthist

    rows, cols = pixels.shape[-2:]
    flat = pixels.detach().clamp(0, 1).reshape(-1, rows, cols).double().cpu()
    kernel = (max(2, rows // tiles), max(2, cols // tiles))
    bins = 256
    found = [
        torch.from_numpy(
            equalize_adapthist(
                picture.numpy(), kernel_size=kernel, clip_limit=limit / bins, nbins=bins
            )
        )
        for picture in flat
    ]
    return torch.stack(found).reshape(pixels.shape).to(pixels)


def blurred(pictures: Tensor, sigma_px: float) -> Tensor:
    """Pictures [..., H, W] under a normalised Gaussian that counts only what is on the film.

    A uniform picture stays what it is, up to the border.
    """
    down, across = (
        _gaussian_matrix(n, sigma_px).to(pictures) for n in (pictures.shape[-2], pictures.shape[-1])
    )
    return down @ pictures @ across.T


def _gaussian_matrix(n: int, sigma_px: float) -> Tensor:
    """A Gaussian blur along an axis as weights [n, n] whose rows sum to 1."""
    place = torch.arange(n, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / sigma_px) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _transmitted(
    p_unit: Tensor,
    bone_unit: Tensor | None,
    scale: float,
    pixel_mm: float,
    options: FilmOptions,
) -> Tensor:
    """T [..., H, W] behind the patient and an implant."""
    bone = torch.zeros_like(p_unit) if bone_unit is None else bone_unit
    depth = {"water": (p_unit - bone) * scale, "bone": bone * scale}
    if options.implant is not None:
        rows, cols = p_unit.shape[-2:]
        metal_mm = IMPLANTS[options.implant](rows=rows, cols=cols, pixel_mm=pixel_mm).to(p_unit)
        depth[options.implant_metal] = metal_mm * MU_60_KEV_PER_MM[options.implant_metal]
    if options.beam is None:
        return torch.exp(-sum(depth.values(), torch.zeros_like(p_unit)))
    return options.beam.transmission(
        {name: values / MU_60_KEV_PER_MM[name] for name, values in depth.items()}
    )


def _scatter(
    primary: Tensor, transmitted: Tensor, pixel_mm: float, options: FilmOptions
) -> Tensor | float:
    """S [..., H, W]: what rays that meet the patient scatter, spread over the film.

    A ray scatters in proportion to the share of it that interacts, 1 − T, and to what is left of
    it, P: air scatters nothing, a thick object ``scatter_ratio`` of its primary.
    """
    if not options.scatter_ratio:
        return 0.0
    source = primary * (1 - transmitted)
    return options.scatter_ratio * blurred(source, options.scatter_mm / pixel_mm)
