"""What one inversion was given and what it found, as ``metrics.json`` and the report say it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import DISCLAIMER, __version__
from ..imaging.film.unknown_curve import UnknownCurve
from ..imaging.geometry import Geometry
from ..imaging.volume import Volume
from ..metrics.image import psnr_from_mse_db
from ..prior.load import Prior
from ..recon.field_volume import FieldVolume, at_distance
from ..viz.plots import curve_plot
from ..viz.report import UNCERTAINTY_MEANING, ReportContent
from . import outputs
from .film_response import FilmResponse, grey_pictures
from .input_xray import InputXray
from .intervals import calibration_of, calibration_text
from .measured import Measured
from .measures import bounds
from .members import Posterior
from .predict import PredictedViews, reprojections

MOST_REGIONS = 3  # where films disagree with the prior, that get a sentence
TONE_NODES = 33  # of a fitted tone curve that is written down
# below this on held-out pixels of the input itself, the prior does not know such a picture
POOR_FIT_DB = 20.0
FIT_MEANING = (
    "input fit, not accuracy: how well held-out pixels of the given X-ray are reproduced; it says "
    "little of other views"
)


@dataclass(frozen=True)
class Result:
    """All that is known when the work is done and the writing begins."""

    prior: Prior
    xrays: tuple[InputXray, ...]
    posterior: Posterior
    predicted: PredictedViews
    geometry: Geometry  # of the predicted views
    seed: int
    seconds: dict[str, float]  # by stage
    measured: Measured | None = None  # of a prior of line integrals
    is_fast: bool = False  # a first look: a shorter search, fewer voxels

    @property
    def targets(self) -> Tensor:
        """The X-rays as the prior takes them, [n, rows, cols]."""
        return torch.stack([xray.image for xray in self.xrays])

    @property
    def gains(self) -> list[float]:
        """The mean gain of each X-ray; 1 where its scale is known and the update keeps to it."""
        return self.predicted.gains.tolist()

    def projections(self) -> Tensor:
        """The members' mean view at the fitted angles, with the fitted gains: [n, rows, cols].

        It is comparable with the targets.
        """
        prior, posterior = self.prior, self.posterior
        stated_deg = torch.tensor([xray.angle_deg for xray in self.xrays])
        seen = reprojections(prior, posterior, self.predicted, stated_deg)
        shown = seen * self.predicted.gains[:, None, None]
        if posterior.tone is not None:
            response = FilmResponse.of(prior.geometry, torch.device("cpu"))
            for k in self.films:
                tone = posterior.tone[:, k].cpu()
                pictures = seen[k].expand(len(tone), -1, -1)
                shown[k] = grey_pictures(response, tone, pictures).mean(0)
        return shown

    @property
    def films(self) -> list[int]:
        """The X-rays whose tone curve was fitted."""
        fitted = self.posterior.tone is not None
        return [k for k, xray in enumerate(self.xrays) if fitted and xray.is_film]

    def tone_curves(self, k: int) -> Tensor:
        """The members' fitted curves of film k at :data:`TONE_NODES` line integrals: [M, nodes]."""
        assert self.posterior.tone is not None
        z = self.posterior.tone[:, k].cpu()
        u = torch.linspace(0, 1, TONE_NODES).expand(len(z), -1)
        return UnknownCurve.of_real_curves()(z[:, 1:], u)

    def scatter_ratio(self, k: int) -> float:
        """Scatter to primary behind a thick object on film k, the mean over members."""
        assert self.posterior.tone is not None
        response = FilmResponse.of(self.prior.geometry, torch.device("cpu"))
        return float(response.ratio(self.posterior.tone[:, k].cpu()).mean())

    @property
    def has_scale(self) -> bool:
        """Whether the volume is in known units: one X-ray that has a scale is enough."""
        return self.prior.scale is not None and self.posterior.has_scale

    @cached_property
    def measures(self) -> dict[str, dict[str, Any]]:
        """What a chest is asked for, with bounds; none where the scale is unknown."""
        if not self.has_scale or self.prior.meta.get("anatomy") == "knee":
            return {}
        known = calibration_of(self.prior, len(self.xrays))
        return bounds(self.predicted.volume_members, known)

    @property
    def parts(self) -> dict[str, FieldVolume]:
        """The finished voxels by their names in :data:`.outputs.PARTS`.

        None of a prior of emission and absorption, whose views no voxels give.
        """
        if self.measured is None:
            return {}
        predicted, told = self.predicted, self.measured
        found = (predicted.volume, predicted.volume_spread, told.share, told.null_space)
        return dict(zip(outputs.PARTS, found, strict=True))

    @property
    def held_out_psnr_db(self) -> float:
        """Fit of the input on its held-out pixels, as a PSNR."""
        return psnr_from_mse_db(self.posterior.held_out_mse)

    @property
    def fov_deg(self) -> float:
        """The fitted opening angle."""
        return at_distance(self.prior.geometry, self.posterior.distance).fov_deg

    @property
    def warnings(self) -> list[str]:
        """A sentence for everything a reader of the result has to know first."""
        texts = [text for xray in self.xrays for text in xray.warnings]
        texts += self._disagreements()
        texts += self.predicted.outside
        texts += [f"prior: {note}" for note in self.prior.meta.get("notes", ())]
        if self.is_fast:
            texts.append(
                "a first look with --fast: less accurate than without it, and the intervals are "
                "those of whole searches"
            )
        if self.held_out_psnr_db < POOR_FIT_DB:
            poor = (
                f"the prior reproduces this X-ray poorly ({self.held_out_psnr_db:.1f} dB on "
                f"held-out pixels, below {POOR_FIT_DB:g}): {self._poor_reason()}; do not rely on "
                "any of the result"
            )
            texts.insert(0, poor)
        return texts

    def _disagreements(self) -> list[str]:
        """A sentence for the strongest places where a film shows what the prior does not know."""
        if (told := self.predicted.told) is None:
            return []
        known = (
            "validation patients reach {:.1f} at most" if told.misfit.fitted else "{:.1f} is usual"
        ).format(told.misfit.limit)
        return [
            f"{self.xrays[region.film].read.source.name} shows {region.text}, than any patient of "
            f"the prior explains ({known}): this was taken from the film and may lie anywhere "
            "along its rays"
            for region in told.regions[:MOST_REGIONS]
        ]

    def _poor_reason(self) -> str:
        """Why a fit may be poor, as far as the checks of the X-rays can tell."""
        verdicts = [xray.verdict for xray in self.xrays]
        if any(verdict and verdict.warnings for verdict in verdicts):
            return "see below what it looks like"
        if all(verdict and (verdict.p_as_stated or 0.0) > 0.5 for verdict in verdicts):
            return (
                "its body part, view and polarity look as stated, so that it is the patient or the "
                "exposure that is unlike everything the prior was trained on"
            )
        return (
            "it may be unlike everything the prior was trained on, or its view, polarity or input "
            "kind may be stated wrongly"
        )


