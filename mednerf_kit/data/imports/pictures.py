"""A folder of pictures with a CSV of their angles."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...imaging.geometry import Geometry
from ...imaging.geometry_files.tigre import refuse_degrees
from ..films.formats import FORMATS, read_film
from ..films.stored import bone_bright
from .base import IMPORTERS, ForeignOrbit, one_size

FILES = (
    *("file", "filename", "file_name", "file_path", "name", "image", "image_file", "image_name"),
    *("image_path", "path", "picture", "projection", "view"),
)
ANGLE = re.compile(
    r"(?:(angles?|theta|azimuth|rotation|(?:gantry|rotation|view)_angle)(?:_in)?_?)?"
    r"(deg(?:rees?)?|rad(?:ians?)?)?"
)
RELATIVE = "integers: shares of their range, whose line integral is unknown"


@IMPORTERS.register("pictures")
class Pictures:
    """PNG, TIFF, JPEG, NPY, PFM … and a CSV with a column of file names and one of angles.

    Titles may have any case and spelling (``Angle (deg)``, ``theta_rad``); a bare ``theta`` is in
    radians, other angles are in degrees where nothing is said. A CSV without titles has files and
    angles in degrees; behind semicolons a decimal comma is understood.

    The set-up is ``geometry.json`` in the folder, or --geometry; its own angles count nothing.
    Floats are line integrals; integers are shares of the geometry's ``line_integral_scale``, where
    it has one.
    """

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_dir() and any(_columns(path) is not None for path in source.glob("*.csv"))

    @staticmethod
    def example(folder: Path) -> Path:
        from ...imaging.geometry import DEFAULTS
        from ..posed.orbit import ball_integrals

        folder.mkdir(parents=True)
        geometry = DEFAULTS["chest"].resized(16).at([10.0, -5.0, 100.0])
        geometry.save(folder / "geometry.json")
        lines = ["file,angle_deg"]
        for letter, angle, view in zip(
            "abc", geometry.angles_deg, ball_integrals(geometry, radius=0.5), strict=True
        ):
            np.save(folder / f"{letter}.npy", view.numpy())
            lines.append(f"{letter}.npy,{angle:g}")
        (folder / "angles.csv").write_text("\n".join(lines) + "\n")
        return folder

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        table = next(path for path in sorted(source.glob("*.csv")) if _columns(path) is not None)
        if geometry is None and (source / "geometry.json").is_file():
            geometry = Geometry.from_json(source / "geometry.json")
        if geometry is None:
            raise UserError(
                f"got '{source}' with angles and without distances",
                "wanted the X-ray set-up",
                "add --geometry FILE, or lay a geometry.json beside them (docs/formats.md)",
            )
        rows, notes = _read_table(table)
        films = [read_film(path) for path, _ in rows]
        names = [path.name for path, _ in rows]
        values = one_size([bone_bright(film).astype(np.float32) for film in films], names)
        full = films[0].full_scale
        if any(film.full_scale != full for film in films):
            raise UserError(
                f"got pictures of several depths in '{source}'", "wanted one", "convert them"
            )
        height, width = values.shape[1:]
        if height * geometry.cols != width * geometry.rows:
            raise UserError(
                f"got pictures of {height}×{width} pixels and a geometry of {geometry.rows}×"
                f"{geometry.cols}",
                "wanted the same shape",
                "correct rows and cols in the geometry",
            )
        setup = geometry.at(angle for _, angle in rows).resized(width)
        scale = geometry.line_integral_scale
        if full != 1:
            notes = (*notes, RELATIVE) if scale is None else notes
            scale = None if scale is None else scale / full
        kind = next((film.kind for film in films if film.kind == "transmission"), "line-integral")
        return [
            ForeignOrbit(
                patient=source.resolve().name,
                values=values,
                names=tuple(names),
                geometry=replace(setup, line_integral_scale=None),
                kind=kind,
                unit=1.0 if full == 1 else scale,
                full_scale=float(full),
                notes=tuple(dict.fromkeys((*notes, *(n for film in films for n in film.notes)))),
            )
        ]


@dataclass(frozen=True)
class Columns:
    """The columns of file names and of angles in a CSV."""

    files: int
    angles: int
    titles: tuple[str, str]
    first: int  # line with values, counted from 0

    in_radians: bool = False


def _columns(path: Path) -> Columns | None:
    """The columns of a CSV of pictures and angles, or None of another one."""
    try:
        line = next(iter(_lines(path)), [])
    except (OSError, UnicodeError, csv.Error):
        return None
    known = {_title(name): k for k, name in reversed([*enumerate(line)])}
    files = next((known[name] for name in FILES if name in known), None)
    angles = sorted(
        (in_radians, k)
        for name, k in known.items()
        if (in_radians := _in_radians(name)) is not None
    )
    if files is not None and angles:
        in_radians, column = angles[0]
        return Columns(files, column, (line[files], line[column]), 1, in_radians)
    held = [bool(cell) and _picture(path.parent, cell).is_file() for cell in line]
    if len(line) == 2 and sum(held) == 1 and _number(line[1 - held.index(True)]) is not None:
        return Columns(held.index(True), 1 - held.index(True), ("a file", "its angle"), 0)
    return None


def _title(cell: str) -> str:
    """A title in small letters, its words joined.

    >>> _title(" Angle [°]"), _title("Image File")
    ('angle_deg', 'image_file')
    """
    return "_".join(re.findall("[a-z0-9]+", cell.lower().replace("°", " deg ")))


def _in_radians(title: str) -> bool | None:
    """Whether the angles under a title are in radians; None of another one.

    >>> [_in_radians(title) for title in ("angle_in_degrees", "theta", "rad", "tilt")]
    [False, True, True, None]
    """
    found = ANGLE.fullmatch(title)
    if not title or found is None:
        return None
    return found[2].startswith("rad") if found[2] else found[1] == "theta"


def _number(cell: str) -> float | None:
    """A number, with a point or a comma.

    >>> _number("12,5"), _number("east")
    (12.5, None)
    """
    try:
        found = float(cell.replace(",", "."))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _picture(folder: Path, name: str) -> Path:
    """The picture of a name, which may lack its suffix or come from Windows."""
    path = folder / name.strip().replace("\\", "/")
    return path if path.suffix else folder / _with_suffix(folder, path.name)


def _lines(path: Path) -> list[list[str]]:
    """The cells of a table's lines without remarks, by commas, semicolons or tabs.

    Titles may stand in a remark. Raises UnicodeError or csv.Error for what is no table.
    """
    held = path.read_bytes()
    coding = "utf-16" if held[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = held.decode(coding).splitlines()
    while lines and lines[0].startswith("#"):
        first = re.split("[;\t,]", lines[0].strip("# "))
        if any(_in_radians(_title(cell)) is not None for cell in first[1:] or ()):
            lines[0] = lines[0].strip("# ")
            break
        lines.pop(0)
    dialect = csv.excel()
    dialect.delimiter = max(";\t,", key=(lines or [""])[0].count)
    found = csv.reader((line for line in lines if not line.startswith("#")), dialect)
    return [[cell.strip() for cell in line] for line in found]


def _read_table(path: Path) -> tuple[list[tuple[Path, float]], tuple[str, ...]]:
    """Pictures and angles in degrees, and what was assumed."""
    columns = _columns(path)
    assert columns is not None
    lines = _lines(path)
    rows = []
    for number, row in enumerate(lines[columns.first :], columns.first + 1):
        if not any(row):
            continue
        angle = _number(row[columns.angles]) if len(row) > columns.angles else None
        name = row[columns.files].strip() if len(row) > columns.files else ""
        if angle is None or not name:
            files, angles = columns.titles
            raise UserError(
                f"got line {number} of '{path}'",
                f"wanted a file and a number under '{files}' and '{angles}'",
                "correct or remove it",
            )
        rows.append((_picture(path.parent, name), angle))
    if len({name for name, _ in rows}) < len(rows) or not rows:
        raise UserError(
            f"got '{path}' with {len(rows)} lines, in which a file is named twice or none is",
            "wanted a line for each view",
            "correct it",
        )
    if columns.in_radians:
        refuse_degrees([angle for _, angle in rows], "call the column angle_deg")
        return [(name, math.degrees(angle)) for name, angle in rows], ()
    top = max(abs(angle) for _, angle in rows)
    if len(rows) > 3 and top <= 2 * math.pi + 0.01:
        note = f"angles up to {top:.3g} were taken for degrees: call the column angle_rad if not"
        return rows, (note,)
    return rows, ()


def _with_suffix(folder: Path, stem: str) -> str:
    """The name of the picture of this stem."""
    suffixes = [suffix for known in FORMATS.values() for suffix in known.suffixes]
    return next((stem + s for s in suffixes if (folder / (stem + s)).is_file()), stem)
