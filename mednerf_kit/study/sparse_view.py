"""``mednerf-kit tomography``: one patient from few views, by every method at hand, scored on all
the views that were left out.

A method is a class in :data:`METHODS` that answers a volume; everything else is the same for all:
the pictures freed of their views' gains, the grid (the cube ±1.4 half-widths), the projector that
shows the volume from the held-out angles, the scores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from .. import DISCLAIMER
from ..core import config
from ..core.config import Registry
from ..core.errors import UserError
from ..core.resampling import area_resized
from ..data.posed.orbit import OrbitScene
from ..imaging.geometry import Geometry, interpolated_by_angle
from ..imaging.volume import files_at_hand
from ..invert.fine_tuning import inversion_of
from ..invert.posterior import Inversion
from ..metrics import image as image_metrics
from ..metrics.volume import volume_errors
from ..prior import load as prior_load
from ..prior.training_volumes import scaled_by_view
from ..recon import rtk
from ..recon.fdk import fdk
from ..recon.field_volume import FieldVolume, bake, cylinder, voxel_axis, voxel_centres
from ..recon.opening_angle import fov_curve, peak
from ..recon.sart import sart
from ..scene.load import Fit, finest_field, load_fit

# a side of the grid on which gains are found: few unknowns, so that views cannot hide them
GAIN_VOXELS = 40
GAIN_RULE = (
    "Gains of a set that was scaled view by view are found once, from the training views alone, "
    "and taken out of the pictures "
    "that every method gets (a trained scene has fitted its own). A held-out view is predicted "
    "with the gain interpolated "
    "between its two neighbours in angle; psnr_gain_fitted_db uses its least-squares gain "
    "instead. Sets of one scale have gain 1."
)


@dataclass(frozen=True)
class Case:
    """One patient: what the methods are given, and what is kept apart."""

    name: str
    images: Tensor  # [N, rows, cols] training views, freed of their gains
    geometry: Geometry  # at their N angles
    # [N] picture over line integral, about 1 on average; ones where the set has one scale
    gains: Tensor
    held: Tensor  # [H, rows, cols] as stored
    held_geometry: Geometry
    held_stems: tuple[str, ...]
    truth: FieldVolume | None  # [size, size, size] of the CT, where there is one
    size: int
    scaled_by_view: bool
    notes: tuple[str, ...]

    def shown(self, volume: FieldVolume) -> Tensor:
        """A volume from the held-out angles, with the gains expected there: [H, rows, cols]."""
        gains = interpolated_by_angle(
            self.gains, self.geometry.angles_deg, self.held_geometry.angles_deg
        )
        return volume.project(self.held_geometry) * gains[:, None, None]


class Method(Protocol):
    """How a volume is found; the options are the constructor's."""

    def __call__(self, case: Case) -> FieldVolume:
        """The patient's volume, [size, size, size]."""


METHODS: Registry[Method] = Registry("tomography method")


@METHODS.register("fdk")
class Feldkamp:
    """Filtered back-projection (Feldkamp et al. 1984), rows continued beyond the detector, negative
    values cut.
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
    """SART, one view after the other (Andersen & Kak 1984)."""

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
    """SART with a step towards less total variation after each pass (Sidky & Pan 2008)."""
    return Sart(epochs=epochs, relax=relax, decay=decay, smooth=smooth)


@METHODS.register("rtk_fdk")
class RtkFeldkamp:
    """FDK of itk-rtk, negative values cut."""

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
    """SART of itk-rtk."""

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
    """SART that starts from what a generative prior makes of the views; ``epochs`` 0 is the prior's
    answer alone.
    """

    def __init__(
        self,
        *,
        epochs: int = 16,
        relax: float = 1.0,
        decay: float = 1.0,
        smooth: float = 0.0,
        samples: int = 1,
        seed: int = 0,
        prior: str,
    ) -> None:
        self.sart = Sart(epochs=epochs, relax=relax, decay=decay, smooth=smooth)
        self.samples, self.seed, self.prior = samples, seed, prior

    def __call__(self, case: Case) -> FieldVolume:
        start = self.guess(case)
        return self.sart(case, start) if self.sart.epochs else start

    def guess(self, case: Case) -> FieldVolume:
        """The mean of the prior's patients that explain the views, on the scale of the views."""
        prior = prior_load.load_prior(self.prior)
        prior.check_xray()
        wanted = prior.geometry
        if case.geometry.rows * wanted.cols != case.geometry.cols * wanted.rows:
            raise UserError(
                f"got pictures of {case.geometry.rows}×{case.geometry.cols}",
                f"wanted the prior's shape, {wanted.rows}×{wanted.cols}",
                "choose another --prior",
            )
        small = area_resized(case.images, wanted.rows, wanted.cols)
        theirs, ours = case.geometry.line_integral_scale, prior.scale
        search = inversion_of(prior, Inversion, samples=self.samples)
        scale = theirs / ours if theirs and ours else 1.0
        posterior = search(
            prior,
            scale * small,
            torch.tensor(case.geometry.angles_deg),
            Generator().manual_seed(self.seed),
        )
        members = bake(prior.generator, posterior.code, case.geometry, size=case.size)
        mean = members.with_values(members.values.mean(0).cpu())
        seen = mean.project(case.geometry)
        factor = (seen * case.images).sum() / seen.square().sum().clamp_min(1e-9)
        return mean.with_values(mean.values * factor)


