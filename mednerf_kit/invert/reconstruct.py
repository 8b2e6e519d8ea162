"""``mednerf-kit project``: X-rays of one patient become a volume, its orbit and a report."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..core import files
from ..core.errors import UserError
from ..data.films.orientation import turned_words
from ..data.radiograph import Crop, InputKind, Radiograph, read_radiograph, view_angle_deg
from ..engine.device import select_device
from ..fields.hyper import Precision
from ..imaging.geometry import Geometry, angle_difference_deg, turn_between
from ..imaging.volume import write_volume
from ..prior.load import Prior, Search, load_prior
from ..viz import figures, video
from ..viz.report import write_report
from . import outputs
from .film_checks import FilmChecks, Stated
from .posterior import Inversion, Posterior, inversion_of
from .predict import predict
from .result import InputXray, Result, metrics, report_content

ORBIT_VIEWS = 72


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
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision | None = None,
    max_minutes: float | None = None,
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
        size: columns of the orbit's views; the prior's own by default.
        seed: of the search.
        device: where the work is done; ``auto`` chooses.
        precision: what the prior's networks are computed in (fp32, bf16, auto); the recipe's by
            default. What ``auto`` came to is in ``metrics.json``.
        max_minutes: bounds the search, not the writing.
    """
    views = one_view_each(xray, view)
    how: dict[str, Any] = {"invert": invert, "input_kind": input_kind, "fit": fit}
    how |= {"rotate": rotate, "flip": flip, "crop": crop}
    timer = StageTimer()
    with timer.stage("read", "reading"):
        prior = load_prior(run, precision=precision)
        prior.check_xray()
        xrays = [
            read_xray(path, name, prior.fitted_geometry, **how)
            for path, name in zip(xray, views, strict=True)
        ]
        checks = FilmChecks.of(prior)
        xrays = [checked(x, checks, invert=invert, rotate=rotate, flip=flip) for x in xrays]
        where = select_device(device)
        prior.generator.to(where)
        folder = outputs.made_folder(outdir)
    what = f"{len(xrays)} X-ray{'s' * (len(xrays) > 1)} on {where}"
    with timer.stage("invert", f"searching {samples + 1} codes that explain {what}"):
        seconds = math.inf if max_minutes is None else 60 * max_minutes
        search = inversion_of(prior, Inversion, samples=samples, max_seconds=seconds)
        posterior = inverted(prior, xrays, search, Generator().manual_seed(seed))
    geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(ORBIT_VIEWS)
    what = f"{geometry.views} views of {geometry.rows}×{geometry.cols}"
    with timer.stage("predict", f"baking and projecting {what}"):
        predicted = predict(prior, posterior, geometry)
    result = Result(prior, tuple(xrays), posterior, predicted, geometry, seed, timer.seconds)
    if not result.has_scale:
        result = replace(result, predicted=predicted.without_scale())
    with timer.stage("write", f"writing to {folder}"):
        write(folder, result)
    for text in result.warnings:
        timer.say(f"warning: {text}")
    timer.say(
        f"done in {sum(timer.seconds.values()):.0f} s; fit of the input "
        f"{result.held_out_psnr_db:.1f} dB (not accuracy)"
    )
    return folder


def inverted(prior: Prior, xrays: Sequence[InputXray], search: Search, rng: Generator) -> Posterior:
    """Search for what explains X-rays of one patient, where their pixels show him."""
    return search(
        prior,
        torch.stack([xray.image for xray in xrays]),
        torch.tensor([xray.angle_deg for xray in xrays]),
        rng,
        mask=torch.stack([xray.mask for xray in xrays]),
        films=[xray.is_film for xray in xrays],
    )


def one_view_each(
    xray: Sequence[str | Path], view: Sequence[str | float]
) -> Sequence[str | float | None]:
    """The view of each X-ray; None for all where none was named."""
    views: Sequence[str | float | None] = view or [None] * len(xray)
    if not xray or len(views) != len(xray):
        raise UserError(
            f"got {len(xray)} X-rays and {len(views)} views",
            "wanted one view per X-ray",
            "name the view of each",
        )
    return views


