"""``mednerf-kit project``: X-rays of one patient become a volume, its orbit and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator

from ..core import files
from ..core.errors import RunError
from ..core.memory import check_room
from ..core.resampling import area_resized
from ..data.radiograph import Crop, InputKind
from ..engine.device import select_device
from ..fields.hyper import Precision
from ..imaging.geometry import Geometry
from ..imaging.volume import write_volumes
from ..prior.load import Prior, Search, load_prior
from ..viz import figures, video
from ..viz.report import write_report
from . import outputs
from .descent import hurried
from .input_xray import InputXray, one_view_each, read_xrays
from .measured import Measured, measured
from .members import Posterior
from .posterior import Inversion, inversion_of
from .predict import PredictedViews, grid_size, predict
from .progress import Progress, Watch
from .result import Result, metrics, report_content
from .update import Films, Update
from .xray_views import frame_options

ORBIT_VIEWS = 72
# of the search's steps, and of the voxels along a side of the baked cube, with ``fast``
FAST_SHARE, FAST_GRID, LEAST_GRID = 1 / 3, 0.7, 48
MEMBER_BYTES = 20  # that a pixel of a member's orbit takes while mean and spread are found


def project(
    *,
    xray: Sequence[str | Path],
    view: Sequence[str | float] = (),
    run: str = "bundled:chest",
    outdir: str | Path = "out",
    invert: bool = False,
    input_kind: InputKind = "auto",
    fit: Literal["crop", "pad"] = "pad",
    rotate: int = 0,
    flip: bool = False,
    crop: Crop = "auto",
    samples: int = 4,
    update: bool = True,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision | None = None,
    max_minutes: float | None = None,
    dicom: bool = False,
    fast: bool = False,
    watch: Watch | None = None,
) -> Path:
    """Turn X-rays of one patient into a volume, its orbit, an uncertainty and a report.

    Returns ``outdir``, in which :func:`write` has put everything.

    Options:
        xray: files of the X-rays.
        view: a name (PA, AP, lateral, left-lateral) or an angle in degrees per X-ray; by default
            what the file or the geometry beside it says, else PA.
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        outdir: folder of the results.
        invert: turn the X-rays' polarity over, once more where a file itself says bone is dark.
        input_kind: what the X-rays' grey values mean; ``auto`` decides from each file.
        fit: how another aspect ratio is brought to the field.
        rotate: 0, 90, 180 or 270 degrees clockwise by which the X-rays are turned first.
        flip: then mirror them left to right.
        crop: a rectangle (x, y, width, height) of the upright picture, in its pixels; ``auto``
            leaves collimator, borders and letters of films out of the fit, ``none`` nothing.
        samples: codes that are kept beside the best guess.
        update: bring every code's volume to what the X-rays show beyond it.
        size: columns of the orbit's views; the prior's own by default.
        seed: of the search.
        device: where the work is done; ``auto`` chooses.
        precision: what the prior's networks are computed in (fp32, bf16, auto); the recipe's by
            default. What ``auto`` came to is in ``metrics.json``.
        max_minutes: bounds the search, not the writing.
        dicom: write each volume as a DICOM file too.
        fast: a third of the search, and voxels 1.4 times as wide.
        watch: told at every stage, and during the search, how far the work is.
    """
    how: dict[str, Any] = {"invert": invert, "input_kind": input_kind, "fit": fit}
    how |= {"rotate": rotate, "flip": flip, "crop": crop}
    timer = StageTimer(watch)
    with timer.stage("read", "reading"):
        prior = load_prior(run, precision=precision)
        prior.check_xray()
        geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(ORBIT_VIEWS)
        check_members_room(geometry, samples + 1)
        xrays = read_xrays(prior, xray, one_view_each(xray, view), **how)
        where = select_device(device)
        prior.generator.to(where)
        folder = files.made_folder(outdir)
    what = f"{len(xrays)} X-ray{'s' * (len(xrays) > 1)} on {where}"
    with timer.stage("invert", f"searching {samples + 1} codes that explain {what}"):
        search = search_of(prior, samples, max_minutes, fast=fast)
        posterior = inverted(prior, xrays, search, Generator().manual_seed(seed), watch)
    what = f"{geometry.views} views of {geometry.rows}×{geometry.cols}"
    with timer.stage("predict", f"baking and projecting {what}"):
        films = films_of(prior, xrays) if update else None
        rng = Generator().manual_seed(seed)
        pace = fast_prediction(geometry) if fast else {}
        predicted = predict(prior, posterior, geometry, films=films, rng=rng, **pace)
        share = share_of(prior, posterior, predicted, xrays, rng)
    result = Result(prior, xrays, posterior, predicted, geometry, seed, timer.seconds, share, fast)
    with timer.stage("write", f"writing to {folder}"):
        write(folder, result, timer.say, dicom=dicom)
    timer.say_done(result)
    return folder


def check_members_room(geometry: Geometry, members: int) -> None:
    """Refuse an orbit of so many members, its mean and its spread, that memory cannot hold."""
    check_room(
        f"{members} patients in {geometry.views} views of {geometry.cols}×{geometry.rows} pixels",
        MEMBER_BYTES * members * geometry.views * geometry.rows * geometry.cols,
        "choose a smaller --size or fewer --samples",
    )


def search_of(prior: Prior, samples: int, max_minutes: float | None, *, fast: bool) -> Search:
    """The prior's own search, by default :class:`.posterior.Inversion`, with what bounds it."""
    bounds = {} if max_minutes is None else {"max_seconds": 60 * max_minutes}
    search = inversion_of(prior, Inversion, samples=samples, **bounds)
    return hurried(search, FAST_SHARE) if fast else search


