"""RTK: the XML of a ``ThreeDCircularProjectionGeometry``.

RTK's x, y, z are y, z, x here: its orbit turns about y, its source stands at +z at gantry angle 0,
which is +x here, and its angle is minus the view angle. Columns run as the source sees them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ...core import files
from ...core.errors import UserError
from ..geometry import Geometry, angle_difference_deg
from ..orbit_of_frames import geometry_of_frames
from ..view_frames import ViewFrame
from .base import (
    GEOMETRY_FILES,
    MIRRORED,
    OWN_KEY,
    Detector,
    detector_of,
    kept_apart,
    kept_in,
    snapped,
    unmirrored,
    unreadable,
    with_kept,
)

PROGRAM = "RTK"
#: What a view may have, its default, and what it is called here.
SID, SDD, GANTRY = "SourceToIsocenterDistance", "SourceToDetectorDistance", "GantryAngle"
OTHERS = (
    "OutOfPlaneAngle",
    "InPlaneAngle",
    "SourceOffsetX",
    "SourceOffsetY",
    "ProjectionOffsetX",
    "ProjectionOffsetY",
)
NOISE = 1e-9
#: From RTK's axes to ours: its x is our y, its y our z, its z our x.
TO_OURS = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
View = dict[str, float]


@GEOMETRY_FILES.register("rtk")
class RtkXml:
    """``geometry.xml`` of RTK: circular orbits, and any other source and detector of each view."""

    suffix = ".xml"

    @staticmethod
    def detect(path: Path) -> bool:
        try:
            with open(path, encoding="utf-8") as file:
                return "RTKThreeDCircularGeometry" in file.read(1000)
        except (OSError, UnicodeDecodeError):
            return False

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        text, views = read_views(path)
        kept = kept_in(text, "<!--", "-->")
        return with_kept(geometry_of_views(views, detector_of(kept, detector, path)), kept)

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        if geometry.axis != "z" and not geometry.view_frames:
            raise UserError(
                f"got an orbit about {geometry.axis}", "wanted one about z", "write it as astra"
            )
        plain = unmirrored(geometry)
        views = _views(plain)
        kept = json.dumps(kept_apart(geometry, "rows", "cols", "pixel_mm"))
        lines = [
            '<?xml version="1.0"?>',
            "<!DOCTYPE RTKGEOMETRY>",
            f"<!-- {OWN_KEY} {kept} -->",
            '<RTKThreeDCircularGeometry version="3">',
        ]
        for view in views:
            lines.append("  <Projection>")
            lines += [f"    <{name}>{value!r}</{name}>" for name, value in view.items() if value]
            matrix = projection_matrix(view)
            lines.append("    <Matrix>")
            lines += ["      " + " ".join(f"{v + 0.0!r}" for v in row) for row in matrix.tolist()]
            lines += ["    </Matrix>", "  </Projection>"]
        files.write_text(path, "\n".join([*lines, "</RTKThreeDCircularGeometry>"]) + "\n")
        pixel = plain.pixel_mm
        origin = [-pixel * (n - 1) / 2 + 0.0 for n in (plain.cols, plain.rows)]
        notes = [
            f"the stack of projections has spacing {pixel:g} {pixel:g} 1 and origin {origin[0]:g} "
            f"{origin[1]:g} 0; its rows run upwards"
        ]
        return (*notes, MIRRORED.format(program=PROGRAM)) if geometry.columns_flipped else (*notes,)


def read_views(path: Path) -> tuple[str, list[View]]:
    """The text of a file, and its views' parameters by their names in RTK.

    Raises UserError for a damaged file, a parallel beam and a curved detector.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!ENTITY" in text:
            raise ValueError("it defines entities")
        root = ElementTree.fromstring(text)
        if root.tag != "RTKThreeDCircularGeometry":
            raise ValueError(f"root <{root.tag}>")
        common = _numbers(root)
        views = [{**common, **_numbers(view)} for view in root.iter("Projection")]
        for view in views:
            view.setdefault(GANTRY, 0.0)
            if not all(map(math.isfinite, view.values())) or SID not in view:
                raise ValueError("a view without its distances")
        if not views:
            raise ValueError("no projection")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise unreadable(path, error, PROGRAM) from None
    if common.get("RadiusCylindricalDetector"):
        raise UserError(
            f"got '{path}' with a cylindrical detector", "wanted a flat one", "resample it"
        )
    if any(not view.get(SDD) for view in views):
        raise UserError(
            f"got '{path}' with a parallel beam (no source-to-detector distance)",
            "wanted a cone beam",
            "choose another set",
        )
    return text, views


