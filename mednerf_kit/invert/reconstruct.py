"""``mednerf-kit project``: X-rays of one patient in; a volume, every view on the orbit, their
uncertainty and a report out.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from .. import DISCLAIMER, __version__
from ..core import files
from ..core.errors import UserError
from ..data.radiograph import Radiograph, read_radiograph, view_angle_deg
from ..engine.device import select_device
from ..imaging.geometry import Geometry, angle_difference_deg
from ..imaging.volume import Volume
from ..metrics.image import psnr_from_mse_db
from ..prior import load as prior_load
from ..prior.rendering import grey_views
from ..recon.field_volume import at_distance
from ..viz import figures
from ..viz.report import UNCERTAINTY_MEANING, ReportContent, write_report
from . import outputs
from .posterior import Inversion, Posterior, inversion_of
from .predict import PredictedViews, calibration, predict

# below this on held-out pixels of the input itself, the prior does not know such a picture
POOR_FIT_DB = 20.0
FIT_MEANING = "input fit, not accuracy: how well held-out pixels of the given X-ray are reproduced; it says little of other views"


@dataclass(frozen=True)
class InputXray:
    """One X-ray as the prior takes it."""

    image: Tensor  # [rows, cols] of the prior's pictures, mirrored where the film was
    angle_deg: float
    mirrored: bool
    view: str  # as the user named it
    read: Radiograph
    warnings: tuple[str, ...]


def project(
    *,
    xray: Sequence[str | Path],
    view: Sequence[str | float] = (),
    run: str = "bundled:chest",
    outdir: str | Path = "out",
    invert: bool = False,
    input_kind: Literal["line-integral", "transmission", "display"] = "line-integral",
    fit: Literal["crop", "pad"] = "pad",
    samples: int = 4,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    max_minutes: float | None = None,
) -> Path:
    """Turn X-rays of one patient into a volume, its orbit, an uncertainty and a report; returns
    ``outdir``.

    ``view`` holds a name (PA, AP, lateral, left-lateral) or an angle in degrees per X-ray, PA by
    default. ``samples`` codes are kept beside the best guess; ``max_minutes`` bounds the search,
    not the writing, which :func:`write` does.
    """
    view = tuple(view) or ("PA",) * len(xray)
    if not xray or len(view) != len(xray):
        raise UserError(
            f"got {len(xray)} X-rays and {len(view)} views",
            "wanted one view per X-ray",
            "name the view of each",
        )
    watch = StageTimer()
    with watch("read", "reading"):
        prior = prior_load.load_prior(run)
        prior.check_xray()
        films = [
            read_film(path, name, prior.geometry, invert=invert, input_kind=input_kind, fit=fit)
            for path, name in zip(xray, view, strict=True)
        ]
        where = select_device(device)
        prior.generator.to(where)
        folder = outputs.made_folder(outdir)
    with watch(
        "invert",
        f"searching {samples + 1} codes that explain {len(films)} "
        f"X-ray{'s' * (len(films) > 1)} on {where}",
    ):
        seconds = math.inf if max_minutes is None else 60 * max_minutes
        images, angles = (
            torch.stack([f.image for f in films]),
            torch.tensor([f.angle_deg for f in films]),
        )
        search = inversion_of(prior, Inversion, samples=samples, max_seconds=seconds)
        posterior = search(prior, images, angles, Generator().manual_seed(seed))
    geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(72)
    with watch(
        "predict",
        f"baking and projecting {geometry.views} views of {geometry.rows}×{geometry.cols}",
    ):
        orbit = predict(prior, posterior, geometry, size=outputs.grid_size(geometry.cols))
    result = Result(prior, tuple(films), posterior, orbit, geometry, seed, watch.seconds)
    with watch("write", f"writing to {folder}"):
        write(folder, result)
    watch.say(
        f"done in {sum(watch.seconds.values()):.0f} s; fit of the input "
        f"{result.held_out_psnr_db:.1f} dB (not accuracy)"
    )
    return folder


class StageTimer:
    """Says each stage on stderr and keeps its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    @contextmanager
    def __call__(self, stage: str, words: str) -> Iterator[None]:
        self.say(f"{words} …")
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 2)