def read_case(
    dataset: str,
    *,
    patient: str | None,
    views: int,
    fov_deg: float | None,
    fit_fov: bool,
    size: int,
) -> Case:
    """One patient's orbit, ``views`` of it evenly spaced to reconstruct from, all others held
    out.
    """
    if size < image_metrics.SSIM_WINDOW_PX:
        raise UserError(
            f"got a size of {size} voxels",
            f"wanted at least {image_metrics.SSIM_WINDOW_PX}",
            "raise --size",
        )
    root = Path(dataset).expanduser()
    reader = OrbitScene(patient=patient, fov_deg=fov_deg)
    orbits = reader.read(root)
    geometry, count, notes = orbits.geometry, orbits.geometry.views, list(orbits.notes)
    if geometry.axis != "z" or geometry.tilt_deg:
        raise UserError(
            f"got an orbit about {geometry.axis}, tilted by {geometry.tilt_deg:g}°",
            "wanted one about z without tilt",
            "choose another set",
        )
    if not 1 <= views < count:
        raise UserError(
            f"got {views} of {count} views",
            "wanted at least one, and one left to score with",
            "correct --views",
        )
    given, held = (reader.of_split(count, split, views, root) for split in ("train", "test"))
    pictures = orbits.images[0].float()
    name, by_view = orbits.patients[0], scaled_by_view(orbits)
    angles = torch.tensor(geometry.angles_deg)
    if fit_fov:
        fov, _ = peak(fov_curve(pictures[given], geometry.at(angles[given].tolist())))
        geometry = geometry.with_fov(fov)
        notes.append(f"opening angle {fov:.1f}°, fitted to the {views} views")
    given_geometry = geometry.at(angles[given].tolist())
    gains = view_gains(pictures[given], given_geometry) if by_view else torch.ones(views)
    truth = None
    if geometry.line_integral_scale is not None and name in orbits.volumes and files_at_hand():
        truth = FieldVolume.from_ct(str(orbits.volumes[name]), geometry, size=size)
    stems = tuple(f"xray_{k:03d}" for k in held)  # as the scene reader calls them
    return Case(
        name,
        pictures[given] / gains[:, None, None],
        given_geometry,
        gains,
        pictures[held],
        geometry.at(angles[held].tolist()),
        stems,
        truth,
        size,
        by_view,
        tuple(notes),
    )


def view_gains(images: Tensor, geometry: Geometry) -> Tensor:
    """Gains [N] of pictures [N, rows, cols] that were scaled one by one: with them one coarse,
    smooth volume explains all.
    """
    found = sart(
        images,
        geometry,
        size=GAIN_VOXELS,
        epochs=16,
        subset_views=1,
        relax=1.0,
        decay=0.9,
        smooth=0.01,
        fit_gains=True,
    )
    return found.gains


def seen_by_all(size: int, distance: float) -> Tensor:
    """The voxels of a FieldVolume's cube that lie in every view's cone, bool [size, size, size] (square
    pictures).

    At radius r from the axis: r ≤ D / sqrt(1 + D²) and |z| ≤ (D − r) / D, in field units.
    """
    line = voxel_axis(size)
    radius = (line[:, None] ** 2 + line**2).sqrt()
    return (radius <= distance / (1 + distance**2) ** 0.5) & (
        line.abs()[:, None, None] <= (distance - radius) / distance
    )


def scores(case: Case, volume: FieldVolume) -> tuple[dict[str, Any], Tensor]:
    """What a volume is worth, JSON-ready, and its held-out views [H, rows, cols]."""
    shown = case.shown(volume)
    psnr, ssim = (
        image_metrics.psnr_db(shown.clamp(0, 1), case.held),
        image_metrics.ssim(shown.clamp(0, 1), case.held),
    )
    found: dict[str, Any] = {"psnr_db": float(psnr.mean()), "ssim": float(ssim.mean())}
    if case.scaled_by_view:
        found["psnr_gain_fitted_db"] = float(
            image_metrics.gain_fitted_psnr_db(shown, case.held).mean()
        )
    if case.truth is not None:
        mask = seen_by_all(case.size, case.geometry.distance)
        truth = case.truth.values
        top = float(truth[mask].max())
        found |= volume_errors(volume.values, truth, top, mask=mask)
        found["mae"] = found["mae"] / top
    found["per_view_psnr_db"] = [round(v, 3) for v in psnr.tolist()]
    return found, shown


