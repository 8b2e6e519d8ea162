"""X-rays as a prior takes them: at its size, lying as its views do, checked for what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import UserError
from ..data.films.orientation import turned_words
from ..data.radiograph import Crop, InputKind, Radiograph, read_radiograph, view_angle_deg
from ..imaging.geometry import Geometry, angle_difference_deg
from ..imaging.view_frames import ViewFrame
from ..imaging.view_turn import turn_between
from ..prior.load import Prior
from .film_checks import FilmChecks, FilmVerdict, Stated

#: Share of the pixels that a search needs, and that a few can be kept aside of.
LEAST_FITTED = 0.02
#: Columns of the picture that the measurement update works on, where the film has as many.
FINE_PX = 256


#: Share of its rows in which a body reaches the field's edge, from which on it counts as cut, and
#: what of the brightest pixel is body.
CUT_SHARE, BODY_SHARE = 0.9, 0.1

#: By how much of the prior's field a film's may differ before that is said.
FIELD_SHARE = 0.25

#: By what a prior shows: what a file may say that its film shows.
SHOWN_WITH = {
    "chest": ("chest", "heart", "rib", "sternum", "thoracic spine"),
    "knee": ("knee", "patella", "leg", "extremity"),
}


@dataclass(frozen=True)
class InputXray:
    """One X-ray as the prior takes it."""

    image: Tensor  # [rows, cols] of the prior's pictures, mirrored where the film was
    mask: Tensor  # [rows, cols] in [0, 1]: what its pixels count in the fit
    # [2, rows, cols] image and mask as fine as the film has them, at FINE_PX or what the prior has
    fine: Tensor
    angle_deg: float
    mirrored: bool
    view: str  # as the user named it
    read: Radiograph
    notes: tuple[str, ...]  # what was read, done and assumed
    warnings: tuple[str, ...]  # what a reader of the result has to know first
    has_scale: bool = False  # whether an image value stands for a known line integral
    frame: ViewFrame | None = None  # of a view that has one, with the pixels of ``image``
    verdict: FilmVerdict | None = None  # what it shows, compared with what was stated
    read_with: Mapping[str, Any] = field(default_factory=dict)  # the options it was read with

    @property
    def is_film(self) -> bool:
        """Whether its tone curve, or at least its scale, has to be found."""
        from_device = self.read.stored.kind is not None  # whose numbers have no known unit
        return self.read.kind == "display" or (from_device and not self.has_scale)


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


def read_xrays(
    prior: Prior,
    paths: Sequence[str | Path],
    views: Sequence[str | float | None],
    *,
    invert: bool = False,
    rotate: int = 0,
    flip: bool = False,
    **how: Any,
) -> tuple[InputXray, ...]:
    """Read X-rays for a prior and warn of those that do not show what was stated.

    The options are those of :func:`read_xray`.
    """
    how |= {"invert": invert, "rotate": rotate, "flip": flip}
    checks = FilmChecks.of(prior)
    xrays = [
        replace(
            read_xray(path, view, prior.fitted_geometry, **how), read_with={"view": view, **how}
        )
        for path, view in zip(paths, views, strict=True)
    ]
    return tuple(checked(x, checks, invert=invert, rotate=rotate, flip=flip) for x in xrays)


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
    lie as the prior's; one whose view has a frame leaves it as it is. An AP film is mirrored into
    the picture at 90°. Where a line-integral scale lies beside the file and differs from the
    prior's, the picture is brought to the prior's.
    Everything done is among the notes, everything doubted among the warnings. The options are those
    of :func:`~.reconstruct.project`.
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
    name, mirrored, angle_deg = view_of(read, view, notes, warnings)
    angle_deg = checked_angle(read, angle_deg, warnings)
    fine_side = max(side, min(FINE_PX * side // geometry.cols, max(read.picture.shape)))
    both = torch.stack([read.image, read.mask])
    fine = torch.stack(read.resized(fine_side, fit))
    frame = frame_of(read, geometry, notes, turned=bool(rotate or flip))
    mirrored &= frame is None
    if mirrored:
        both, fine = both.flip(-1), fine.flip(-1)
    if read.geometry is not None:
        both, texts = as_the_prior(both, read, geometry, angle_deg)
        fine, _ = as_the_prior(fine, read, geometry, angle_deg)
        notes += texts
        if frame is None:
            warnings += disagreements(read.geometry, geometry, angle_deg)
    image, mask = middle(both, geometry)
    notes += cut_note(image, mask) + field_note(read, geometry)
    finer = geometry.resized(round(fine_side * geometry.cols / side))
    fitted = float((mask >= 0.5).float().mean())
    if fitted < LEAST_FITTED:
        raise UserError(
            f"got '{path}', of whose square picture {fitted:.1%} shows the patient",
            f"wanted at least {LEAST_FITTED:.0%}",
            "cut it with --crop x,y,w,h, or give --fit crop or --crop none",
        )
    notes, warnings = ([f"{Path(path).name}: {t}" for t in texts] for texts in (notes, warnings))
    has_scale = read.kind != "display" and (
        input_kind == "line-integral"
        or (read.geometry is not None and read.geometry.line_integral_scale is not None)
    )
    return InputXray(
        image,
        mask,
        middle(fine, finer),
        angle_deg,
        mirrored,
        name,
        read,
        tuple(notes),
        tuple(warnings),
        has_scale,
        frame,
    )


def checked_angle(read: Radiograph, angle_deg: float, warnings: list[str]) -> float:
    """A view angle in [0, 360); warns where the file itself names another view."""
    if not math.isfinite(angle_deg):
        raise UserError(f"got an angle of {angle_deg}", "wanted degrees", "correct --angle")
    angle_deg %= 360
    said = None if read.stored.view is None else view_angle_deg(read.stored.view)[0]
    if said is not None and abs(angle_difference_deg(said, angle_deg)) > 0.5:
        warnings.append(
            f"its file says that it is {read.stored.view}, whereas it is used as the view at "
            f"{angle_deg:g}°"
        )
    return angle_deg


def frame_of(
    read: Radiograph, geometry: Geometry, notes: list[str], *, turned: bool
) -> ViewFrame | None:
    """The frame that a picture's own geometry gives it, with the pixels of the prior's pictures."""
    if read.geometry is None or not read.geometry.view_frames:
        return None
    if read.geometry.views != 1:
        raise UserError(
            f"got '{read.source}' beside a geometry of {read.geometry.views} view_frames",
            "wanted the one of this X-ray",
            "call it xray_NNN.png as a view of a set, or leave one frame in NAME.json",
        )
    if turned:
        raise UserError(
            f"got '{read.source}' turned, with a view frame that says how it lies",
            "wanted one of the two",
            "leave --rotate and --flip out, or the geometry beside it",
        )
    notes.append("its source and detector stand where the geometry beside it says")
    side = max(geometry.rows, geometry.cols)  # of the square that was read
    return read.geometry.resized(side).view_frames[0]


def middle(pictures: Tensor, geometry: Geometry) -> Tensor:
    """The middle of square pictures [..., n, n] that a geometry's detector covers."""
    side = pictures.shape[-1]
    y, x = (side - geometry.rows) // 2, (side - geometry.cols) // 2
    return pictures[..., y : y + geometry.rows, x : x + geometry.cols]