def metrics(result: Result, volume: Volume) -> dict[str, Any]:
    """``metrics.json``: numbers with their units, what they mean, and where they come from."""
    posterior, unit = result.posterior, outputs.unit_of(result.prior, result.has_scale)
    geometry = result.geometry
    return {
        "units": {
            "image": "[0, 1], bone bright, linear in the line integral",
            "volume": unit,
            "uncertainty": f"standard deviation, {unit}",
            "spacing": "mm (x, y, z)",
            "seconds": "s",
        },
        "data_range": 1.0,
        "input_fit": {
            "meaning": FIT_MEANING,
            "held_out_psnr_db": round(result.held_out_psnr_db, 3),
            "held_out_mse": posterior.held_out_mse,
        },
        "inputs": _inputs(result),
        "fov_deg": {
            "prior": round(result.prior.fitted_geometry.fov_deg, 3),
            "fitted": round(result.fov_deg, 3),
        },
        "orbit": {
            "views": geometry.views,
            "rows": geometry.rows,
            "cols": geometry.cols,
            "angles_deg": list(geometry.angles_deg),
            "mean_spread": round(float(result.predicted.spread.mean()), 5),
        },
        "volume": {
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "quantity": volume.quantity,
            "mu_water_per_mm": volume.mu_water_per_mm,
        },
        "measured": None if result.measured is None else _measured(result.measured),
        "disagreement": _disagreement(result),
        "codes": len(posterior.gains),
        "calibration": calibration_of(result.prior, len(result.xrays)).factor,
        "calibration_meaning": calibration_text(result.prior, len(result.xrays)),
        "measures": result.measures,
        "seconds": result.seconds,
        "seed": result.seed,
        "fast": result.is_fast,
        "provenance": outputs.provenance(result.prior),
        "warnings": result.warnings,
        "version": __version__,
        "note": DISCLAIMER,
    }