def read_film(
    path: str | Path,
    view: str | float,
    geometry: Geometry,
    *,
    invert: bool,
    input_kind: Any,
    fit: Any,
) -> InputXray:
    """An X-ray at the size of the prior's pictures (``geometry``), with the angle of its view.

    An AP film is mirrored into the picture at 90°. Where a line-integral scale lies beside the file
    and differs from the prior's, the picture is brought to the prior's. Everything done or doubted
    is among the warnings.
    """
    angle_deg, mirrored = view_angle_deg(view) if isinstance(view, str) else (float(view), False)
    if not math.isfinite(angle_deg):
        raise UserError(f"got an angle of {angle_deg}", "wanted degrees", "correct --angle")
    angle_deg %= 360
    side = max(geometry.rows, geometry.cols)
    read = read_radiograph(path, size=side, invert=invert, input_kind=input_kind, fit=fit)
    y, x = (side - geometry.rows) // 2, (side - geometry.cols) // 2
    image = read.image[y : y + geometry.rows, x : x + geometry.cols]
    warnings = list(read.warnings)
    if mirrored:
        image = image.flip(-1)
        warnings.append(
            f"an AP film is the mirror image of the view at {angle_deg:g}°: mirrored "
            "before use, as the target shows"
        )
    if read.geometry is not None:
        warnings += disagreements(read.geometry, geometry, angle_deg)
        theirs, ours = read.geometry.line_integral_scale, geometry.line_integral_scale
        if (
            theirs
            and ours
            and input_kind != "display"
            and not math.isclose(theirs, ours, rel_tol=1e-3)
        ):
            image = image * (theirs / ours)
            warnings.append(
                f"the geometry beside it has line_integral_scale {theirs:g}: brought "
                f"to the prior's, {ours:g}"
            )
    return InputXray(
        image,
        angle_deg,
        mirrored,
        str(view),
        read,
        tuple(f"{Path(path).name}: {text}" for text in warnings),
    )


def disagreements(found: Geometry, prior: Geometry, angle_deg: float) -> list[str]:
    """A sentence for each way in which the geometry beside an X-ray contradicts the prior's or the
    stated angle.

    >>> from ..imaging.geometry import DEFAULTS
    >>> disagreements(DEFAULTS["knee"].at([0]), DEFAULTS["chest"], 0)
    ['the geometry beside it has a field 192 mm wide, the prior one of 358 mm: lengths in the result follow the prior']
    """
    texts = []
    theirs, ours = 2 * found.half_width_mm, 2 * prior.half_width_mm
    if abs(theirs / ours - 1) > 0.05:
        texts.append(
            f"has a field {theirs:.0f} mm wide, the prior one of {ours:.0f} mm: lengths "
            "in the result follow the prior"
        )
    if abs(found.fov_deg - prior.fov_deg) > 2:
        texts.append(
            f"has a field of view of {found.fov_deg:.1f}°, the prior {prior.fov_deg:.1f}°: the "
            "fit may not reach it"
        )
    for name in ("axis", "tilt_deg", "columns_flipped"):
        if getattr(found, name) != getattr(prior, name):
            texts.append(
                f"has {name} {getattr(found, name)}, the prior {getattr(prior, name)}: the result "
                "follows the prior"
            )
    if found.views == 1 and abs(angle_difference_deg(found.angles_deg[0], angle_deg)) > 0.5:
        texts.append(
            f"says {found.angles_deg[0]:g}°, whereas it is used as the view at {angle_deg:g}°"
        )
    return [f"the geometry beside it {text}" for text in texts]


@dataclass(frozen=True)
class Result:
    """All that is known when the work is done and the writing begins."""

    prior: prior_load.Prior
    films: tuple[InputXray, ...]
    posterior: Posterior
    orbit: PredictedViews
    geometry: Geometry  # of the orbit
    seed: int
    seconds: dict[str, float]

    def projections(self) -> Tensor:
        """The scenes' mean view at the fitted angles with the fitted gains, comparable with the
        films: [n, rows, cols].
        """
        prior, posterior = self.prior, self.posterior
        geometry = prior.geometry.at(posterior.angles_deg.tolist())
        if prior.is_line_integral:
            seen = self.orbit.volume.project(geometry, posterior.distance)
        else:
            seen = grey_views(prior, posterior.code, geometry).mean(0)
        expected = prior.expected_gain(torch.tensor([film.angle_deg for film in self.films]))
        return seen * (posterior.gains.mean(0).to(seen) * expected.to(seen))[:, None, None]

    @property
    def held_out_psnr_db(self) -> float:
        """Fit of the input on its held-out pixels, as a PSNR."""
        return psnr_from_mse_db(self.posterior.held_out_mse)

    @property
    def warnings(self) -> list[str]:
        """A sentence for everything a reader of the result has to know first."""
        texts = [text for film in self.films for text in film.warnings]
        texts += [f"prior: {note}" for note in self.prior.meta.get("notes", ())]
        if self.held_out_psnr_db < POOR_FIT_DB:
            texts.insert(
                0,
                f"the prior reproduces this X-ray poorly ({self.held_out_psnr_db:.1f} dB on "
                "held-out pixels, below "
                f"{POOR_FIT_DB:g}): it may be unlike everything the prior was trained on, or its "
                "view, polarity or "
                "input kind may be stated wrongly; do not rely on any of the result",
            )
        return texts

    @property
    def fov_deg(self) -> float:
        """The fitted opening angle."""
        return at_distance(self.prior.geometry, self.posterior.distance).fov_deg


def write(folder: Path, result: Result) -> None:
    """Everything into ``folder``; the video last, so that a machine without ffmpeg loses nothing
    else.
    """
    targets, projections = (
        torch.stack([film.image for film in result.films]),
        result.projections().cpu(),
    )
    figures.write_png8(folder / "target.png", torch.cat(list(targets), -1))
    figures.write_png8(folder / "proj.png", torch.cat(list(projections), -1))
    outputs.write_orbit(folder, result.orbit.views, result.geometry, result.posterior.distance)
    volume, spread = outputs.write_volumes(folder, result.orbit)
    outputs.save_latent(folder / "latent.safetensors", result.prior, result.posterior)
    files.write_json(folder / "metrics.json", metrics(result, volume))
    write_report(folder / "report.html", report(result, targets, projections, volume, spread))
    figures.write_orbit_video(folder / "orbit.mp4", result.orbit.views)