def fast_prediction(geometry: Geometry) -> dict[str, Any]:
    """What makes :func:`~.predict.predict` fast: fewer voxels, and fewer steps of the update."""
    size = max(LEAST_GRID, round(FAST_GRID * grid_size(geometry.cols)))
    return {"size": size, "update": hurried(Update(), FAST_SHARE)}


def inverted(
    prior: Prior,
    xrays: Sequence[InputXray],
    search: Search,
    rng: Generator,
    watch: Watch | None = None,
) -> Posterior:
    """Search for what explains X-rays of one patient, where their pixels show him.

    A conditional generator learned from line integrals of its prior's scale, or of none: of others
    it is not asked.
    """
    scaled = prior.scale is None or all(xray.has_scale for xray in xrays)
    found = search(
        prior if scaled else replace(prior, conditional=None),
        torch.stack([xray.image for xray in xrays]),
        torch.tensor([xray.angle_deg for xray in xrays]),
        rng,
        mask=torch.stack([xray.mask for xray in xrays]),
        films=[xray.is_film for xray in xrays],
        watch=watch,
        **frame_options(views_of(prior, xrays)),
    )
    return replace(found, has_scale=any(xray.has_scale for xray in xrays))


def views_of(prior: Prior, xrays: Sequence[InputXray]) -> Geometry:
    """Where X-rays stand: on the prior's orbit, and if one has a frame, with a frame for each."""
    orbit = prior.fitted_geometry.at(xray.angle_deg for xray in xrays)
    if all(xray.frame is None for xray in xrays):
        return orbit
    on_orbit = orbit.frames_of_views().to_list()
    frames = (xray.frame or own for xray, own in zip(xrays, on_orbit, strict=True))
    return replace(orbit, view_frames=tuple(frames))


def films_of(prior: Prior, xrays: Sequence[InputXray]) -> Films:
    """X-rays of one patient at the size of the coarsest, as the measurement update takes them."""
    cols = min(xray.fine.shape[-1] for xray in xrays)
    geometry = prior.geometry.resized(cols)
    fine = [area_resized(xray.fine, geometry.rows, geometry.cols) for xray in xrays]
    return Films.of(
        torch.stack([one[0] for one in fine]),
        torch.stack([one[1] for one in fine]),
        has_scale=[xray.has_scale for xray in xrays],
        is_film=[xray.is_film for xray in xrays],
    )


