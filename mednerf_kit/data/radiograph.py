"""One X-ray from a file: a square picture in [0, 1], bone bright, and the weights of its pixels.

The files are read in ``films/``. Sets of views are read in ``orbits.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError, reader, unknown_name
from ..core.resampling import area_matrix
from ..imaging.geometry import Geometry
from .films.conversion import CONVERT, Reading
from .films.formats import read_film
from .films.kind import kind_of
from .films.orientation import turned, turned_words
from .films.regions import field, letters, painted_over, stretched
from .films.stored import GreyKind, StoredFilm

InputKind = Literal["auto", "line-integral", "transmission", "display"]
#: A rectangle (x, y, width, height) in pixels of the upright picture, or how it is found.
Crop = Literal["auto", "none"] | tuple[int, int, int, int]
#: Pixels along the longer side of the picture that is worked on, and shown to people.
WORK_PX = 1024
#: A mask that leaves less of a film than this was not found, but mistaken.
LEAST_SEEN = 0.2
SMALLEST_PX = 8
#: Films by name: the view angle in degrees, and whether the film is the mirror image of the picture
#: at that angle.
VIEWS = {
    "PA": (270.0, False),  # patient's left on image right, as hung
    # hung like a PA film, whereas the picture at 90° has the patient's left on image left
    "AP": (90.0, True),
    "lateral": (0.0, False),  # source on the patient's left, the chest faces image right
    "left-lateral": (180.0, False),  # left side against the detector, the chest faces image left
}


@dataclass(frozen=True)
class Radiograph:
    """A single X-ray, ready to be compared with a rendered view."""

    # [size, size] float32 in [0, 1], bone bright, linear in the line integral (as far as the kind
    # allows)
    image: Tensor
    # [size, size] float32 in [0, 1], weights of a fit: 0 outside the exposed field, on letters and
    # markers, and in the bars that pad a picture to a square
    mask: Tensor
    kind: GreyKind  # line-integral, transmission or display (the tone curve is unknown)
    source: Path
    shape: tuple[int, int]  # rows and columns as stored
    bits: int  # per pixel as stored
    notes: tuple[str, ...]  # what was read and assumed, a sentence each
    warnings: tuple[str, ...]  # what a user has to know first, a sentence each
    geometry: Geometry | None  # of ``image``, where a geometry lies beside the file
    stored: StoredFilm  # what the file holds and says
    # [h, w] float32 in [0, 1]: turned, cropped and toned, before it is made square, and its mask
    picture: Tensor
    picture_mask: Tensor
    field_mm: float | None = None  # width of ``image`` on the detector, where the file says it

    def resized(self, size: int, fit: Literal["crop", "pad"]) -> tuple[Tensor, Tensor]:
        """``image`` and ``mask`` of another size, fitted to a square alike: [size, size] each."""
        side = min(self.picture.shape) if fit == "crop" else max(self.picture.shape)
        image, weights = on_square(self.picture, self.picture_mask, float(side), size)
        return image.clamp(0, 1), weights

    def stored_picture(self) -> Tensor:
        """The grey values as stored, in [0, 1], of the size of a ``picture``: [h, w] float32."""
        pixels = self.stored.pixels
        full = self.stored.full_scale
        if full == 1:  # floats of any range
            low, high = float(pixels.min()), float(pixels.max())
            pixels, full = pixels - min(low, 0.0), max(high, 1.0) - min(low, 0.0)
        factor = max(1, round(max(pixels.shape) / WORK_PX))
        return torch.from_numpy(binned(pixels, factor)) / full


def view_angle_deg(name: str) -> tuple[float, bool]:
    """The view angle of a film by name, and whether the film must be mirrored to be that view.

    >>> view_angle_deg("PA"), view_angle_deg("ap")
    ((270.0, False), (90.0, True))
    """
    for known, answer in VIEWS.items():
        if name.lower() == known.lower():
            return answer
    raise unknown_name("view", name, VIEWS)


@reader("wanted one X-ray", "copy or export it again")
def read_radiograph(
    path: str | Path,
    *,
    size: int,
    invert: bool = False,
    input_kind: InputKind = "auto",
    fit: Literal["crop", "pad"] = "pad",
    rotate: int = 0,
    flip: bool = False,
    crop: Crop = "auto",
) -> Radiograph:
    """Read one X-ray as a square picture of ``size`` pixels.

    ``line-integral``: integers are p/p_max over the full range of the type; floats are line
    integrals when a geometry with a scale lies beside the file (they are divided by it), else they
    must lie in [0, 1]. ``transmission``: T = I/I₀ and p = −ln T (Beer–Lambert), with I₀ = 1 for
    floats and the 99.9th percentile for integers. ``display``: a clinical film, stretched between
    the 0.5th and 99.5th percentiles of its exposed pixels. ``auto`` decides from the file and says
    why in ``notes``.

    Where the file says that bone is dark, the polarity is turned over, and once more by ``invert``.
    ``rotate`` (0, 90, 180 or 270° clockwise) and then ``flip`` (left to right) bring the picture to
    lie as the view is hung and as a geometry beside it says; ``crop`` then cuts a rectangle (x, y,
    width, height) out. ``pad`` fills with black (air) to the longer side, ``crop`` cuts to the
    shorter one; both keep the centre, then the area filter brings it to ``size``.

    Raises UserError for a picture that is missing, empty, damaged, coloured, constant, not finite
    or under 8×8 pixels.
    """
    path = Path(path)
    _check_options(size=size, input_kind=input_kind, fit=fit, rotate=rotate, crop=crop)
    film = read_film(path)
    _check_pixels(path, film.pixels)
    geometry = find_geometry(path)
    notes, warnings = list(film.notes), list[str]()
    kind: GreyKind
    if input_kind == "auto":
        kind, reason = kind_of(film, path, geometry, inverted=invert)
        notes.append(KIND_NOTES[kind].format(reason))
    else:
        kind = input_kind
    pixels, exposed, geometry = _laid(path, film, geometry, rotate // 90, flip, crop, notes)
    shape = pixels.shape
    factor = max(1, round(max(shape) / max(WORK_PX, 2 * size)))
    reading = Reading(
        path,
        binned(pixels, factor) / np.float32(film.full_scale),
        film.full_scale,
        binned(exposed, factor),
        invert=invert ^ _is_turned(film, kind, geometry),
        scale=(scale := geometry.line_integral_scale if geometry else None),
        in_own_unit=input_kind == "auto" and film.kind == kind and scale is None,
        notes=notes,
        warnings=warnings,
    )
    if film.bone_dark and reading.invert != invert:
        notes.append("the file says that bone is dark: the grey values were turned over")
    written = np.zeros(reading.mask.shape, bool)
    if kind in ("display", film.kind) and crop != "none":
        written = _leave_out(reading, kind)
    toned = CONVERT[kind](reading)
    values = torch.from_numpy(painted_over(toned, reading.mask > 0, written)).float()
    mask = torch.from_numpy(reading.mask)
    side = min(shape) if fit == "crop" else max(shape)
    image, weights = on_square(values, mask, side / factor, size)
    return Radiograph(
        image=image.clamp(0, 1),
        mask=weights,
        kind=kind,
        source=path,
        shape=(film.pixels.shape[0], film.pixels.shape[1]),
        bits=film.bits,
        notes=tuple(notes),
        warnings=tuple(warnings),
        geometry=replace(geometry, rows=side, cols=side).resized(size) if geometry else None,
        stored=film,
        picture=values.clamp(0, 1),
        picture_mask=mask,
        field_mm=film.spacing_mm * side if film.spacing_mm else None,
    )


KIND_NOTES = {
    "line-integral": "taken as linear in the line integral, as a DRR is, for {}; --input-kind "
    "display if it is a film for display",
    "transmission": "taken for transmission, for {}",
    "display": "taken for a film prepared for display, for {}; --input-kind line-integral if it is "
    "a DRR",
}


def _check_options(*, size: int, input_kind: str, fit: str, rotate: int, crop: Crop) -> None:
    if input_kind not in get_args(InputKind):
        raise unknown_name("input kind", input_kind, get_args(InputKind))
    if fit not in ("crop", "pad"):
        raise unknown_name("fit", fit, ("crop", "pad"))
    if rotate not in (0, 90, 180, 270):
        raise UserError(
            f"got a rotation of {rotate}°", "wanted 0, 90, 180 or 270 (clockwise)", "correct it"
        )
    if crop not in ("auto", "none") and (isinstance(crop, str) or len(crop) != 4):
        raise UserError(f"got a crop of {crop}", "wanted auto, none or x, y, w, h", "correct it")
    if size < SMALLEST_PX:
        raise UserError(
            f"got an image size of {size}",
            f"wanted at least {SMALLEST_PX} pixels",
            "choose 64 or 128",
        )


def _check_pixels(path: Path, pixels: np.ndarray) -> None:
    rows, cols = pixels.shape
    if min(rows, cols) < SMALLEST_PX:
        raise UserError(
            f"got '{path}' of {rows}×{cols} pixels",
            f"wanted an X-ray of at least {SMALLEST_PX}×{SMALLEST_PX}",
            "give the original picture",
        )
    if pixels.min() == pixels.max():
        raise UserError(
            f"got '{path}', whose pixels all hold {pixels.flat[0]:g}",
            "wanted an X-ray",
            "give another picture",
        )


def _checked_box(
    path: Path, box: tuple[int, int, int, int], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    x, y, width, height = box
    rows, cols = shape
    inside = 0 <= x <= x + width <= cols and 0 <= y <= y + height <= rows
    if not inside or min(width, height) < SMALLEST_PX:
        raise UserError(
            f"got a crop of {width}×{height} pixels at column {x}, row {y} of '{path}'",
            f"wanted at least {SMALLEST_PX}×{SMALLEST_PX} within its {cols}×{rows} (x,y,w,h)",
            "correct --crop",
        )
    return box


def _laid(
    path: Path,
    film: StoredFilm,
    geometry: Geometry | None,
    quarters: int,
    flip: bool,
    crop: Crop,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray, Geometry | None]:
    """The pixels of a film turned and cut as asked for, where they are exposed, their geometry."""
    pixels = turned(film.pixels, quarters, flip)
    exposed = np.ones_like(pixels, bool)
    if film.exposed is not None:
        exposed = turned(film.exposed, quarters, flip)
    if quarters or flip:
        notes.append(f"{turned_words(quarters, flip)} as asked for")
    if geometry is not None:
        geometry = matching(geometry, *pixels.shape)
    if not isinstance(crop, str):
        x, y, width, height = _checked_box(path, crop, pixels.shape)
        pixels, exposed = (v[y : y + height, x : x + width] for v in (pixels, exposed))
        notes.append(f"cut to {width}×{height} pixels from column {x}, row {y}")
        geometry = cut(geometry, crop) if geometry else None
    return pixels, exposed, geometry


def _leave_out(reading: Reading, kind: GreyKind) -> np.ndarray:
    """Take borders, blades and letters out of a film's mask; answers where letters stand."""
    values = reading.values
    if kind == "transmission":  # in which all that is dense looks alike
        values = np.log(values.clip(0.5 / reading.levels, None))
    picture = stretched(values, reading.seen(values))
    open_ = field(picture) & (reading.mask > 0.5)
    written = letters(picture, open_)
    for found, what in ((~open_, "collimator and borders"), (open_ & written, "letters")):
        share = float((found & (reading.mask > 0.5)).mean())
        if share:
            reading.notes.append(f"{what} ({share:.1%} of the picture) are left out of the fit")
    seen = open_ & ~written
    if seen.mean() < LEAST_SEEN:
        reading.warnings.append(
            f"borders and letters would leave {seen.mean():.0%} of the picture: kept whole"
        )
        return np.zeros(seen.shape, bool)
    reading.mask = reading.mask * seen
    return open_ & written


