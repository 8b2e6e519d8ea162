"""MetaImage files (``.mha``, ``.mhd``), with their unit of length and their own rescaling."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from .label import label_of
from .stored import StoredScan, by, no_scan, unreadable
from .text_headers import Layout, TextHeader, data_files, read_header, voxels

SUFFIXES = (".mha", ".mhd")
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: Path) -> StoredScan:
    """Read a MetaImage; raises UserError for what is damaged or no whole 3-D scan."""
    header = read_header(path, "elementdatafile", _pair)
    axes = header.wholes("ndims", 1)[0]
    if not 1 <= axes <= 5:
        raise unreadable(path, f"{axes} axes")
    size = header.wholes("dimsize", axes)
    channels = header.wholes("elementnumberofchannels", 1, default=1)[0]
    if channels != 1 or axes < 3 or any(n != 1 for n in size[3:]):
        raise no_scan(path, size, channels)
    stored = voxels(header, _layout(header, tuple(size)))
    slope, offset = (
        header.numbers(f"elementtointensityfunction{name}", count=1) for name in ("slope", "offset")
    )
    unit_mm, remarks = header.unit_mm("distanceunits")
    values = stored.reshape(stored.shape[-3:]).astype(np.float32)
    factor = 1.0 if slope is None else float(slope[0])
    summand = 0.0 if offset is None else float(offset[0])
    if factor and (factor, summand) != (1, 0):
        values = values * np.float32(factor) + np.float32(summand)
        remarks.append(f"values were rescaled to {factor:g}·stored {summand:+g} by the header")
    affine, has_size = _affine(header, axes)
    affine[:3] *= unit_mm
    lengths = np.linalg.norm(_directions(header, axes), axis=0)
    quantity, mu_water_per_mm, note = label_of(header.fields)
    return StoredScan(
        values=values,
        affine=affine,
        dtype=stored.dtype,
        has_size=has_size,
        size_fault=None if np.allclose(lengths, 1, atol=1e-3) else _no_units(path, lengths),
        quantity=quantity,
        mu_water_per_mm=mu_water_per_mm,
        note=note,
        remarks=tuple(remarks),
    )


def _pair(line: str) -> tuple[str, str] | None:
    """A field's name and value.

    >>> _pair("note = a: b = c")
    ('note ', ' a: b = c')
    """
    name, separator, value = re.split(r"([=:]|$)", line, maxsplit=1)
    return (name, value) if separator else None


def _layout(header: TextHeader, size: tuple[int, ...]) -> Layout:
    """How the voxels are stored."""
    path, fields = header.path, header.fields
    kind = TYPES.get(fields.get("elementtype", "").upper().removesuffix("_ARRAY"))
    if kind is None:
        raise unreadable(path, "values of no type that is known")

    def says(*names: str, default: str = "false") -> bool:
        text = next((fields[name] for name in names if name in fields), default)
        return text[:1].lower() in ("t", "1")

    coding = "zlib" if says("compresseddata") else "raw"
    if not says("binarydata", default="true"):
        coding = "text"
    order = ">" if says("binarydatabyteordermsb", "elementbyteordermsb") else "<"
    said = fields.get("elementdatafile", "")
    behind = said.upper() == "LOCAL"
    return Layout(
        dtype=np.dtype(f"{order}{kind}"),
        size=size,
        coding=coding,
        names=() if behind else data_files(header, said, header.lines),
        skip_bytes=header.wholes("headersize", 1, default=0)[0],
    )


def _directions(header: TextHeader, axes: int) -> np.ndarray:
    """The directions of i, j and k as the columns of a [3, 3] matrix."""
    matrix = header.numbers("transformmatrix", "rotation", "orientation", count=axes**2)
    return np.eye(3) if matrix is None else matrix.reshape(axes, axes)[:3, :3].T


def _affine(header: TextHeader, axes: int) -> tuple[np.ndarray, bool]:
    """Voxel index to LPS in the header's unit, and whether it gives the size of voxels."""
    spacing = header.numbers("elementspacing", "elementsize", count=axes)
    origin = header.numbers("offset", "position", "origin", count=axes)
    has_size = spacing is not None and not np.isnan(spacing[:3]).any()
    sizes = spacing[:3] if spacing is not None and has_size else np.ones(3)
    affine = np.eye(4)
    affine[:3, :3] = _directions(header, axes) * sizes
    affine[:3, 3] = 0 if origin is None else origin[:3]
    if not np.isfinite(affine).all() or (sizes <= 0).any():
        raise unreadable(header.path, "a place or size in its header that cannot be")
    return affine, has_size


def _no_units(path: Path, lengths: np.ndarray) -> UserError:
    """What is wrong where the axes are no unit vectors, beside a spacing."""
    return UserError(
        f"got '{path}' with axes {by(lengths)} long in its TransformMatrix, beside a spacing",
        "wanted unit vectors there",
        "correct the header, or say the size of voxels with --spacing-mm",
    )
