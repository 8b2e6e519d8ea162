"""Slices to a volume: files of their own or frames of one file, by their own position and slope.

Pixels are decoded by pydicom, which hands out what is stored. (Other libraries turn values over
that are tagged MONOCHROME1; of a CT that tag only says how it is shown.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ..dicom_header import Header
from .bounded import opened
from .stored import DEFLATE, StoredScan, by, check_voxels, unreadable

END_OF_STREAM = b"\xff\xd9"  # of every JPEG
UNEVEN = 0.1  # of the step between slices: positions may differ by that much from even ones
SIDEWAYS = 0.5  # of a pixel, likewise
HOUNSFIELD = ("", "HU", "US")  # rescale types of a CT: none, Hounsfield units, unspecified
TISSUE_HU = (-200.0, 4000.0)
NO_PADDING = (
    "its Pixel Padding Value is that of tissue and at no corner of a slice: it was taken for none"
)
PLANES = ("sagittal", "coronal", "axial")  # by the axis of their normal


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice: where it lies and how its stored values become real ones."""

    path: Path
    frame: int  # in its file
    size: tuple[int, int]  # rows, columns
    spacing_mm: tuple[float, ...]  # between rows, between columns
    position_mm: tuple[float, ...]  # of the first pixel's centre, LPS
    orientation: tuple[float, ...]  # along a row, along a column
    slope: float
    intercept: float
    is_rescaled: bool  # whether the file gives an intercept
    unit: str  # rescale type, where it is not Hounsfield's
    remark: str = ""  # what was assumed


def term(word: str) -> str:
    """A word of a header if it looks like a term of the standard, and no text of a person's.

    >>> term("PT"), term("DOE^JANE")
    ('PT', 'unknown')
    """
    return word if re.fullmatch("[A-Z_]{1,8}", word) else "unknown"


def slices_of(path: Path, header: Header) -> list[Slice]:
    """The slices of one file; raises UserError where one lacks what a slice must say."""
    frames = header.whole("NumberOfFrames") or 1
    _check_values(path, header)
    own = header.items("PerFrameFunctionalGroupsSequence")
    if own and len(own) != frames:
        raise unreadable(path, f"{frames} frames announced, {len(own)} described")
    shared = (header.items("SharedFunctionalGroupsSequence") or [header])[0]
    if frames > 1 and not own:
        return _unplaced_frames(path, header, frames)
    return [_slice(path, header, (own[k] if own else header, shared), k) for k in range(frames)]


def _check_values(path: Path, header: Header) -> None:
    """Refuse stored values that mean something else than slope and intercept say."""
    stored, high = header.whole("BitsStored"), header.whole("HighBit")
    if stored is not None and high is not None and high != stored - 1:
        raise unreadable(path, f"its {stored} bits end with bit {high}")
    if header.items("ModalityLUTSequence"):
        raise UserError(
            f"got '{path}', whose values are looked up in a Modality LUT",
            "wanted Rescale Slope and Intercept",
            "convert the series with a tool that applies the table",
        )


def _slice(path: Path, header: Header, groups: tuple[Header, Header], frame: int) -> Slice:
    """A slice from the functional groups of its frame, those of all frames, and the file's tags."""

    def numbers(sequence: str, tag: str, count: int) -> tuple[float, ...]:
        for group in groups:
            for item in group.items(sequence):
                if len(found := item.numbers(tag)) == count:
                    return tuple(found)
        return tuple(header.numbers(tag)) if len(header.numbers(tag)) == count else ()

    found = {
        tag: numbers(sequence, tag, count)
        for sequence, tag, count in (
            ("PixelMeasuresSequence", "PixelSpacing", 2),
            ("PlanePositionSequence", "ImagePositionPatient", 3),
            ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        )
    }
    missing = [tag for tag, value in found.items() if not value]
    if missing:
        of = f" in frame {frame + 1}" if (header.whole("NumberOfFrames") or 1) > 1 else ""
        raise UserError(
            f"got '{path}' without {', '.join(missing)}{of}",
            "wanted whole CT slices only",
            "remove or re-export that file",
        )
    transform = "PixelValueTransformationSequence"
    slopes, intercepts = (numbers(transform, f"Rescale{n}", 1) for n in ("Slope", "Intercept"))
    slope = (slopes or (1.0,))[0]
    if slope == 0:
        raise unreadable(path, "its Rescale Slope is 0")
    units = [item.word("RescaleType") for group in groups for item in group.items(transform)]
    unit = (units or [header.word("RescaleType")])[0]
    return Slice(
        path=path,
        frame=frame,
        size=(header.whole("Rows") or 0, header.whole("Columns") or 0),
        spacing_mm=found["PixelSpacing"],
        position_mm=found["ImagePositionPatient"],
        orientation=found["ImageOrientationPatient"],
        slope=slope,
        intercept=(intercepts or (0.0,))[0],
        is_rescaled=bool(intercepts),
        unit="" if unit in HOUNSFIELD else term(unit),
    )


