"""The methods of a sparse-view comparison: each answers a volume of the same cube."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Generator

from ...core.config import Registry
from ...core.errors import UserError
from ...core.resampling import area_resized
from ...imaging.orbit_of_frames import views_in
from ...invert.members import Posterior
from ...invert.posterior import Inversion, inversion_of
from ...invert.update import Films, Update, updated_by
from ...prior.load import Prior, load_prior
from ...recon import rtk
from ...recon.fdk import fdk
from ...recon.field_volume import FieldVolume, bake, cylinder, voxel_centres
from ...recon.sart import sart
from ...scene.field_queries import finest_field
from ...scene.load import Fit
from .case import Case


class Method(Protocol):
    """How a volume is found; the options are the constructor's."""

    def __call__(self, case: Case) -> FieldVolume:
        """The patient's volume, [size, size, size]."""


#: Methods by the name that ``--method`` takes.
METHODS: Registry[Method] = Registry("tomography method")


@METHODS.register("fdk")
class Feldkamp:
    """Filtered back-projection (Feldkamp et al. 1984) with negative values cut.

    Options:
        cutoff: where the Hann window ends, as a share of the Nyquist frequency.
        extend: detector widths by which a row that the detector's edge cuts is continued.
    """

    def __init__(self, *, cutoff: float = 0.25, extend: float = 1.0) -> None:
        self.cutoff, self.extend = cutoff, extend

    def __call__(self, case: Case) -> FieldVolume:
        found = fdk(
            case.images, case.geometry, size=case.size, cutoff=self.cutoff, extend=self.extend
        )
        return found.with_values(found.values.clamp_min(0))


@METHODS.register("sart")
class Sart:
    """SART, one view after the other (Andersen & Kak 1984).

    Options:
        epochs: passes over all views.
        relax: share of each correction that is applied in the first pass.
        decay: factor on ``relax`` and ``smooth`` from pass to pass.
        smooth: weight of the total variation after each pass, in image value per field unit; 0
            leaves it out.
    """

    def __init__(
        self, *, epochs: int = 16, relax: float = 1.0, decay: float = 1.0, smooth: float = 0.0
    ) -> None:
        self.epochs, self.relax, self.decay, self.smooth = epochs, relax, decay, smooth

    def __call__(self, case: Case, start: FieldVolume | None = None) -> FieldVolume:
        return sart(
            case.images,
            case.geometry,
            size=case.size,
            epochs=self.epochs,
            subset_views=1,
            relax=self.relax,
            decay=self.decay,
            smooth=self.smooth,
            start=start,
        ).volume


@METHODS.register("sart_tv")
def sart_tv(
    *, epochs: int = 16, relax: float = 1.0, decay: float = 1.0, smooth: float = 0.003
) -> Method:
    """SART with a step towards less total variation after each pass (Sidky & Pan 2008).

    Options:
        epochs: passes over all views.
        relax: share of each correction that is applied in the first pass.
        decay: factor on ``relax`` and ``smooth`` from pass to pass.
        smooth: weight of the total variation after each pass, in image value per field unit; 0
            leaves it out.
    """
    return Sart(epochs=epochs, relax=relax, decay=decay, smooth=smooth)


@METHODS.register("rtk_fdk")
class RtkFeldkamp:
    """FDK of itk-rtk with negative values cut.

    Options:
        hann: where the Hann window ends, as a share of the Nyquist frequency.
        extend: share of a row by which RTK continues it where the detector's edge cuts it.
    """

    def __init__(self, *, hann: float = 0.25, extend: float = 0.0) -> None:
        self.hann, self.extend = hann, extend
        rtk.load()

    def __call__(self, case: Case) -> FieldVolume:
        found = rtk.fdk(
            case.images, case.geometry, size=case.size, hann=self.hann, extend=self.extend
        )
        return found.with_values(found.values.clamp_min(0))


@METHODS.register("rtk_sart")
class RtkSart:
    """SART of itk-rtk.

    Options:
        epochs: passes over all views.
        relax: share of each correction that is applied.
    """

    def __init__(self, *, epochs: int = 16, relax: float = 1.0) -> None:
        self.epochs, self.relax = epochs, relax
        rtk.load()

    def __call__(self, case: Case) -> FieldVolume:
        return rtk.sart(
            case.images, case.geometry, size=case.size, epochs=self.epochs, relax=self.relax
        )