def _measured(measured: Measured) -> dict[str, Any]:
    """Which share of the volume the films determined."""
    return {"meaning": measured.text, "share": round(measured.total, 4)}


def _disagreement(result: Result) -> dict[str, Any] | None:
    """Where films showed what the prior does not know; None where they updated nothing."""
    if (told := result.predicted.told) is None:
        return None
    return {
        "meaning": "prior against film before the update, in standard deviations",
        "largest": round(float(told.z.abs().amax()), 2),
        "limit": round(told.misfit.limit, 2),
        "limit_is_fitted": told.misfit.fitted,
        "regions": [
            {
                "file": str(result.xrays[region.film].read.source),
                "x": round(region.x, 3),
                "y": round(region.y, 3),
                "width_mm": round(region.width_mm, 1),
                "standard_deviations": round(region.z, 2),
            }
            for region in told.regions
        ],
    }


def _inputs(result: Result) -> list[dict[str, Any]]:
    """What is known of each X-ray."""
    angles_deg = result.posterior.angles_deg.tolist()
    return [
        {
            "file": str(xray.read.source),
            "view": xray.view,
            "mirrored": xray.mirrored,
            "angle_deg": xray.angle_deg,
            "fitted_angle_deg": round(fitted_deg, 3),
            "gain": round(gain, 4),
            "input_kind": xray.read.kind,
            "read_with": dict(xray.read_with),
            "shape": list(xray.read.shape),
            "bits": xray.read.bits,
            "has_scale": xray.has_scale,
            "tone_curve": _tone_curve(result, k),
            "looks_like": _looks_like(xray),
            "notes": list(xray.notes),
        }
        for k, (xray, fitted_deg, gain) in enumerate(
            zip(result.xrays, angles_deg, result.gains, strict=True)
        )
    ]


def _looks_like(xray: InputXray) -> dict[str, Any] | None:
    """What the checks say that an X-ray shows; null where they cannot tell."""
    if xray.verdict is None:
        return None
    return {
        "body_part": xray.verdict.body_part,
        "view": xray.verdict.view,
        "turn_by_deg": xray.verdict.rotated_deg,
        "mirrored": xray.verdict.mirrored,
        "inverted": xray.verdict.inverted,
        "better_when_put_right_db": {
            name: round(db, 2) for name, db in xray.verdict.gains_db.items()
        },
    }


def _tone_curve(result: Result, k: int) -> dict[str, Any] | None:
    """The curve that was fitted to film k, the mean over members; None where none was."""
    if k not in result.films:
        return None
    curves = result.tone_curves(k)
    return {
        "meaning": "grey value at apparent line integrals from 0 to the prior's scale, evenly",
        "grey": [round(v, 4) for v in curves.mean(0).tolist()],
        "spread": [round(v, 4) for v in curves.std(0, unbiased=False).tolist()],
        "scatter_to_primary": round(result.scatter_ratio(k), 3),
    }


def _tone_plots(result: Result) -> dict[str, bytes]:
    """The fitted curve of each film, for the report."""
    u = torch.linspace(0, 1, TONE_NODES).tolist()
    found = {}
    for k in result.films:
        curves, name = result.tone_curves(k), result.xrays[k].read.source.name
        mean = "fitted (shaded: all codes)"
        band = (curves.amin(0).tolist(), curves.amax(0).tolist())
        found[f"{name}: the tone curve that was fitted with the codes"] = curve_plot(
            {mean: (u, curves.mean(0).tolist()), "linear": (u, u)},
            "apparent line integral, in image values",
            "grey value of the film",
            bands={mean: band},
        )
    return found


