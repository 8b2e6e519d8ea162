"""A folder of pictures with a CSV of their angles."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...imaging.geometry import Geometry
from ..films.formats import FORMATS, read_film
from ..films.stored import bone_bright
from .base import IMPORTERS, ForeignOrbit, one_size

FILES = ("file", "filename", "file_name", "file_path", "name", "image", "path", "picture", "view")
DEGREES = ("angle_deg", "angle", "angles_deg", "angles", "degrees", "deg", "gantry_angle")
RADIANS = ("angle_rad", "angles_rad", "theta_rad", "radians", "rad", "theta")
RELATIVE = "integers: shares of their range, whose line integral is unknown"


@IMPORTERS.register("pictures")
class Pictures:
    """PNG, TIFF, JPEG, NPY, PFM … and a CSV with a column of file names and one of angles.

    A CSV without a line of names has files and angles in degrees; behind semicolons a decimal comma
    is understood.

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
            values = values / full
        kind = next((film.kind for film in films if film.kind == "transmission"), "line-integral")
        return [
            ForeignOrbit(
                patient=source.resolve().name,
                values=values,
                names=tuple(names),
                geometry=replace(setup, line_integral_scale=None),
                kind=kind,
                unit=1.0 if full == 1 else scale,
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

    @property
    def in_radians(self) -> bool:
        return self.titles[1].lower() in RADIANS


def _columns(path: Path) -> Columns | None:
    """The columns of a CSV of pictures and angles, or None of another one."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = [cell.strip() for cell in next(csv.reader(file, _dialect(path)), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    known = {name.lower(): k for k, name in enumerate(line)}
    files = next((known[name] for name in FILES if name in known), None)
    angles = next((known[name] for name in (*DEGREES, *RADIANS) if name in known), None)
    if files is not None and angles is not None:
        return Columns(files, angles, (line[files], line[angles]), 1)
    held = [bool(cell) and _picture(path.parent, cell).is_file() for cell in line]
    if len(line) == 2 and sum(held) == 1 and _number(line[1 - held.index(True)]) is not None:
        return Columns(held.index(True), 1 - held.index(True), ("a file", "its angle"), 0)
    return None


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


def _dialect(path: Path) -> type[csv.Dialect] | csv.Dialect:
    """Commas, semicolons or tabs, by the first line."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    dialect = csv.excel()
    dialect.delimiter = max(";\t,", key=first.count)
    return dialect


def _read_table(path: Path) -> tuple[list[tuple[Path, float]], tuple[str, ...]]:
    """Pictures and angles in degrees, and what was assumed."""
    columns = _columns(path)
    assert columns is not None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, _dialect(path)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"got '{path}' ({error})", "wanted a readable table", "write it again"
        ) from None
    rows = []
    for number, row in enumerate(lines[columns.first :], columns.first + 1):
        if not row:
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