def _is_turned(film: StoredFilm, kind: GreyKind, geometry: Geometry | None) -> bool:
    """Whether the file's own polarity asks for turning its values over."""
    if kind == "transmission" and film.kind is not None:
        # a transmission is dark in bone as it stands, unless the file says that its own is not
        return film.kind == kind and film.bone_dark is False
    holds_integrals = geometry is not None and geometry.line_integral_scale is not None
    if kind == "line-integral" and film.full_scale == 1 and holds_integrals:
        return False  # how to show them, not what they are
    return bool(film.bone_dark)


def binned(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The means of ``factor`` × ``factor`` pixels, float32; what is left over is cut off evenly.

    >>> binned(np.array([[1, 3, 9], [5, 7, 9]]), 2).tolist()
    [[4.0]]
    """
    if factor == 1:
        return pixels.astype(np.float32)
    rows, cols = (n // factor for n in pixels.shape)
    y, x = ((n % factor) // 2 for n in pixels.shape)
    inner = pixels[y : y + rows * factor, x : x + cols * factor]
    return inner.reshape(rows, factor, cols, factor).mean((1, 3), dtype=np.float32)


def on_square(values: Tensor, mask: Tensor, side: float, size: int) -> tuple[Tensor, Tensor]:
    """A picture [h, w] on a square of ``side`` pixels about its centre, made ``size`` pixels wide.

    Each output pixel is the mean over its area, weighted by ``mask`` [h, w]; the share of its area
    that has weight comes second. Where nothing has weight the plain mean is shown.
    """
    down, across = (area_matrix(n, size, span=side) for n in values.shape)
    plain, weighted, weights = (down @ x @ across.T for x in (values, values * mask, mask))
    image = torch.where(weights > 1e-3, weighted / weights.clamp_min(1e-3), plain)
    return image, weights.clamp(0, 1)


def matching(geometry: Geometry, rows: int, cols: int) -> Geometry:
    """A geometry for a picture of rows × cols pixels of the same detector."""
    if geometry.rows * cols != geometry.cols * rows:
        raise UserError(
            f"got a picture of {rows}×{cols} pixels and a geometry of "
            f"{geometry.rows}×{geometry.cols}",
            "wanted the same shape",
            "correct the geometry beside the picture or remove it",
        )
    return geometry.resized(cols)


def cut(geometry: Geometry, box: tuple[int, int, int, int]) -> Geometry:
    """The geometry of a rectangle (x, y, width, height) of the detector's pixels.

    >>> from ..imaging.geometry import DEFAULTS
    >>> cut(DEFAULTS["chest"], (64, 0, 64, 64)).offset_mm
    (128.0, 128.0)
    """
    x, y, width, height = box
    right, down = x + (width - geometry.cols) / 2, y + (height - geometry.rows) / 2
    offset = (
        geometry.offset_mm[0] + right * geometry.pixel_mm,
        geometry.offset_mm[1] - down * geometry.pixel_mm,
    )
    frames = tuple(frame.moved(right, down) for frame in geometry.view_frames)
    return replace(geometry, rows=height, cols=width, offset_mm=offset, view_frames=frames)


def find_geometry(path: str | Path) -> Geometry | None:
    """The geometry of a picture: ``NAME.json`` beside it, or ``geometry.json`` there or one up.

    Only for a view of a set is the folder above looked at.

    A view ``xray_KKK`` of a set, or ``view_KKK`` of an orbit with its geometry beside it, gets its
    own angle, so that ``angles_deg`` has one entry.
    """
    path = Path(path)
    view = re.fullmatch(r"(xray|view)_(\d+)", path.stem)
    side_car, *around = (
        path.with_suffix(".json"),
        path.parent / "geometry.json",
        path.parent.parent / "geometry.json",
    )
    for candidate in (side_car, *around[: 2 if view and view[1] == "xray" else 1]):
        if candidate.is_file():
            geometry = Geometry.from_json(candidate)
            if view and candidate != side_car and int(view[2]) < geometry.views:
                return geometry.subset([int(view[2])])
            return geometry
    return None
