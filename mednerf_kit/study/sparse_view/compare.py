"""``mednerf-kit tomography``: one patient from few views by every method, scored on the others.

The pictures freed of their views' gains, the grid (a FieldVolume's cube), the projector that shows
a volume from the held-out angles and the scores are the same for all methods.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import DISCLAIMER
from ...core import config
from ...core.errors import UserError
from ...core.memory import check_room
from ...data.films.stored import GreyKind
from ...imaging.geometry import Geometry
from ...metrics import image as image_metrics
from ...metrics.volume import volume_errors
from ...recon import rtk
from ...recon.field_volume import FieldVolume, voxel_axis, voxel_centres
from ...scene.load import Fit, load_fit
from .case import GAIN_RULE, Case, read_case
from .methods import METHODS, Method
from .outputs import write_all

#: Bytes of a voxel of a volume, its correction, its weights, the truth and the places of voxels.
VOXEL_BYTES = 32
#: Rows that are left out, with a note, where the views are no orbit they can use.
ORBITAL = ("fdk", "rtk_fdk", "rtk_sart")


def seen_by_all(size: int, geometry: Geometry) -> Tensor:
    """The voxels of a FieldVolume's cube that lie in every view's cone, bool [size, size, size].

    An orbit's images are taken for square and centred. At radius r from the axis: r ≤ D / sqrt(1 +
    D²) and |z| ≤ (D − r) / D, in field units. Views with frames each say what they see; where no
    voxel is seen by all, as on a helix, those count that are seen half as often as the best one.
    """
    if geometry.view_frames:
        frames, (rows, cols) = geometry.frames_of_views(), (geometry.rows, geometry.cols)
        points_mm = voxel_centres(size).double().view(-1, 3) * geometry.half_width_mm
        count = torch.zeros(len(points_mm), dtype=torch.long)
        for view in frames.split(1):
            y, x = view.shadows(points_mm, rows, cols)[0].unbind(-1)
            count += (y <= rows - 0.5) & (y >= -0.5) & (x <= cols - 0.5) & (x >= -0.5)
        most = int(count.max())
        enough = most if most == geometry.views else most / 2
        return (count >= enough).view(size, size, size)
    distance, line = geometry.distance, voxel_axis(size)
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
        mask = seen_by_all(case.size, case.geometry)
        truth = case.truth.values
        top = float(truth[mask].max())
        found |= volume_errors(volume.values, truth, top, mask=mask)
        found["mae"] = found["mae"] / top
    found["per_view_psnr_db"] = [round(v, 3) for v in psnr.tolist()]
    return found, shown


def chosen_methods(names: Sequence[str], *, run: str | None, prior: str | None) -> list[str]:
    """The methods asked for, or all that can run here.

    Refuses, by name, one that lacks what it needs.
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
    """Refuse a fit that saw a held-out view, or another patient or opening angle."""
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


def volume_by(name: str, method: Method, case: Case, *, asked_for: bool) -> FieldVolume | None:
    """A method's volume; None, which is said, of a row that nobody asked for and no views fit."""
    try:
        return method(case)
    except UserError as error:
        if asked_for or name not in ORBITAL:
            raise
        say(f"note: no row {name}: {error}")
        return None


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
    input_kind: GreyKind = "line-integral",
    invert: bool = False,
    dicom: bool = False,
) -> dict[str, Any]:
    """Reconstruct one patient by each method; write table, volumes and images to ``out``.

    ``dicom`` writes each volume as a DICOM file too. Returns what the table holds.
    """
    check_room(f"volumes of {size}³ voxels", VOXEL_BYTES * size**3, "choose a smaller --size")
    names = chosen_methods(methods, run=run, prior=prior)
    nodes = config.with_settings({name: {"name": name} for name in names}, list(settings))
    fit = load_fit(run, device="cpu") if run is not None and "field" in names else None
    made = {name: METHODS.build(nodes[name], fit=fit, prior=prior) for name in names}
    started = time.perf_counter()
    kind: dict[str, Any] = {"input_kind": input_kind, "invert": invert}
    case = read_case(
        dataset, patient=patient, views=views, fov_deg=fov_deg, fit_fov=fit_fov, size=size, **kind
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
        volume = volume_by(name, method, case, asked_for=bool(methods))
        if volume is None:
            continue
        seconds: dict[str, float | None] = {
            "seconds": time.perf_counter() - clock,
            "processor_seconds": time.process_time() - work,
        }
        if name == "field" and fit is not None:
            seconds = {"seconds": float(fit.meta["seconds"]), "processor_seconds": None}
        found, shown[name] = scores(case, volume)
        volumes[name] = volume
        chosen = {key: value for key, value in nodes[name].items() if key != "name"}
        rows[name] = {**found, **seconds, "options": chosen}
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
    write_all(out, case, table, volumes, shown, dicom=dicom)
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
    mask = seen_by_all(case.size, case.geometry)
    top = float(case.truth.per_mm[mask].max())
    seen = "every view sees" if not case.geometry.view_frames else "the views have in common"
    return text + (
        f"In 3-D: over the voxels that {seen} ({float(mask.float().mean()):.0%} of the cube), "
        "attenuation, "
        f"data range 0 to {top:.4f} per mm, the largest of the CT there; mae is a share of that "
        "range."
    )


def say(words: str) -> None:
    """A line on stderr."""
    print(words, file=sys.stderr, flush=True)