class StageTimer:
    """Says each stage of the work on stderr and keeps its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """A line on stderr."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Time what is done inside; ``text`` says what that is."""
        self.say(f"{text} …")
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def write(folder: Path, result: Result) -> None:
    """Write everything into ``folder``.

    The files are as_read.png (as_read_0.png … of several X-rays: as stored, and as read with what
    is left out of the fit in red), target.png, proj.png, orbit/, volume.nii.gz and
    uncertainty.nii.gz (the mean over members and its standard deviation, in one unit),
    latent.safetensors, metrics.json and report.html. The video orbit.mp4 comes last, so that a
    machine without ffmpeg loses nothing else.
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
    outputs.write_orbit(folder, predicted.views, result.geometry, result.posterior.distance)
    write_volume(volume, folder / "volume.nii.gz")
    write_volume(spread, folder / "uncertainty.nii.gz")
    outputs.save_latent(folder / "latent.safetensors", result.prior, result.posterior)
    files.write_json(folder / "metrics.json", metrics(result, volume))
    write_report(folder / "report.html", content)
    video.write_mp4(folder / "orbit.mp4", predicted.views)


def read_xray(
    path: str | Path,
    view: str | float | None,
    geometry: Geometry,
    *,
    invert: bool = False,
    input_kind: InputKind = "auto",
    fit: Literal["crop", "pad"] = "pad",
    rotate: int = 0,
    flip: bool = False,
    crop: Crop = "auto",
) -> InputXray:
    """Read an X-ray at the size of the prior's pictures (``geometry``), with the angle of its view.

    A geometry beside it that has its columns or its orbit's axis otherwise turns the picture to
    lie as the prior's. An AP film is mirrored into the picture at 90°. Where a line-integral scale
    lies beside the file and differs from the prior's, the picture is brought to the prior's.
    Everything done is among the notes, everything doubted among the warnings. The options are those
    of :func:`project`.
    """
    side = max(geometry.rows, geometry.cols)
    read = read_radiograph(
        path,
        size=side,
        invert=invert,
        input_kind=input_kind,
        fit=fit,
        rotate=rotate,
        flip=flip,
        crop=crop,
    )
    notes, warnings = list(read.notes), list(read.warnings)
    name, mirrored, angle_deg = view_of(read, view, notes)
    if not math.isfinite(angle_deg):
        raise UserError(f"got an angle of {angle_deg}", "wanted degrees", "correct --angle")
    angle_deg %= 360
    said = None if read.stored.view is None else view_angle_deg(read.stored.view)[0]
    if said is not None and abs(angle_difference_deg(said, angle_deg)) > 0.5:
        warnings.append(
            f"its file says that it is {read.stored.view}, whereas it is used as the view at "
            f"{angle_deg:g}°"
        )
    both = torch.stack([read.image, read.mask])
    if mirrored:
        both = both.flip(-1)
    if read.geometry is not None:
        both = laid_as(both, read.geometry, geometry, angle_deg, notes)
        warnings += disagreements(read.geometry, geometry, angle_deg)
        theirs, ours = read.geometry.line_integral_scale, geometry.line_integral_scale
        if (
            theirs
            and ours
            and read.kind != "display"
            and not math.isclose(theirs, ours, rel_tol=1e-3)
        ):
            both[0] *= theirs / ours
            notes.append(
                f"the geometry beside it has line_integral_scale {theirs:g}: brought "
                f"to the prior's, {ours:g}"
            )
    y, x = (side - geometry.rows) // 2, (side - geometry.cols) // 2
    image, mask = both[:, y : y + geometry.rows, x : x + geometry.cols]
    notes, warnings = ([f"{Path(path).name}: {t}" for t in texts] for texts in (notes, warnings))
    has_scale = read.kind != "display" and (
        input_kind == "line-integral"
        or (read.geometry is not None and read.geometry.line_integral_scale is not None)
    )
    return InputXray(
        image, mask, angle_deg, mirrored, name, read, tuple(notes), tuple(warnings), has_scale
    )


def checked(
    xray: InputXray, checks: FilmChecks, *, invert: bool, rotate: int, flip: bool
) -> InputXray:
    """The X-ray, warned of where it does not show what was stated; options of :func:`project`."""
    stated = Stated(
        angle_deg=xray.angle_deg,
        view=xray.view,
        mirrored=xray.mirrored,
        inverted=invert,
        rotated_deg=rotate,
        flipped=flip,
    )
    found = checks(xray.image, xray.mask, stated).warnings
    named = tuple(f"{xray.read.source.name}: {text}" for text in found)
    return replace(xray, warnings=(*named, *xray.warnings))


def view_of(
    read: Radiograph, view: str | float | None, notes: list[str]
) -> tuple[str, bool, float]:
    """The name of an X-ray's view, whether it is mirrored into the picture, and its angle.

    A view that nobody named is the file's, or the angle of the geometry beside it, or PA.
    """
    stored, geometry = read.stored, read.geometry
    mirrored = False
    if view is None and stored.view is not None:
        view, mirrored = stored.view, stored.mirrored
        notes.append(f"the file says that it is a {view} film" + ", mirrored" * mirrored)
    if view is None and stored.angle_deg is not None:
        view, mirrored = stored.angle_deg, stored.mirrored
        notes.append(f"the file says that it is the view at {view:g}°")
    if view is None and geometry is not None and geometry.views == 1:
        view = geometry.angles_deg[0]
        notes.append(f"taken for the view at {view:g}°, as the geometry beside it says")
    if view is None:
        view = "PA"
        notes.append("taken for a PA film; --view says otherwise")
    if not isinstance(view, str):
        return str(view), mirrored, float(view)
    angle_deg, hung_mirrored = view_angle_deg(view)
    if hung_mirrored:
        notes.append(
            f"an AP film is the mirror image of the view at {angle_deg:g}°: mirrored "
            "before use, as the target shows"
        )
    return view, mirrored ^ hung_mirrored, angle_deg


def laid_as(
    images: Tensor, found: Geometry, wanted: Geometry, angle_deg: float, notes: list[str]
) -> Tensor:
    """Pictures [..., n, n] of one geometry turned to lie as another has its view at an angle."""
    turn = turn_between(found, wanted, angle_deg)
    if turn is None or turn[:2] == (0, False):
        return images
    quarters, over, _ = turn
    notes.append(
        "the geometry beside it has its columns or axis otherwise than the prior: "
        f"{turned_words(quarters, over)} to lie as the prior has it"
    )
    images = torch.rot90(images, -quarters, (-2, -1))
    return images.flip(-1) if over else images


def disagreements(found: Geometry, prior: Geometry, angle_deg: float) -> list[str]:
    """A sentence for each way in which an X-ray's own geometry contradicts the prior or the angle.

    >>> from ..imaging.geometry import DEFAULTS
    >>> (text,) = disagreements(DEFAULTS["knee"].at([0]), DEFAULTS["chest"], 0)
    >>> text.partition(":")[0]
    'the geometry beside it has a field 192 mm wide, the prior one of 358 mm'
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
    turn = turn_between(found, prior, angle_deg)
    for name in ("axis", "tilt_deg", "columns_flipped") if turn is None else ("tilt_deg",):
        if getattr(found, name) != getattr(prior, name):
            texts.append(
                f"has {name} {getattr(found, name)}, the prior {getattr(prior, name)}: the result "
                "follows the prior"
            )
    expected_deg = angle_deg if turn is None else turn[2]
    if found.views == 1 and abs(angle_difference_deg(found.angles_deg[0], expected_deg)) > 0.5:
        texts.append(
            f"says {found.angles_deg[0]:g}°, whereas it is used as the view at {angle_deg:g}°"
        )
    return [f"the geometry beside it {text}" for text in texts]
