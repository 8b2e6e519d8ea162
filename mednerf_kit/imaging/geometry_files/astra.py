"""ASTRA: a ``cone_vec`` projection geometry as JSON; a ``cone`` one is read too.

Each of its vectors is source, middle of the detector, and the steps to the next column and to the
next row, three numbers each. Rows count from the first one: ASTRA itself has no up or down.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...core import files
from ...core.errors import UserError
from ..geometry import Geometry
from ..orbit_of_frames import geometry_of_frames
from ..view_frames import as_view_frame
from .base import GEOMETRY_FILES, OWN_KEY, Detector, kept_apart, snapped, unreadable, with_kept

NAMES = ("source_mm", "detector_mm", "column_mm", "row_mm")
NOTE = (
    "astra.create_proj_geom('cone_vec', DetectorRowCount, DetectorColCount, numpy.array(Vectors)) "
    "takes it; its data are [rows, views, columns]"
)
#: Degrees and mm within which a number is taken for one of three decimals.
NOISE = 1e-9


@GEOMETRY_FILES.register("astra")
class ConeVectors:
    """The dictionary of ``astra.create_proj_geom('cone_vec', …)`` as JSON, lengths in mm.

    That of ``'cone'``, with its distances, spacings and angles in radians, is read too.
    """

    suffix = ".astra.json"

    @staticmethod
    def detect(path: Path) -> bool:
        values = _values(path)
        return "DetectorRowCount" in values and "type" in values

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        values = _values(path)
        kept = values.get(OWN_KEY) or {}
        try:
            rows, cols = int(values["DetectorRowCount"]), int(values["DetectorColCount"])
            vectors = _vectors(path, values)
            if not vectors or any(len(row) != 12 for row in vectors):
                raise ValueError("Vectors that are not 12 numbers a view")
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error, "ASTRA") from None
        frames = [
            as_view_frame({name: row[3 * k : 3 * k + 3] for k, name in enumerate(NAMES)})
            for row in vectors
        ]
        found = snapped(geometry_of_frames(frames, rows=rows, cols=cols), NOISE)
        return with_kept(found, {k: v for k, v in kept.items() if k != "columns_flipped"})

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        if not geometry.views:
            raise UserError("got a geometry without angles", "wanted views", "add angles_deg")
        frames = geometry.frames_of_views().to_list()
        files.write_json(
            path,
            {
                "type": "cone_vec",
                "DetectorRowCount": geometry.rows,
                "DetectorColCount": geometry.cols,
                "Vectors": [[v for name in NAMES for v in getattr(f, name)] for f in frames],
                OWN_KEY: kept_apart(geometry),
            },
        )
        return (NOTE,)


def _vectors(path: Path, values: dict[str, Any]) -> list[list[float]]:
    """The vectors of each view; raises UserError for another beam than a cone's."""
    if values["type"] == "cone_vec":
        return [[float(number) for number in row] for row in values["Vectors"]]
    if values["type"] != "cone":
        raise UserError(
            f"got '{path}', a geometry of type '{values['type']}'",
            "wanted cone or cone_vec",
            "choose another set",
        )
    before, behind, wide, high = (
        float(values[name])
        for name in (
            "DistanceOriginSource",
            "DistanceOriginDetector",
            "DetectorSpacingX",
            "DetectorSpacingY",
        )
    )
    found = []
    for angle in values["ProjectionAngles"]:
        cos, sin = math.cos(angle), math.sin(angle)
        found.append(
            [sin * before, -cos * before, 0, -sin * behind, cos * behind, 0]
            + [cos * wide, sin * wide, 0, 0, 0, high]
        )
    return found


def _values(path: Path) -> dict[str, Any]:
    try:
        values = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