def geometry_of_views(views: list[View], detector: Detector) -> Geometry:
    """The geometry of views for pictures whose rows run from the top, columns unmirrored.

    An orbit keeps its numbers as they are written; other views get a frame each.
    """
    first = views[0]
    same = all(
        {k: v for k, v in view.items() if k != GANTRY}
        == {k: v for k, v in first.items() if k != GANTRY}
        for view in views
    )
    simple = not any(first.get(n) for n in ("InPlaneAngle", "SourceOffsetX", "SourceOffsetY"))
    rows, cols, pixel = detector.rows, detector.cols, detector.pixel_mm
    if same and simple and first[SID] < first[SDD]:
        found = Geometry(
            source_to_isocentre_mm=first[SID],
            source_to_detector_mm=first[SDD],
            rows=rows,
            cols=cols,
            pixel_mm=pixel,
            offset_mm=(first.get("ProjectionOffsetX", 0), first.get("ProjectionOffsetY", 0)),
            columns_flipped=False,
            tilt_deg=angle_difference_deg(-first.get("OutOfPlaneAngle", 0.0), 0.0) + 0.0,
            angles_deg=tuple(-view[GANTRY] % 360 for view in views),
        )
        return snapped(found, NOISE)
    frames = []
    for view in views:
        turn = TO_OURS @ rotation(view).T  # from the tilted axes to ours
        x, y = view.get("SourceOffsetX", 0.0), view.get("SourceOffsetY", 0.0)
        u, v = view.get("ProjectionOffsetX", 0.0), view.get("ProjectionOffsetY", 0.0)
        vectors = (
            turn @ [x, y, view[SID]],
            turn @ [u, v, view[SID] - view[SDD]],
            turn @ [pixel, 0, 0],
            turn @ [0, -pixel, 0],
        )
        names = ("source_mm", "detector_mm", "column_mm", "row_mm")
        points = (tuple(vector.tolist()) for vector in vectors)
        frames.append(ViewFrame(**dict(zip(names, points, strict=True))))
    return snapped(geometry_of_frames(frames, rows=rows, cols=cols), NOISE)


def rotation(view: View) -> np.ndarray:
    """From RTK's room to its tilted axes, [3, 3]: gantry about y, out of plane, then in plane."""
    gantry, out, within = (
        math.radians(-view.get(name, 0.0)) for name in (GANTRY, "OutOfPlaneAngle", "InPlaneAngle")
    )
    about_y = np.array(
        [
            [math.cos(gantry), 0, math.sin(gantry)],
            [0, 1, 0],
            [-math.sin(gantry), 0, math.cos(gantry)],
        ]
    )
    about_x = np.array(
        [[1, 0, 0], [0, math.cos(out), -math.sin(out)], [0, math.sin(out), math.cos(out)]]
    )
    about_z = np.array(
        [
            [math.cos(within), -math.sin(within), 0],
            [math.sin(within), math.cos(within), 0],
            [0, 0, 1],
        ]
    )
    return about_z @ about_x @ about_y


def projection_matrix(view: View) -> np.ndarray:
    """RTK's matrix [3, 4] of a view, from its room to the detector in mm."""
    x, y = view.get("SourceOffsetX", 0.0), view.get("SourceOffsetY", 0.0)
    u, v = view.get("ProjectionOffsetX", 0.0), view.get("ProjectionOffsetY", 0.0)
    lens = np.array(
        [[-view[SDD], 0, 0, 0], [0, -view[SDD], 0, 0], [0, 0, 1, -view[SID]]], dtype=float
    )
    from_source = np.eye(4)
    from_source[:2, 3] = -x, -y
    turned = np.eye(4)
    turned[:3, :3] = rotation(view)
    shift = np.eye(3)
    shift[:2, 2] = x - u, y - v
    return shift @ lens @ from_source @ turned


def _views(plain: Geometry) -> list[View]:
    """RTK's parameters of a geometry's views, columns unmirrored."""
    if not plain.view_frames:
        return [
            {
                SID: plain.source_to_isocentre_mm,
                SDD: plain.source_to_detector_mm,
                GANTRY: -angle + 0.0,
                "OutOfPlaneAngle": -plain.tilt_deg + 0.0,
                "ProjectionOffsetX": plain.offset_mm[0],
                "ProjectionOffsetY": plain.offset_mm[1],
            }
            for angle in plain.angles_deg
        ]
    return [_view_of(frame, plain.pixel_mm) for frame in plain.view_frames]


def _view_of(frame: ViewFrame, pixel_mm: float) -> View:
    """RTK's parameters of a frame; raises UserError for pixels that are not the detector's."""
    source, middle, column, row = (
        TO_OURS.T @ np.array(v)
        for v in (frame.source_mm, frame.detector_mm, frame.column_mm, frame.row_mm)
    )
    lengths = [float(np.linalg.norm(v)) for v in (column, row)]
    if abs(column @ row) > 1e-9 * pixel_mm**2 or not np.allclose(lengths, pixel_mm, rtol=1e-9):
        raise UserError(
            "got a view frame whose pixels are no squares of the set's pitch",
            "wanted one pixel pitch for RTK",
            "write it as astra",
        )
    u, v = column / lengths[0], -row / lengths[1]
    turn = np.stack([u, v, np.cross(u, v)])  # rows: the tilted axes
    away = turn @ source, turn @ middle
    out = math.asin(float(np.clip(turn[2, 1], -1, 1)))
    gantry = math.atan2(turn[2, 0], turn[2, 2])
    within = math.atan2(turn[0, 1], turn[1, 1])
    return {
        SID: float(away[0][2]),
        SDD: float(away[0][2] - away[1][2]),
        GANTRY: math.degrees(gantry),
        "OutOfPlaneAngle": -math.degrees(out) + 0.0,
        "InPlaneAngle": math.degrees(within),
        "SourceOffsetX": float(away[0][0]),
        "SourceOffsetY": float(away[0][1]),
        "ProjectionOffsetX": float(away[1][0]),
        "ProjectionOffsetY": float(away[1][1]),
    }


def _numbers(node: Any) -> View:
    """The parameters directly below a node; raises ValueError for one that is no number."""
    names = {SID, SDD, GANTRY, "RadiusCylindricalDetector", *OTHERS}
    return {child.tag: float(child.text or "") for child in node if child.tag in names}