def _unplaced_frames(path: Path, header: Header, frames: int) -> list[Slice]:
    """Frames that say nothing of their places, at the distance that the file gives for all."""
    spacing, step, remark = header.numbers("PixelSpacing"), None, ""
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        step = step or header.number(tag)
        if step and not remark:
            remark = f"its frames do not say where they lie: {step:g} mm apart was assumed ({tag})"
    if len(spacing) != 2 or not step or step < 0:
        raise UserError(
            f"got '{path}', whose {frames} frames do not say where they lie",
            "wanted PixelSpacing and SpacingBetweenSlices, or a position for each frame",
            "export it as single slices",
        )
    orientation = header.numbers("ImageOrientationPatient")
    if len(orientation) != 6:
        orientation = [1, 0, 0, 0, 1, 0]
        remark += "; axial slices from the feet to the head were assumed"
    position = header.numbers("ImagePositionPatient")
    start = np.array(position if len(position) == 3 else [0, 0, 0])
    normal = np.cross(orientation[:3], orientation[3:])
    slope = header.number("RescaleSlope")
    if slope == 0:
        raise unreadable(path, "its Rescale Slope is 0")
    unit = header.word("RescaleType")
    return [
        Slice(
            path=path,
            frame=k,
            size=(header.whole("Rows") or 0, header.whole("Columns") or 0),
            spacing_mm=tuple(spacing),
            position_mm=tuple(start + k * step * normal),
            orientation=tuple(orientation),
            slope=1.0 if slope is None else slope,
            intercept=header.number("RescaleIntercept") or 0.0,
            is_rescaled=header.has("RescaleIntercept"),
            unit="" if unit in HOUNSFIELD else term(unit),
            remark=remark,
        )
        for k in range(frames)
    ]


def pile(headers: Iterable[Header]) -> str:
    """What pile the files of a series form, in words; "" for pictures in all different planes."""
    headers = list(headers)
    first = headers[0]
    frames = sum(header.whole("NumberOfFrames") or 1 for header in headers)
    planes = {
        tuple(round(v, 2) for v in header.numbers("ImageOrientationPatient")) for header in headers
    }
    if len(headers) > 1 and len(planes) == len(headers):
        return ""
    parts = [f"{frames} slices of {first.whole('Columns')}×{first.whole('Rows')} pixels"]
    orientation = first.numbers("ImageOrientationPatient")
    if len(orientation) == 6:
        normal = np.cross(orientation[:3], orientation[3:])
        parts[0] = parts[0].replace("slices", f"{PLANES[int(np.abs(normal).argmax())]} slices")
    spacing = first.numbers("PixelSpacing")
    thickness = first.number("SliceThickness")
    if len(spacing) == 2:
        lengths = [spacing[1], spacing[0]]
        parts.append(f"{by(lengths)} mm" + (f", {thickness:g} mm thick" if thickness else ""))
    return ", ".join(parts)


def extent(slices: Sequence[Slice]) -> tuple[float, int]:
    """The volume in mm³ between the outermost of a series' slices, and its number of voxels."""
    first = slices[0]
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    along = np.array([one.position_mm for one in slices]) @ normal
    pixels = math.prod(first.size)
    return float(np.ptp(along)) * pixels * math.prod(first.spacing_mm), pixels * len(slices)


def stacked(
    path: Path, slices: Sequence[Slice], first: Header, remarks: Sequence[str]
) -> StoredScan:
    """The volume of slices, in the order of their positions.

    Raises UserError for slices that differ, that are unevenly spaced or jump sideways, and for
    pixels that cannot be decoded.
    """
    order, affine = _ordered(path, slices)
    plain = [one for one in slices if not one.is_rescaled]
    if 0 < len(plain) < len(slices):
        raise UserError(
            f"got '{plain[0].path}' without RescaleIntercept, which other slices have",
            "wanted one for each slice",
            "export the series again",
        )
    values, padding = _pixels(slices, order)
    units = {one.unit for one in slices}
    said = dict.fromkeys(one.remark for one in slices if one.remark)
    if padding is not None and _is_tissue(values, padding):
        said[NO_PADDING], padding = None, None
    if padding is not None and (share := padding.mean()) > 0:
        said[f"{share:.1%} of the voxels are padding by the header and became air"] = None
    return StoredScan(
        values=values,
        affine=affine,
        padding=padding if padding is not None and padding.any() else None,
        unit="".join(units) if len(units) == 1 else "several units",
        remarks=(*remarks, *said),
    )


def _is_tissue(values: np.ndarray, padding: np.ndarray) -> bool:
    """Whether padding is none: no corner of a slice has its value, which is that of tissue."""
    corners = padding[:, :: padding.shape[1] - 1 or 1, :: padding.shape[2] - 1 or 1]
    if corners.any() or not padding.any():
        return False
    held = values[padding]
    return bool((held > TISSUE_HU[0]).all() and (held < TISSUE_HU[1]).all())