def report_content(result: Result, volume: Volume, spread: Volume) -> ReportContent:
    """What the report shows of a result, its volume and the volume's standard deviation."""
    predicted, hu = result.predicted, volume.quantity == "hu"
    found, told = result.measured, predicted.told
    hidden = None if found is None else found.null_space.to_volume(difference=True).values
    return ReportContent(
        title=" and ".join(xray.read.source.name for xray in result.xrays),
        targets=result.targets,
        projections=result.projections(),
        input_angles_deg=[xray.angle_deg for xray in result.xrays],
        orbit=predicted.views.cpu(),
        orbit_angles_deg=result.geometry.angles_deg,
        orbit_spread=predicted.spread.cpu(),
        volume=volume.values,
        volume_spread=spread.values,
        volume_unit="HU, estimated" if hu else "relative attenuation",
        window=(-1000.0, 1000.0) if hu else None,
        spacing_mm=volume.spacing_mm[::-1],
        numbers=_report_numbers(result),
        provenance=_report_provenance(result),
        plots=_tone_plots(result),
        uncertainty_meaning=(
            *UNCERTAINTY_MEANING,
            calibration_text(result.prior, len(result.xrays)),
        ),
        warnings=result.warnings,
        measured=None if found is None else found.share.values,
        measured_text="" if found is None else f"{found.text}.",
        null_space=hidden,
        disagreement=None if told is None else told.z,
        disagreement_limit=1.0 if told is None else told.misfit.limit,
    )


def _report_numbers(result: Result) -> dict[str, tuple[float | str | None, str]]:
    """The report's numbers: name to value and unit."""
    numbers: dict[str, tuple[float | str | None, str]] = {
        "Fit of the input on held-out pixels (not accuracy)": (result.held_out_psnr_db, "dB"),
        "Mean spread of the orbit's views": (float(result.predicted.spread.mean()), "image units"),
        "Opening angle, fitted": (result.fov_deg, "°"),
        "Opening angle, prior": (result.prior.fitted_geometry.fov_deg, "°"),
    }
    for name, measure in result.measures.items():
        title = name.rsplit("_", 1)[0] if measure["unit"] else name
        title = title.replace("_", " ").capitalize()
        numbers[f"{title}, by thresholds"] = (measure["mean"], measure["unit"])
        if measure["bounds_90"]:
            low, high = measure["bounds_90"]
            numbers[f"{title}, in nine patients of ten"] = (f"{low:g} to {high:g}", measure["unit"])
    angles_deg = result.posterior.angles_deg.tolist()
    for xray, angle_deg, gain in zip(result.xrays, angles_deg, result.gains, strict=True):
        numbers[f"{xray.read.source.name}: angle, fitted"] = (float(angle_deg), "°")
        numbers[f"{xray.read.source.name}: gain, fitted"] = (float(gain), "")
    for k in result.films:
        name = f"{result.xrays[k].read.source.name}: scatter to primary, fitted"
        numbers[name] = (result.scatter_ratio(k), "")
    return numbers | {
        f"Time to {stage}": (seconds, "s") for stage, seconds in result.seconds.items()
    }


def _report_provenance(result: Result) -> dict[str, float | str | None]:
    """Where the result comes from: name to text."""
    known = outputs.provenance(result.prior)
    files = [
        f"{xray.read.source.name} ({xray.view}, {xray.read.kind}, "
        f"{xray.read.shape[0]}×{xray.read.shape[1]})"
        for xray in result.xrays
    ]
    return {
        "X-rays": ", ".join(files),
        "Prior": f"{known['run']}/{known['prior']}",
        "Trained on": known["trained_on"],
        "Training": f"step {known['step']}, seed {known['training_seed']}, version "
        f"{known['made_with_version']}",
        "Prior's fingerprint": known["fingerprint"],
        "Codes kept": len(result.posterior.gains),
        "Seed of this run": result.seed,
        "Precision": known["precision"],
        "Software": f"mednerf-kit {__version__}",
    }
