"""What a format of geometry files is, and which one a file has.

A format is a class registered in :data:`GEOMETRY_FILES`, in a file of its own in this folder. What
a format cannot say (whether columns are mirrored, the line integral that is white) is kept in a
comment or key of the file that other programs pass over, so that the way there and back is exact.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...core.config import Registry
from ...core.errors import UserError, reader
from ...core.files import existing
from ..geometry import Geometry, angle_difference_deg

#: The key, or the first word of the comment, under which this package keeps what a format lacks.
OWN_KEY = "mednerf_kit"
SAME_DEG = 1e-5
MIRRORED = (
    "the pictures' columns are mirrored here and not in {program}: turn each picture over, left to "
    "right, on the way there"
)


@dataclass(frozen=True)
class Detector:
    """Rows, columns and pixel pitch, for formats that do not hold them."""

    rows: int
    cols: int
    pixel_mm: float


class GeometryFormat(Protocol):
    """The contract of a format of geometry files."""

    @property
    def suffix(self) -> str:
        """A class attribute: how the name of such a file ends."""

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether a file, or the folder that holds it, is of this format."""

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        """The geometry of a file; ``detector`` is what it cannot say, or None.

        Raises UserError for a damaged file and for views that no geometry here can describe.
        """

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        """Write a file; answers what has to be known to use it there, a sentence each.

        Raises UserError for a geometry that the format cannot hold.
        """


GEOMETRY_FILES: Registry[GeometryFormat] = Registry("geometry format", home=__package__)


@reader("wanted a whole geometry file", "copy or export it again")
def geometry_format(path: Path) -> str:
    """The name of the format of a file; raises UserError where none recognises it."""
    existing(path, "a geometry")
    for name, entry in sorted(GEOMETRY_FILES.entries.items()):
        if entry.detect(path):  # type: ignore[attr-defined]
            return name
    raise UserError(
        f"got '{path}', which no geometry format recognises",
        f"wanted a file of {', '.join(sorted(GEOMETRY_FILES.entries))}",
        "docs/formats.md shows each of them",
    )


def format_by_name(path: Path) -> str:
    """The format that a file about to be written has by its name; ``own`` for other .json files.

    >>> format_by_name(Path("a/geometry.json")), format_by_name(Path("rtk/geometry.xml"))
    ('own', 'rtk')
    """
    known = GEOMETRY_FILES.entries
    for name, entry in sorted(known.items()):
        if path.name.endswith(entry.suffix) and name != "own":  # type: ignore[attr-defined]
            return name
    if path.suffix.lower() == ".json":
        return "own"
    ends = ", ".join(f"{entry.suffix} ({name})" for name, entry in sorted(known.items()))  # type: ignore[attr-defined]
    raise UserError(
        f"got '{path.name}'", f"wanted a name that ends in {ends}", "rename it, or --to"
    )


@reader("wanted a whole geometry file", "copy or export it again")
def read_geometry(
    path: str | Path, *, format: str | None = None, detector: Detector | None = None
) -> Geometry:
    """Read a geometry file of any format."""
    path = Path(path)
    reader = GEOMETRY_FILES.build(format or geometry_format(path))
    return reader.read(path, detector)


def snapped(geometry: Geometry, noise: float) -> Geometry:
    """An orbit whose numbers lost the noise of their last digits.

    Those within ``noise`` of one with three decimals become it: mm and degrees.
    """
    if geometry.view_frames:
        return geometry

    def short(value: float) -> float:
        rounded = round(value, 3)
        return (rounded if abs(rounded - value) <= noise else value) + 0.0

    right, up = geometry.offset_mm
    return dataclasses.replace(
        geometry,
        source_to_isocentre_mm=short(geometry.source_to_isocentre_mm),
        source_to_detector_mm=short(geometry.source_to_detector_mm),
        offset_mm=(short(right), short(up)),
        tilt_deg=short(geometry.tilt_deg),
        angles_deg=tuple(short(angle % 360) % 360 for angle in geometry.angles_deg),
    )


