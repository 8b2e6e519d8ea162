"""NRRD files (``.nrrd``, ``.nhdr``), in any space and unit of length."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from .label import label_of
from .stored import StoredScan, no_scan, unreadable
from .text_headers import Layout, TextHeader, data_files, read_header, voxels

SUFFIXES = (".nrrd", ".nhdr")
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {
    "raw": "raw",
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bzip2",
    "bzip2": "bzip2",
    "txt": "text",
    "text": "text",
    "ascii": "text",
    "hex": "hex",
}
#: The sense in LPS of a world axis, by the end that it runs to.
SENSES = {"l": 1, "r": -1, "p": 1, "a": -1, "s": 1, "i": -1}
NO_SPACE = (
    "the header does not name the directions of its space: they were taken for the patient's left, "
    "back and head"
)


def read_nrrd(path: Path) -> StoredScan:
    """Read an NRRD file; raises UserError for what is damaged or no whole 3-D scan."""
    header = read_header(path, "", _pair)
    axes = header.wholes("dimension", 1)[0]
    if not 1 <= axes <= 6:
        raise unreadable(path, f"{axes} axes")
    size = header.wholes("sizes", axes)
    vectors = _vectors(header, "space directions") or [np.zeros(3)] * axes
    if len(vectors) != axes:
        raise unreadable(path, f"{len(vectors)} space directions for {axes} axes")
    space = [k for k in range(axes) if vectors[k] is not None and (axes == 3 or size[k] != 1)]
    each = math.prod(n for k, n in enumerate(size) if k not in space)
    if axes == 3 and len(space) < 3:
        raise UserError(
            f"got '{path}', whose space directions say 'none' of one of its three axes",
            "wanted a direction and a step for each",
            "correct the header",
        )
    if len(space) != 3 or each != 1:
        raise no_scan(path, [size[k] for k in space] or size, each)
    stored = voxels(header, _layout(header, tuple(size[k] for k in space)))
    affine, has_size, remarks = _affine(header, [vectors[k] for k in space], space)
    unit_mm, more = header.unit_mm("space units", "units")
    affine[:3] *= unit_mm
    quantity, mu_water_per_mm, note = label_of(header.fields)
    return StoredScan(
        values=stored.astype(np.float32),
        affine=affine,
        dtype=stored.dtype,
        has_size=has_size,
        quantity=quantity,
        mu_water_per_mm=mu_water_per_mm,
        note=note,
        remarks=(*remarks, *more),
    )


def _pair(line: str) -> tuple[str, str] | None:
    """The name and value of a field, or of a key-value pair.

    >>> _pair("space: scanner-xyz"), _pair("note:=a: b"), _pair("# made: today")
    (('space', ' scanner-xyz'), ('note', 'a: b'), None)
    """
    if line.startswith("#"):
        return None
    name, separator, value = re.split(r"(:=|:|$)", line, maxsplit=1)
    return (name, value) if separator else None


def _layout(header: TextHeader, size: tuple[int, ...]) -> Layout:
    """How the voxels are stored."""
    path, fields = header.path, header.fields
    kind = next((k for k, names in TYPES.items() if fields.get("type", "").lower() in names), None)
    coding = ENCODINGS.get(fields.get("encoding", "").lower())
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "little").lower())
    if kind is None or coding is None or order is None:
        raise unreadable(path, "values of no type, encoding or order of bytes that is known")
    said = fields.get("data file", fields.get("datafile"))
    return Layout(
        dtype=np.dtype(f"{order}{kind}"),
        size=size,
        coding=coding,
        names=() if said is None else data_files(header, said, _listed(header)),
        skip_lines=header.wholes("line skip", 1, default=0)[0],
        skip_bytes=header.wholes("byte skip", 1, default=0)[0],
    )


def _listed(header: TextHeader) -> list[str]:
    """The lines below the field that lists data files."""
    text = header.path.read_text(encoding="utf-8", errors="replace")
    return re.split(r"(?im)^data ?file:.*$", text, maxsplit=1)[-1].splitlines()


def _affine(
    header: TextHeader, vectors: list[np.ndarray | None], space: list[int]
) -> tuple[np.ndarray, bool, list[str]]:
    """Voxel index to LPS in the header's unit, whether it gives a size, and what was assumed."""
    path, axes = header.path, header.wholes("dimension", 1)[0]
    affine, remarks = np.eye(4), []
    spacing = header.numbers("spacings", count=axes)
    has_size = True
    if "space directions" in header.fields:
        affine[:3, :3] = np.stack([v for v in vectors if v is not None], axis=1)
    elif spacing is not None and not np.isnan(spacing[space]).any():
        affine[:3, :3] = np.diag(spacing[space])
        if (spacing[space] <= 0).any():
            raise unreadable(path, "a size in its header that cannot be")
    else:
        has_size = False
    for origin in _vectors(header, "space origin"):
        affine[:3, 3] = np.zeros(3) if origin is None else origin
    name = header.fields.get("space", "").lower()
    words = name.split("-") if "-" in name else list(name)
    if len(words) == 3 and all(word[:1] in SENSES for word in words) and "xyz" not in name:
        order = ["lrpasi".index(word[0]) // 2 for word in words]
        if sorted(order) != [0, 1, 2]:
            raise unreadable(path, f"the space '{name[:40]}'")
        turned = np.zeros((4, 4))
        turned[3, 3] = 1
        for k, (axis, word) in enumerate(zip(order, words, strict=True)):
            turned[axis, k] = SENSES[word[0]]
        affine = turned @ affine
    elif len(words) == 4 or name.endswith("time") or "left-handed" in name:
        raise UserError(
            f"got '{path}' in the space '{name[:40]}'",
            "wanted the patient's left, back and head, or such a right-handed space",
            "write it again with space: left-posterior-superior",
        )
    elif has_size:
        remarks.append(NO_SPACE)
    if not np.isfinite(affine).all():
        raise unreadable(path, "a place in its header that is no number")
    return affine, has_size, remarks


def _vectors(header: TextHeader, name: str) -> list[np.ndarray | None]:
    """The vectors of a field, such as ``(4,0,0) (0,5,0) none``; none without the field."""
    found: list[np.ndarray | None] = []
    for word in re.findall(r"\([^)]*\)|[^\s(]+", header.fields.get(name, "")):
        if word.lower() == "none":
            found.append(None)
            continue
        try:
            found.append(np.array([float(v) for v in word.strip("()").split(",")]))
        except ValueError:
            raise unreadable(header.path, f"no vectors under '{name}'") from None
        if found[-1].shape != (3,):  # type: ignore[union-attr]
            raise unreadable(header.path, f"vectors that are not three numbers under '{name}'")
    return found