def share_of(
    prior: Prior,
    posterior: Posterior,
    predicted: PredictedViews,
    xrays: Sequence[InputXray],
    rng: Generator,
) -> Measured | None:
    """Which part of a volume X-rays determined; None of a prior of emission and absorption."""
    if not prior.is_line_integral:
        return None
    masks = torch.stack([xray.mask for xray in xrays])
    return measured(prior, posterior, predicted, masks, rng)


class StageTimer:
    """Says each stage of the work on stderr, and to whoever watches, and keeps its seconds."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """A line on stderr."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Time what is done inside; ``text`` says what that is."""
        self.say(f"{text} …")
        if self.watch is not None:
            self.watch(Progress(name, text))
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)

    def say_done(self, result: Result) -> None:
        """How long all of it took, how well the input fits, and what a reader has to know."""
        self.say(
            f"done in {sum(self.seconds.values()):.0f} s; fit of the input "
            f"{result.held_out_psnr_db:.1f} dB (not accuracy)"
        )
        for text in result.warnings:
            self.say(f"Warning: {text}.")


def write(folder: Path, result: Result, say: Callable[[str], None], *, dicom: bool = False) -> None:
    """Write everything into ``folder``, or nothing; then the video.

    A machine without ffmpeg loses nothing else: ``say`` gets a line that tells so.
    """
    with files.whole_folder(folder) as temporary:
        write_parts(temporary, result, dicom=dicom)
    try:
        video.write_mp4(folder / "orbit.mp4", result.predicted.views)
    except RunError:
        say(f"{folder} holds everything but the video.")
        raise


def write_parts(folder: Path, result: Result, *, dicom: bool = False) -> None:
    """Write everything but the video into ``folder``.

    The files are as_read.png (as_read_0.png … of several X-rays: as stored, and as read with what
    is left out of the fit in red), target.png, proj.png, orbit/ and orbit_spread/ (the views and
    their standard deviation), volume.nii.gz and uncertainty.nii.gz (the mean over members and its
    standard deviation, in one unit), measured.nii.gz and null_space.nii.gz
    (:class:`.measured.Measured`), disagreement.png (where the films contradict the prior, in
    standard deviations), latent.safetensors, metrics.json and report.html; with ``dicom`` every
    volume as a DICOM file too.
    """
    predicted = result.predicted
    volume = predicted.volume.to_volume()
    spread = predicted.volume_spread.to_volume("Std dev.", difference=True)
    content = report_content(result, volume, spread)
    for k, xray in enumerate(result.xrays):
        name = "as_read.png" if len(result.xrays) == 1 else f"as_read_{k}.png"
        read = xray.read
        figures.write_png8(
            folder / name,
            figures.before_and_after(read.stored_picture(), read.picture, read.picture_mask),
        )
    figures.write_png8(folder / "target.png", torch.cat(list(content.targets), -1))
    figures.write_png8(folder / "proj.png", torch.cat(list(content.projections), -1))
    prior, posterior = result.prior, result.posterior
    outputs.write_orbit(folder, predicted.views, result.geometry, posterior, predicted.spread)
    volumes = {"volume": volume, "uncertainty": spread}
    if result.measured is not None:
        volumes["measured"] = result.measured.share_volume()
        volumes["null_space"] = result.measured.null_space.to_volume("Null space.", difference=True)
    write_volumes(volumes, folder, dicom=dicom)
    if predicted.told is not None:
        limit = predicted.told.misfit.limit
        maps = [figures.disagreement_picture(z, limit) for z in predicted.told.z]
        figures.write_png8(folder / "disagreement.png", np.concatenate(maps, 1))
    latent = folder / "latent.safetensors"
    outputs.save_latent(latent, prior, posterior, result.parts, predicted.exposure)
    files.write_json(folder / "metrics.json", metrics(result, volume))
    write_report(folder / "report.html", content)
