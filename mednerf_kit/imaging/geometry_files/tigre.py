"""TIGRE's numbers as R²-Gaussian (``meta_data.json``) and NAF write them.

The source stands at DSO·(cos θ, sin θ, 0), so that θ is minus the view angle, in radians; columns
run along (−sin θ, cos θ, 0), as the source sees them, and rows downwards. ``nDetector`` and
``sDetector`` are rows before columns, ``offDetector`` columns before rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core import files
from ...core.errors import UserError
from ..geometry import Geometry
from .base import (
    GEOMETRY_FILES,
    MIRRORED,
    OWN_KEY,
    Detector,
    kept_apart,
    refuse_view_frames,
    snapped,
    unmirrored,
    unreadable,
    with_frames_moved,
    with_kept,
)

PROGRAM = "TIGRE"
#: Lengths of R²-Gaussian are metres.
METRE = 1000.0
#: From this distance of the source on, lengths are no metres.
FAR = 20.0
#: What moves or turns source and detector in TIGRE, and has no place here unless it is 0.
UNKNOWN = ("COR", "rotDetector")
NOISE = 1e-9


@GEOMETRY_FILES.register("tigre")
class TigreNumbers:
    """DSD, DSO, nDetector, sDetector (or dDetector), offDetector and angles in radians, as JSON.

    Lengths are mm where the file says so under this package's key or the source is 20 units away
    or more, else metres, as in R²-Gaussian's ``meta_data.json``. A ``z_shift`` of a view moves
    source and detector along the axis.
    """

    suffix = ".tigre.json"

    @staticmethod
    def detect(path: Path) -> bool:
        file = _file(path)
        if file.suffix != ".json" or not file.is_file():
            return False
        try:
            values = files.read_json(file)
        except (OSError, ValueError):
            return False
        return isinstance(values, dict) and "DSO" in values.get("scanner", values)

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        path = _file(path)
        try:
            values = files.read_json(path)
            frames = [*values.get("proj_train", ()), *values.get("proj_test", ())]
            thetas = values.get("angles") or [frame["angle"] for frame in frames]
            kept = values.get(OWN_KEY) or {}
            scanner = values.get("scanner", values)
            unit_mm = kept.get("unit_mm") or (1.0 if scanner["DSO"] >= FAR else METRE)
            lifts = [float(frame.get("z_shift", 0)) * unit_mm for frame in frames]
            found, (row_mm, col_mm) = orbit_of_scanner(scanner, thetas, unit_mm)
            if not kept:
                refuse_degrees(thetas, in_turns=any(lifts))
        except (ArithmeticError, OSError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error, PROGRAM) from None
        if not math.isclose(row_mm, col_mm, rel_tol=1e-6):
            raise UserError(
                f"got '{path}' with pixels of {row_mm:g} by {col_mm:g} mm",
                "wanted square ones",
                "bring its projections into a set with data import, which interpolates them",
            )
        if any(lifts) and len(lifts) == found.views:
            found = with_frames_moved(found, lifts)
        return with_kept(found, kept)

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        refuse_view_frames(geometry, PROGRAM)
        if geometry.axis != "z" or geometry.tilt_deg:
            raise UserError(
                f"got an orbit about {geometry.axis}, tilted by {geometry.tilt_deg:g}°",
                "wanted one about z without tilt for TIGRE",
                "write it as astra",
            )
        plain = unmirrored(geometry)
        pixel = plain.pixel_mm
        scanner = {
            "mode": "cone",
            "DSD": plain.source_to_detector_mm,
            "DSO": plain.source_to_isocentre_mm,
            "nDetector": [plain.rows, plain.cols],
            "dDetector": [pixel, pixel],
            "sDetector": [plain.rows * pixel, plain.cols * pixel],
            "offDetector": list(plain.offset_mm),
        }
        angles = [-math.radians(angle) + 0.0 for angle in plain.angles_deg]
        kept = {**kept_apart(geometry), "unit_mm": 1.0}
        files.write_json(path, {"scanner": scanner, "angles": angles, OWN_KEY: kept})
        notes = ["lengths are in mm, angles in radians; TIGRE's rows run upwards: turn them over"]
        return (*notes, MIRRORED.format(program=PROGRAM)) if geometry.columns_flipped else (*notes,)


def orbit_of_scanner(
    scanner: Mapping[str, Any], thetas_rad: Sequence[float], unit_mm: float
) -> tuple[Geometry, tuple[float, float]]:
    """The orbit of a scanner's numbers, and the pitch of its rows and of its columns in mm.

    The geometry's pixel pitch is that of the columns. Raises KeyError, TypeError or ValueError for
    numbers that are missing, and UserError for a parallel beam, a turned detector and a shifted
    axis.
    """
    for name in UNKNOWN:
        if np.any(np.asarray(scanner.get(name, 0), dtype=float)):
            raise UserError(
                f"got a scanner with {name} {scanner[name]}",
                "wanted an axis through the origin and an upright detector",
                "write each view's source and detector as astra",
            )
    if str(scanner.get("mode", "cone")).lower() != "cone":
        raise UserError(
            f"got a scanner of mode '{scanner['mode']}'", "wanted a cone beam", "choose another set"
        )
    rows, cols = (int(n) for n in scanner["nDetector"])
    if "dDetector" in scanner:
        row_mm, col_mm = (float(v) * unit_mm for v in scanner["dDetector"])
    else:
        height, width = (float(v) * unit_mm for v in scanner["sDetector"])
        row_mm, col_mm = height / rows, width / cols
    right, up = (float(v) * unit_mm for v in (*scanner.get("offDetector", (0, 0)), 0, 0)[:2])
    found = Geometry(
        source_to_isocentre_mm=float(scanner["DSO"]) * unit_mm,
        source_to_detector_mm=float(scanner["DSD"]) * unit_mm,
        rows=rows,
        cols=cols,
        pixel_mm=col_mm,
        offset_mm=(right, up),
        columns_flipped=False,
        angles_deg=tuple(-math.degrees(float(theta)) % 360 for theta in thetas_rad),
    )
    return snapped(found, NOISE), (row_mm, col_mm)


def refuse_degrees(
    thetas_rad: Sequence[float],
    next_step: str = "write them in radians",
    *,
    in_turns: bool = False,
) -> None:
    """Raise UserError for angles over two turns, which are degrees.

    Those ``in_turns`` may be a helix's, unless they step by a quarter degree or an eighth of a
    turn.
    """
    thetas = np.array([float(theta) for theta in thetas_rad])
    if np.abs(thetas).max(initial=0) <= 4 * math.pi + 1e-6:
        return
    step = float(np.median(np.abs(np.diff(thetas)))) if len(thetas) > 1 else 0.0
    if in_turns and (4 * thetas != np.round(4 * thetas)).any() and step < math.pi / 4:
        return
    raise UserError(
        f"got angles up to {np.abs(thetas).max():g}, which look like degrees",
        "wanted radians",
        next_step,
    )


def _file(path: Path) -> Path:
    return path / "meta_data.json" if path.is_dir() else path