def checked(
    xray: InputXray, checks: FilmChecks, *, invert: bool, rotate: int, flip: bool
) -> InputXray:
    """The X-ray, warned of where it does not show what was stated; options as :func:`read_xray`."""
    stated = Stated(
        angle_deg=xray.angle_deg,
        view=xray.view,
        mirrored=xray.mirrored,
        inverted=invert,
        rotated_deg=rotate,
        flipped=flip,
    )
    part = xray.read.stored.body_part
    if part and checks.part and part not in SHOWN_WITH[checks.part]:
        text = f"its file says that it shows the {part}, whereas the prior shows a {checks.part}"
        xray = replace(xray, warnings=(*xray.warnings, f"{xray.read.source.name}: {text}"))
    if xray.frame is not None:  # the checks know views of the prior's orbit alone
        return xray
    verdict = checks(xray.image, xray.mask, stated)
    named = tuple(f"{xray.read.source.name}: {text}" for text in verdict.warnings)
    return replace(xray, warnings=(*named, *xray.warnings), verdict=verdict)


def view_of(
    read: Radiograph, view: str | float | None, notes: list[str], warnings: list[str]
) -> tuple[str, bool, float]:
    """The name of an X-ray's view, whether it is mirrored into the picture, and its angle.

    A view that nobody named is the file's, or the angle of the geometry beside it, or PA, which
    a file that names another contradicts.
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
    if view is None and stored.other_view:
        view = "PA"
        warnings.append(
            "its file names a view that is none of PA, AP and the laterals: used as PA; --view "
            "says its angle in degrees"
        )
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


def as_the_prior(
    both: Tensor, read: Radiograph, geometry: Geometry, angle_deg: float
) -> tuple[Tensor, list[str]]:
    """A picture and its mask [2, n, n], read beside a geometry, in the prior's, and what was done.

    They are turned to lie as the prior's view at an angle, and brought to its scale.
    """
    notes: list[str] = []
    assert read.geometry is not None
    if not read.geometry.view_frames:
        both = laid_as(both, read.geometry, geometry, angle_deg, notes)
    theirs, ours = read.geometry.line_integral_scale, geometry.line_integral_scale
    if theirs and ours and read.kind != "display" and not math.isclose(theirs, ours, rel_tol=1e-3):
        both = torch.stack([both[0] * (theirs / ours), both[1]])
        notes.append(
            f"the geometry beside it has line_integral_scale {theirs:g}: brought "
            f"to the prior's, {ours:g}"
        )
    return both, notes


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


def cut_note(image: Tensor, mask: Tensor) -> list[str]:
    """A sentence where the field cuts the body at the side."""
    if side_cut(image, mask) < CUT_SHARE:
        return []
    return [
        "the field cuts the body at the side: what lies outside of it is not on the film, and the "
        "prior fills it in"
    ]


def field_note(read: Radiograph, geometry: Geometry) -> list[str]:
    """A sentence where a film's own lengths contradict the prior's field.

    In the patient the field is that on the detector over the magnification; where that is not
    given it is smaller than on the detector, by how much is not known.
    """
    if read.field_mm is None or read.geometry is not None:
        return []
    detector_mm, patient_mm = read.stored.source_detector_mm, read.stored.source_patient_mm
    magnification = detector_mm / patient_mm if detector_mm and patient_mm else None
    field_mm = read.field_mm / (magnification or 1)
    share = field_mm / (2 * geometry.half_width_mm)
    if share >= 1 - FIELD_SHARE and (share <= 1 + FIELD_SHARE or not magnification):
        return []
    where = "in the patient" if magnification else "on the detector"
    return [
        f"its file says a field {field_mm:.0f} mm wide {where}, the prior has one of "
        f"{2 * geometry.half_width_mm:.0f} mm in the patient: the result has the prior's lengths"
    ]


def side_cut(image: Tensor, mask: Tensor) -> float:
    """Share of the body's rows in which it reaches the first or the last fitted column, whichever
    is more, of a picture and its mask [rows, cols].

    >>> side_cut(torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]), torch.ones(2, 3))
    0.5
    """
    columns = (mask >= 0.5).any(0).nonzero()[:, 0]
    if not len(columns):
        return 0.0
    body = (image > BODY_SHARE * image.amax()) & (mask >= 0.5)
    rows = max(int(body.any(1).sum()), 1)
    return max(int(body[:, k].sum()) for k in (columns[0], columns[-1])) / rows
