"""One X-ray from PNG, TIFF or NPY: a square picture in [0, 1], bone bright, linear in p.

Here p is the line integral of attenuation.

Every reader of grey pictures here takes the pixels as they were stored from :func:`read_grey`.
Sets of views are read in ``orbits.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError, unknown_name
from ..core.resampling import area_matrix
from ..imaging.geometry import Geometry
from .pictures import decode

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
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
    kind: str  # what the file held: line-integral, transmission or display
    source: Path
    shape: tuple[int, int]  # rows and columns as stored
    bits: int  # per pixel as stored; 32 for floats
    warnings: tuple[str, ...]  # what was assumed, a sentence each
    geometry: Geometry | None  # of ``image``, where a geometry lies beside the file


def view_angle_deg(name: str) -> tuple[float, bool]:
    """The view angle of a film by name, and whether the film must be mirrored to be that view.

    >>> view_angle_deg("PA"), view_angle_deg("ap")
    ((270.0, False), (90.0, True))
    """
    for known, answer in VIEWS.items():
        if name.lower() == known.lower():
            return answer
    raise unknown_name("view", name, VIEWS)


def read_radiograph(
    path: str | Path,
    *,
    size: int,
    invert: bool = False,
    input_kind: Literal["line-integral", "transmission", "display"] = "line-integral",
    fit: Literal["crop", "pad"] = "pad",
) -> Radiograph:
    """Read one X-ray as a square picture of ``size`` pixels.

    ``line-integral``: integers are p/p_max over the full range of the type; floats are line
    integrals when a geometry with a scale lies beside the file (they are divided by it), else they
    must lie in [0, 1]. ``transmission``: T = I/I₀ and p = −ln T (Beer–Lambert), with I₀ = 1 for
    floats and the 99.9th percentile for integers. ``display``: a clinical film, stretched between
    its 0.5th and 99.5th percentiles. ``invert`` turns the stored polarity over first. ``pad`` fills
    with black (air) to the longer side, ``crop`` cuts to the shorter one; both keep the centre,
    then the area filter brings it to ``size``.

    Raises UserError for a picture that is missing, empty, damaged, coloured, constant, not finite
    or under 8×8 pixels.
    """
    path = Path(path)
    if input_kind not in CONVERT:
        raise unknown_name("input kind", input_kind, CONVERT)
    if fit not in ("crop", "pad"):
        raise unknown_name("fit", fit, ("crop", "pad"))
    if size < SMALLEST_PX:
        raise UserError(
            f"got an image size of {size}",
            f"wanted at least {SMALLEST_PX} pixels",
            "choose 64 or 128",
        )
    stored, warnings = read_grey(path)
    if min(stored.shape) < SMALLEST_PX:
        raise UserError(
            f"got '{path}' of {stored.shape[0]}×{stored.shape[1]} pixels",
            f"wanted an X-ray of at least {SMALLEST_PX}×{SMALLEST_PX}",
            "give the original picture",
        )
    if stored.min() == stored.max():
        raise UserError(
            f"got '{path}', whose pixels all hold {stored.flat[0]:g}",
            "wanted an X-ray",
            "give another picture",
        )
    geometry = find_geometry(path)
    values, more = CONVERT[input_kind](
        path, stored, invert, geometry.line_integral_scale if geometry else None
    )
    rows, cols = stored.shape
    side = min(rows, cols) if fit == "crop" else max(rows, cols)
    image = torch.from_numpy(values).float()
    image = area_matrix(rows, size, span=side) @ image @ area_matrix(cols, size, span=side).T
    return Radiograph(
        image=image.clamp(0, 1),
        kind=input_kind,
        source=path,
        shape=(rows, cols),
        bits=8 * min(stored.dtype.itemsize, 4),
        warnings=(*warnings, *more),
        geometry=squared(geometry, rows, cols, side, size) if geometry else None,
    )


def as_unit(values: np.ndarray) -> np.ndarray:
    """Stored pixels as float32: integers over the full range of their type, floats as they are.

    >>> as_unit(np.array([[0, 255]], dtype=np.uint8)).tolist()
    [[0.0, 1.0]]
    """
    full = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    return values.astype(np.float32) / np.float32(full)


def _polarity(path: Path, stored: np.ndarray, invert: bool) -> np.ndarray:
    """Pixels in [0, 1] with the polarity the caller asked for."""
    unit = as_unit(stored)
    if unit.min() < -1e-4 or unit.max() > 1 + 1e-4:
        raise UserError(
            f"got '{path}' with values {unit.min():.3g} to {unit.max():.3g}",
            "wanted floats in [0, 1]",
            "divide by the set's line_integral_scale, or put it into a geometry.json beside the "
            "file",
        )
    unit = unit.clip(0, 1)
    return 1 - unit if invert else unit


def _from_line_integral(
    path: Path, stored: np.ndarray, invert: bool, scale: float | None
) -> tuple[np.ndarray, list[str]]:
    if stored.dtype.kind == "f" and scale is not None:
        if invert:
            raise UserError(
                f"got --invert for '{path}', which holds line integrals",
                "wanted a picture in [0, 1]",
                "leave --invert out",
            )
        values = stored / np.float32(scale)
        if values.min() < -1e-3:
            raise UserError(
                f"got '{path}' with line integrals down to {stored.min():.3g}",
                "wanted none below 0",
                "correct the array",
            )
        return values, [
            f"read as line integrals and divided by {scale:g}, the "
            "line_integral_scale beside the file"
        ]
    values = _polarity(path, stored, invert)
    dim = (
        f"the brightest pixel is {values.max():.0%} of full range "
        "(12-bit values in a 16-bit file look like this)"
    )
    return values, [dim] if values.max() < 0.25 else []


def _from_transmission(
    path: Path, stored: np.ndarray, invert: bool, scale: float | None
) -> tuple[np.ndarray, list[str]]:
    values, warnings = _polarity(path, stored, invert), []
    if stored.dtype.kind == "u":
        open_field = float(np.percentile(values, 99.9))
        floor = 0.5 / np.iinfo(stored.dtype).max  # half a grey level: what a stored 0 stands for
        warnings.append(
            f"took {open_field:.3g} of full range, the 99.9th percentile, for the unattenuated beam"
        )
        values = values / open_field
    else:
        floor = 1e-6
    integral = -np.log(values.clip(floor, 1))
    if scale is None:
        scale = float(integral.max())
        warnings.append(f"scaled so that the densest ray is 1 (line integral {scale:.2f})")
    return integral / scale, warnings


def _from_display(
    path: Path, stored: np.ndarray, invert: bool, scale: float | None
) -> tuple[np.ndarray, list[str]]:
    values = _polarity(path, stored, invert)
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        low, high = values.min(), values.max()
    return ((values - low) / (high - low)).clip(0, 1), [
        "a film prepared for display is not linear in the line integral (its look-up curve is "
        "unknown): "
        "stretched between its 0.5th and 99.5th percentiles, so densities are qualitative"
    ]


#: path, stored pixels, invert, line-integral scale -> image values and what was assumed
CONVERT: dict[
    str, Callable[[Path, np.ndarray, bool, float | None], tuple[np.ndarray, list[str]]]
] = {
    "line-integral": _from_line_integral,
    "transmission": _from_transmission,
    "display": _from_display,
}


def squared(geometry: Geometry, rows: int, cols: int, side: int, size: int) -> Geometry:
    """The geometry of a rows × cols picture cropped or padded to a square and resized to ``size``.

    ``side`` is the square's side in pixels of the picture; both keep the centre.
    """
    if geometry.rows * cols != geometry.cols * rows:
        raise UserError(
            f"got a picture of {rows}×{cols} pixels and a geometry of "
            f"{geometry.rows}×{geometry.cols}",
            "wanted the same shape",
            "correct the geometry beside the picture or remove it",
        )
    return replace(geometry.resized(cols), rows=side, cols=side).resized(size)


def find_geometry(path: str | Path) -> Geometry | None:
    """The geometry of a picture: ``NAME.json`` beside it, or ``geometry.json`` there or one up.

    Only for a view of a set is the folder above looked at.

    A view ``xray_KKK`` of a set gets its own angle, so that ``angles_deg`` has one entry.
    """
    path = Path(path)
    view = re.fullmatch(r"xray_(\d+)", path.stem)
    side_car, here, above = (
        path.with_suffix(".json"),
        path.parent / "geometry.json",
        path.parent.parent / "geometry.json",
    )
    for candidate in (side_car, here, above) if view else (side_car, here):
        if candidate.is_file():
            geometry = Geometry.from_json(candidate)
            if view and candidate != side_car and int(view[1]) < geometry.views:
                return geometry.at([geometry.angles_deg[int(view[1])]])
            return geometry
    return None


def read_grey(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """One grey picture as stored, [H, W] uint8, uint16 or float32, and what was assumed."""
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise UserError(f"got X-ray '{path}', {what}", "wanted a picture file", "check the path")
    if path.stat().st_size == 0:
        raise UserError(f"got '{path}', which is empty", "wanted a picture", "copy the file again")
    with open(path, "rb") as file:
        is_dicom = file.read(132)[128:] == b"DICM"
    if is_dicom or suffix in (".dcm", ".dicom"):
        raise UserError(
            f"got DICOM file '{path}'",
            "wanted PNG, TIFF or NPY (DICOM comes later)",
            "convert it to a 16-bit PNG in which bone is bright",
        )
    if suffix not in SUFFIXES:
        raise UserError(
            f"got '{path}' with suffix '{suffix}'",
            f"wanted one of {', '.join(SUFFIXES)}",
            "convert it to PNG",
        )
    values, warnings = _read_npy(path) if suffix == ".npy" else _read_picture(path)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(
            f"got '{path}' with NaN or infinite pixels",
            "wanted finite numbers",
            "replace them, or mask that part",
        )
    return values, tuple(warnings)


def _read_npy(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from None
    if values.ndim != 2:
        raise UserError(
            f"got '{path}' of shape {values.shape}",
            "wanted one grey picture [rows, cols]",
            "save one view alone",
        )
    if values.dtype.kind == "f":
        return values.astype(np.float32), []
    if values.dtype in (np.uint8, np.uint16):
        return values, []
    raise UserError(
        f"got '{path}' of type {values.dtype}",
        "wanted uint8, uint16 or floats",
        "convert the array",
    )


def _read_picture(path: Path) -> tuple[np.ndarray, list[str]]:
    return decode(path, partial(_grey, path), damaged=partial(_damaged, path))


def _grey(path: Path, picture: Image) -> tuple[np.ndarray, list[str]]:
    """The rule of an X-ray: one page of grey pixels as stored, and what was assumed."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise UserError(
            f"got '{path}' with {frames} pages ({picture.mode})",
            "wanted one picture",
            "save the page you mean on its own",
        )
    warnings = []
    if picture.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        warnings.append("the alpha channel was dropped")
    if picture.mode in ("L", "1", "LA", "La"):
        return np.asarray(picture.convert("L")), warnings
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16), warnings
    if picture.mode == "F":
        return np.asarray(picture).astype(np.float32), warnings
    if picture.mode == "I":
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= 65535:
            return values.astype(np.uint16), warnings
        raise UserError(
            f"got '{path}' with 32-bit pixels",
            "wanted 8 or 16 bits, or floats",
            "save it as a 16-bit PNG",
        )
    colour = np.asarray(picture.convert("RGB")).astype(np.int16)
    # lossy storage of a grey picture leaves a few levels of colour
    if np.ptp(colour, axis=-1).max() > 8:
        raise UserError(
            f"got '{path}', a colour picture",
            "wanted a grey X-ray",
            "give the X-ray itself, saved as grey",
        )
    return colour.mean(-1).round().astype(np.uint8), [
        *warnings,
        "three equal colour channels were read as grey",
    ]


def _damaged(path: Path, error: Exception) -> UserError:
    if type(error).__name__ == "DecompressionBombError":
        return UserError(
            f"got '{path}', which claims to be enormous",
            "wanted an X-ray",
            "check where the file came from",
        )
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    if path.name in reason:  # Pillow's "cannot identify image file PATH"
        reason = "no picture can be recognised in it"
    return UserError(
        f"got '{path}', which is damaged ({reason})",
        "wanted a whole picture",
        "copy or export the file again",
    )