def _ordered(path: Path, slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """The slices' order along their normal (row × column direction), and the affine they span.

    The third axis of the affine is the step from slice to slice, which is no normal where the
    gantry was tilted.
    """

    def refuse(what: str, next_step: str) -> UserError:
        return UserError(
            f"got a DICOM series in '{path}' {what}",
            "wanted equal slices at equal distances",
            next_step,
        )

    alike = np.array([[*one.orientation, *one.spacing_mm, *one.size] for one in slices])
    if not np.allclose(alike, alike[0], rtol=0, atol=1e-3):
        raise refuse(
            "whose slices differ in size, spacing or orientation",
            "remove scouts and other scans from the folder",
        )
    across, down = np.split(alike[0, :6], 2)
    row_mm, col_mm = alike[0, 6:8]
    axes = np.array([[across @ across, across @ down], [across @ down, down @ down]])
    if not np.allclose(axes, np.eye(2), atol=1e-3):
        raise refuse("with sheared axes", "correct ImageOrientationPatient")
    normal = np.cross(across, down)
    positions = np.array([one.position_mm for one in slices])
    along = positions @ normal
    order = along.argsort(kind="stable")
    step = (along.max() - along.min()) / (len(along) - 1)
    steps = np.arange(len(along))
    if (
        not step > 0
        or (np.diff(along[order]) < 0.5 * step).any()
        or np.abs(along[order] - along.min() - step * steps).max() > UNEVEN * step
    ):
        raise refuse(
            "whose slices are not equally spaced",
            "look for missing or doubled slices, or export an even reconstruction",
        )
    placed = positions[order]
    drift = placed - placed[0] - np.outer(along[order] - along.min(), normal)
    slide = drift[-1] / (len(along) - 1)  # sideways, from slice to slice
    if np.abs(drift - np.outer(steps, slide)).max() > SIDEWAYS * min(row_mm, col_mm):
        raise refuse("whose slices jump sideways", "export a reconstruction with one field of view")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * col_mm, down * row_mm, normal * step + slide], axis=1)
    affine[:3, 3] = placed[0]
    return order.tolist(), affine


def _pixels(slices: Sequence[Slice], order: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values [D, rows, cols] rescaled slice by slice, and where the files say they have none."""
    place = {(slices[k].path, slices[k].frame): z for z, k in enumerate(order)}
    shape = (len(slices), *slices[0].size)
    held = sum(path.stat().st_size for path in {one.path for one in slices})
    if math.prod(shape) <= DEFLATE * held:  # else the files do not hold what they announce
        check_voxels(slices[0].path.parent, shape[::-1])
    values = np.empty(shape, np.float32)
    padding = None
    for path in dict.fromkeys(one.path for one in slices):
        tags, stored = _decoded(path)
        empty = _padding(tags, stored)
        if empty is not None and padding is None:
            padding = np.zeros(values.shape, bool)
        for one in slices:
            if one.path != path:
                continue
            z, frame = place[path, one.frame], stored[one.frame]
            if frame.shape != values.shape[1:]:
                raise unreadable(path, "its pixels are not of the size announced")
            real = frame.astype(np.float64 if frame.itemsize > 2 else np.float32)
            values[z] = real * one.slope + one.intercept
            if empty is not None and padding is not None:
                padding[z] = empty[one.frame]
    return values, padding


def _decoded(path: Path) -> tuple[Any, np.ndarray]:
    """A file's elements, and its pixels [frames, rows, cols] as stored."""
    import pydicom
    from pydicom.encaps import generate_frames
    from pydicom.uid import (
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        RLELossless,
    )

    try:
        with opened(path) as file:
            tags = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in tags.file_meta:  # a file that begins without preamble
            implicit, little = tags.original_encoding
            tags.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian
                if implicit
                else ExplicitVRLittleEndian
                if little
                else ExplicitVRBigEndian
            )
        syntax = tags.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated and syntax != RLELossless:
            # decoders fill the rest of a picture that breaks off
            count = int(tags.get("NumberOfFrames") or 1)
            for frame in generate_frames(tags.PixelData, number_of_frames=count):
                if END_OF_STREAM not in frame[-16:]:
                    raise ValueError("a compressed picture breaks off")
        stored = tags.pixel_array
    except Exception:  # whatever a decoder stumbles over; its words may quote the file
        raise unreadable(path, "its pixels cannot be decoded") from None
    return tags, stored if stored.ndim == 3 else stored[None]


def _padding(tags: Any, stored: np.ndarray) -> np.ndarray | None:
    """Where pixels are padding: of one value, or of a range.

    The value may be written as if unsigned where pixels are signed, and the other way round.
    """
    header = Header(tags)
    value, limit = header.whole("PixelPaddingValue"), header.whole("PixelPaddingRangeLimit")
    if value is None or stored.dtype.kind not in "iu":
        return None
    bits, signed = 8 * stored.itemsize, stored.dtype.kind == "i"
    ends = [v % 2**bits for v in (value, value if limit is None else limit)]
    low, high = sorted(v - 2**bits if signed and v >= 2 ** (bits - 1) else v for v in ends)
    return (stored >= low) & (stored <= high)