def chosen_methods(names: Sequence[str], *, run: str | None, prior: str | None) -> list[str]:
    """The methods asked for, or all that can be run here; one that lacks what it needs is refused
    by name.
    """
    missing = {"field": run is None, "prior": prior is None}
    missing |= {name: not rtk.installed() for name in ("rtk_fdk", "rtk_sart")}
    if not names:
        return [name for name in METHODS.entries if not missing.get(name)]
    for name in names:
        METHODS[name]
        if missing.get(name):
            wanted = {
                "field": "--run, a scene fitted to these views",
                "prior": "--prior, a run or bundled:chest",
            }
            raise UserError(
                f"got method '{name}'",
                f"wanted {wanted.get(name, 'the package itk-rtk for it')}",
                "add it" if name in wanted else "pip install 'mednerf-kit[baselines]'",
            )
    return list(dict.fromkeys(names))


def refuse_other_views(fit: Fit, case: Case, dataset: str) -> None:
    """A scene that saw a held-out view, or another patient or opening angle, is no row of this
    table.
    """
    if not str(fit.meta["scene"]).endswith(f"-{case.name}"):
        raise UserError(
            f"got a run on scene '{fit.meta['scene']}'",
            f"wanted patient '{case.name}' of '{dataset}'",
            "choose another --run or --patient",
        )
    if set(case.held_stems) & set(fit.meta["stems"]):
        raise UserError(
            "got a run that was trained on views which are held out here",
            f"wanted the {len(case.images)} views",
            "train it with scene.views as --views",
        )
    opening = fit.scene("train").facts["geometry"].fov_deg
    if abs(opening - case.geometry.fov_deg) > 0.1:
        raise UserError(
            f"got a run at an opening angle of {opening:.1f}°",
            f"wanted {case.geometry.fov_deg:.1f}°",
            f"add --fov {opening:.1f}",
        )


def compare(
    *,
    dataset: str,
    out: Path,
    patient: str | None = None,
    views: int = 18,
    run: str | None = None,
    prior: str | None = None,
    methods: Sequence[str] = (),
    settings: Sequence[str] = (),
    size: int = 96,
    fov_deg: float | None = None,
    fit_fov: bool = False,
) -> dict[str, Any]:
    """Reconstruct one patient by each method and write table, volumes and pictures to ``out``;
    returns what the table holds.
    """
    from .sparse_view_tables import write_all

    names = chosen_methods(methods, run=run, prior=prior)
    nodes = config.with_settings({name: {"name": name} for name in names}, list(settings))
    fit = load_fit(run, device="cpu") if run is not None and "field" in names else None
    made = {name: METHODS.build(nodes[name], fit=fit, prior=prior) for name in names}
    started = time.perf_counter()
    case = read_case(
        dataset, patient=patient, views=views, fov_deg=fov_deg, fit_fov=fit_fov, size=size
    )
    for note in case.notes:
        say(f"note: {note}")
    if fit is not None:
        refuse_other_views(fit, case, dataset)
    say(
        f"{case.name}: {views} views of {case.geometry.cols}×{case.geometry.rows}, "
        f"{len(case.held)} held out, "
        f"{'gains found' if case.scaled_by_view else 'one scale'}, after "
        f"{time.perf_counter() - started:.0f} s"
    )
    rows: dict[str, dict[str, Any]] = {}
    volumes, shown = {}, {}
    for name, method in made.items():
        clock, work = time.perf_counter(), time.process_time()
        volumes[name] = method(case)
        seconds: dict[str, float | None] = {
            "seconds": time.perf_counter() - clock,
            "processor_seconds": time.process_time() - work,
        }
        if name == "field" and fit is not None:
            seconds = {"seconds": float(fit.meta["seconds"]), "processor_seconds": None}
        found, shown[name] = scores(case, volumes[name])
        rows[name] = {
            **found,
            **seconds,
            "options": {k: v for k, v in nodes[name].items() if k != "name"},
        }
        say(
            f"{name:9s} {found['psnr_db']:.2f} dB, SSIM {found['ssim']:.3f}, "
            f"{seconds['seconds']:.1f} s"
        )
    table = {
        "dataset": dataset,
        "patient": case.name,
        "views": views,
        "held_out_views": len(case.held),
        "size": size,
        "fov_deg": round(case.geometry.fov_deg, 3),
        "gains": [round(g, 4) for g in case.gains.tolist()],
        "gain_rule": GAIN_RULE,
        "conventions": conventions(case),
        "methods": rows,
        "run": run,
        "prior": prior,
        "note": DISCLAIMER,
    }
    write_all(out, case, table, volumes, shown)
    return table


def conventions(case: Case) -> str:
    """What the numbers of a table mean."""
    text = (
        "PSNR and SSIM per held-out view at data range 1, then their mean; every method's volume "
        "is shown by the same "
        f"projector on a grid of {case.size}³ over ±1.4 half-widths. "
    )
    if case.truth is None:
        return text + "No CT: no score in 3-D."
    mask = seen_by_all(case.size, case.geometry.distance)
    top = float(case.truth.per_mm[mask].max())
    return text + (
        f"In 3-D: over the voxels that every view sees ({float(mask.float().mean()):.0%} of the "
        "cube), attenuation, "
        f"data range 0 to {top:.4f} per mm, the largest of the CT there; mae is a share of that "
        "range."
    )


def say(words: str) -> None:
    """A line on stderr."""
    print(words, file=sys.stderr, flush=True)