@METHODS.register("field")
class TrainedField:
    """The field of a scene that was fitted to the same views, read at the voxels' centres."""

    def __init__(self, *, fit: Fit) -> None:
        self.fit = fit

    @torch.no_grad()
    def __call__(self, case: Case) -> FieldVolume:
        points, field = voxel_centres(case.size).view(-1, 3), finest_field(self.fit)
        values = torch.cat(
            [field.density(some.to(self.fit.device)).cpu() for some in points.split(1 << 17)]
        )
        inside = cylinder(case.size)
        return FieldVolume.of(values.view_as(inside) * inside, case.geometry)


@METHODS.register("prior")
class FromPrior:
    """SART that starts from what a generative prior makes of the views.

    Options:
        epochs: passes over all views; 0 is the answer of the prior alone.
        relax: share of each correction that is applied in the first pass.
        decay: factor on ``relax`` and ``smooth`` from pass to pass.
        smooth: weight of the total variation after each pass, in image value per field unit; 0
            leaves it out.
        samples: random members of the posterior beside the best guess; the start is their mean.
        update: bring the members to views of a known scale first, at the views' own resolution.
        seed: seed of the search.
    """

    def __init__(
        self,
        *,
        epochs: int = 16,
        relax: float = 1.0,
        decay: float = 1.0,
        smooth: float = 0.003,
        samples: int = 1,
        update: bool = True,
        seed: int = 0,
        prior: str,
    ) -> None:
        self.sart = Sart(epochs=epochs, relax=relax, decay=decay, smooth=smooth)
        self.samples, self.update = samples, update
        self.seed, self.prior = seed, prior

    def __call__(self, case: Case) -> FieldVolume:
        start = self.guess(case)
        return self.sart(case, start) if self.sart.epochs else start

    def guess(self, case: Case) -> FieldVolume:
        """The mean of the prior's patients that explain the views, on the scale of the views."""
        prior = load_prior(self.prior)
        prior.check_xray()
        wanted = prior.geometry
        if case.geometry.rows * wanted.cols != case.geometry.cols * wanted.rows:
            raise UserError(
                f"got pictures of {case.geometry.rows}×{case.geometry.cols}",
                f"wanted the prior's shape, {wanted.rows}×{wanted.cols}",
                "choose another --prior",
            )
        frames = views_in(wanted, case.geometry).view_frames if case.geometry.view_frames else ()
        small = area_resized(case.images, wanted.rows, wanted.cols)
        theirs, ours = case.geometry.line_integral_scale, prior.scale
        search = inversion_of(prior, Inversion, samples=self.samples)
        scale = theirs / ours if theirs and ours else 1.0
        # an orbit's field units are the prior's; views that stand on none are placed in mm
        field = replace(wanted, line_integral_scale=theirs) if frames else case.geometry
        posterior = search(
            prior,
            scale * small,
            torch.tensor(case.geometry.angles_deg),
            Generator().manual_seed(self.seed),
            view_frames=frames,
        )
        members = bake(prior.generator, posterior.code, field, size=case.size)
        if self.update and prior.is_line_integral and theirs and ours:
            films = Films.of(scale * case.images, has_scale=[True] * len(case.images))
            known = replace(
                posterior,
                angles_deg=torch.tensor(case.geometry.angles_deg),
                distance=case.geometry.distance,
                view_frames=frames,
            )
            members = self.brought_to(films, prior, known, members)
        mean = members.with_values(members.values.mean(0).cpu())
        seen = mean.project(case.geometry)
        factor = (seen * case.images).sum() / seen.square().sum().clamp_min(1e-9)
        mean = mean.with_values(mean.values * factor)
        return mean.in_units_of(case.geometry) if frames else mean

    def brought_to(
        self, films: Films, prior: Prior, known: Posterior, members: FieldVolume
    ) -> FieldVolume:
        """Members after the views, whose places are known here."""
        # field units are the same in both; the films are taken for the prior's in mm
        theirs = replace(members, unit_mm=prior.geometry.half_width_mm)
        rng = Generator().manual_seed(self.seed)
        found, _ = updated_by(prior, known, theirs, films, Update(), rng)
        return members.with_values(found.values)