def unmirrored(geometry: Geometry) -> Geometry:
    """The geometry of the same pictures with their columns as seen from the source.

    ``columns_flipped`` is False, and an offset to image right is one to image left if it was True.
    """
    return turned_over(geometry) if geometry.columns_flipped else geometry


def turned_over(geometry: Geometry) -> Geometry:
    """The geometry of the same pictures with their columns in reverse."""
    right, up = geometry.offset_mm
    frames = []
    for frame in geometry.view_frames:
        x, y, z = (-v + 0.0 for v in frame.column_mm)
        frames.append(dataclasses.replace(frame, column_mm=(x, y, z)))
    return dataclasses.replace(
        geometry,
        columns_flipped=not geometry.columns_flipped,
        offset_mm=(-right + 0.0, up),
        view_frames=tuple(frames),
    )


def with_frames_moved(geometry: Geometry, lifts_mm: Sequence[float]) -> Geometry:
    """The views of an orbit with source and detector moved along z, as of a helix."""
    frames = []
    for frame, lift in zip(geometry.frames_of_views().to_list(), lifts_mm, strict=True):
        (x, y, z), (u, v, w) = frame.source_mm, frame.detector_mm
        moved = {"source_mm": (x, y, z + lift), "detector_mm": (u, v, w + lift)}
        frames.append(dataclasses.replace(frame, **moved))
    return dataclasses.replace(geometry, view_frames=tuple(frames))


def refuse_view_frames(geometry: Geometry, program: str) -> None:
    """Raise UserError for views that each have a frame, which not every format can hold."""
    if geometry.view_frames:
        raise UserError(
            f"got views with a frame each for {program}",
            "wanted a circular orbit",
            "write them as astra or rtk",
        )


def kept_apart(geometry: Geometry, *names: str) -> dict[str, Any]:
    """What a format cannot say of a geometry: the handedness, the scale, and these fields.

    The angles are there in full turns and digits.
    """
    names = ("columns_flipped", "line_integral_scale", "angles_deg", *names)
    return {name: getattr(geometry, name) for name in names}


def with_kept(geometry: Geometry, kept: Mapping[str, Any]) -> Geometry:
    """A geometry without mirrored columns, brought to the handedness and the scale kept apart.

    Its angles become those kept apart where they are the same but for full turns and last digits.
    """
    if kept.get("columns_flipped"):
        geometry = turned_over(geometry)
    angles = kept.get("angles_deg") or ()
    if len(angles) == geometry.views and all(
        abs(angle_difference_deg(a, b)) < SAME_DEG
        for a, b in zip(angles, geometry.angles_deg, strict=True)
    ):
        geometry = dataclasses.replace(geometry, angles_deg=tuple(angles))
    scale = kept.get("line_integral_scale", geometry.line_integral_scale)
    return dataclasses.replace(geometry, line_integral_scale=scale)


def kept_in(text: str, start: str, end: str) -> dict[str, Any]:
    """What :func:`kept_apart` put into a comment between ``start`` + OWN_KEY and ``end``, or {}."""
    _, found, rest = text.partition(f"{start} {OWN_KEY} ")
    try:
        kept = json.loads(rest.partition(end)[0]) if found else {}
    except (ValueError, RecursionError):
        kept = {}
    return kept if isinstance(kept, dict) else {}


def detector_of(kept: Mapping[str, Any], given: Detector | None, path: Path) -> Detector:
    """The detector that was given, or else the one kept in the file."""
    if given is not None:
        return given
    try:
        return Detector(int(kept["rows"]), int(kept["cols"]), float(kept["pixel_mm"]))
    except (ArithmeticError, KeyError, TypeError, ValueError):
        raise UserError(
            f"got '{path}', which does not say how large the detector is",
            "wanted its rows, columns and pixel pitch",
            "add --rows, --cols and --pixel-mm",
        ) from None


def unreadable(path: Path, error: Exception, program: str) -> UserError:
    """The error for a file that is damaged or of another kind than it seems."""
    return UserError(
        f"got '{path}', which cannot be read ({error})",
        f"wanted a geometry as {program} writes it",
        "write it again, or correct it",
    )