def metrics(result: Result, volume: Volume) -> dict[str, Any]:
    """``metrics.json``: numbers with their units, what they mean, and where they come from."""
    posterior, orbit, unit = result.posterior, result.orbit, outputs.unit_of(result.prior)
    gains = posterior.gains.mean(0).tolist()
    inputs = [
        {
            "file": str(film.read.source),
            "view": film.view,
            "mirrored": film.mirrored,
            "angle_deg": film.angle_deg,
            "fitted_angle_deg": round(fitted, 3),
            "gain": round(gain, 4),
            "input_kind": film.read.kind,
            "shape": list(film.read.shape),
            "bits": film.read.bits,
        }
        for film, fitted, gain in zip(
            result.films, posterior.angles_deg.tolist(), gains, strict=True
        )
    ]
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
        "inputs": inputs,
        "fov_deg": {
            "prior": round(result.prior.geometry.fov_deg, 3),
            "fitted": round(result.fov_deg, 3),
        },
        "orbit": {
            "views": result.geometry.views,
            "rows": result.geometry.rows,
            "cols": result.geometry.cols,
            "angles_deg": list(result.geometry.angles_deg),
            "mean_spread": round(float(orbit.spread.mean()), 5),
        },
        "volume": {
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "quantity": volume.quantity,
            "mu_water_per_mm": volume.mu_water_per_mm,
        },
        "codes": len(posterior.gains),
        "calibration": calibration(result.prior, len(result.films)),
        "seconds": result.seconds,
        "seed": result.seed,
        "provenance": outputs.provenance(result.prior),
        "warnings": result.warnings,
        "version": __version__,
        "note": DISCLAIMER,
    }


def report(
    result: Result, targets: Tensor, projections: Tensor, volume: Volume, spread: Volume
) -> ReportContent:
    """What the page shows."""
    posterior, hu = result.posterior, volume.quantity == "hu"
    numbers: dict[str, tuple[float | str | None, str]] = {
        "Fit of the input on held-out pixels (not accuracy)": (result.held_out_psnr_db, "dB"),
        "Mean spread of the orbit's views": (float(result.orbit.spread.mean()), "image units"),
        "Opening angle, fitted": (result.fov_deg, "°"),
        "Opening angle, prior": (result.prior.geometry.fov_deg, "°"),
    }
    for film, angle, gain in zip(
        result.films, posterior.angles_deg.tolist(), posterior.gains.mean(0).tolist(), strict=True
    ):
        numbers[f"{film.read.source.name}: angle, fitted"] = (float(angle), "°")
        numbers[f"{film.read.source.name}: gain, fitted"] = (float(gain), "")
    numbers |= {f"Time to {stage}": (seconds, "s") for stage, seconds in result.seconds.items()}
    known = outputs.provenance(result.prior)
    reads = [(film.view, film.read) for film in result.films]
    return ReportContent(
        title=" and ".join(film.read.source.name for film in result.films),
        targets=targets,
        projections=projections,
        input_angles_deg=[film.angle_deg for film in result.films],
        orbit=result.orbit.views.cpu(),
        orbit_angles_deg=result.geometry.angles_deg,
        orbit_spread=result.orbit.spread.cpu(),
        volume=volume.values,
        volume_spread=spread.values,
        volume_unit="HU, estimated" if hu else "relative attenuation",
        window=(-1000.0, 1000.0) if hu else None,
        spacing_mm=volume.spacing_mm[::-1],
        numbers=numbers,
        provenance={
            "X-rays": ", ".join(
                f"{r.source.name} ({view}, {r.kind}, {r.shape[0]}×{r.shape[1]})"
                for view, r in reads
            ),
            "Prior": f"{known['run']}/{known['prior']}",
            "Trained on": known["trained_on"],
            "Training": f"step {known['step']}, seed {known['training_seed']}, version "
            f"{known['made_with_version']}",
            "Prior's fingerprint": known["fingerprint"],
            "Codes kept": len(posterior.gains),
            "Seed of this run": result.seed,
            "Software": f"mednerf-kit {__version__}",
        },
        uncertainty_meaning=(
            *UNCERTAINTY_MEANING,
            calibration_text(result.prior, len(result.films)),
        ),
        warnings=result.warnings,
    )


def calibration_text(prior: prior_load.Prior, views: int) -> str:
    """Whether this spread was calibrated, and on whom."""
    if str(min(views, 2)) not in prior.meta.get("calibration", {}):
        return "This prior's spread was not calibrated: read it as a ranking of places, not as an interval."
    return (
        f"The spread shown is the codes' times {calibration(prior, views):.2f}, fitted on "
        "validation patients of the prior's "
        "own kind so that ±1.645 spreads cover 90 % of the pixels; on other pictures it may cover "
        "less."
    )
