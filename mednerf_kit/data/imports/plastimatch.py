"""Pictures of ``plastimatch drr`` with the text file that it writes beside each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core import files
from ...core.errors import UserError
from ...imaging.geometry import Geometry
from ...imaging.geometry_files.base import Detector
from ...imaging.geometry_files.plastimatch import (
    ViewFile,
    is_view_file,
    orbit_of_views,
    read_view,
)
from ..films.formats import read_film
from ..grey import air_is_bright
from .base import IMPORTERS, ForeignOrbit, one_size

#: A pixel is a tenth of the line integral.
TENTH = 10.0
#: The number that the program puts behind a prefix.
NUMBER = re.compile(r"\d{4}$")
#: A tenth of a line integral that no patient has.
MOST_TENTH = 20.0


@IMPORTERS.register("plastimatch")
class Plastimatch:
    """PFM, raw and PGM pictures of plastimatch, each with its .txt file.

    Rows are stored from the top and columns as seen from the source. Pixels of PFM and raw files
    are a tenth of the line integral, or exp of minus that with ``-e``; those of an autoscaled PGM
    have no scale.

    Options:
        rows: of raw pictures; None takes them from the text file.
        cols: of raw pictures; None takes them from the text file.
    """

    def __init__(self, *, rows: int | None = None, cols: int | None = None) -> None:
        self.rows, self.cols = rows, cols

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_dir() and any(
            is_view_file(text) and picture_of(text) is not None for text in source.glob("*.txt")
        )

    @staticmethod
    def example(folder: Path) -> Path:
        from ...imaging.geometry import DEFAULTS
        from ...imaging.geometry_files.plastimatch import view_text
        from ..posed.orbit import ball_integrals

        folder.mkdir(parents=True, exist_ok=True)
        geometry = DEFAULTS["chest"].resized(16).orbit(4)
        values = ball_integrals(geometry, radius=0.5).numpy() * 2
        for view, angle in enumerate(geometry.angles_deg):
            (folder / f"ball_{view:04d}.txt").write_text(view_text(geometry, angle))
            stored = np.ascontiguousarray(values[view][:, ::-1] / TENTH, dtype="<f4")
            (folder / f"ball_{view:04d}.pfm").write_bytes(b"Pf\n16 16\n-1\n" + stored.tobytes())
        return folder

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        by_prefix: dict[str, list[Path]] = {}
        for text in sorted(source.glob("*.txt"), key=files.natural_key):
            if is_view_file(text) and picture_of(text) is not None:
                by_prefix.setdefault(NUMBER.sub("", text.stem).strip("_-"), []).append(text)
        name = source.resolve().name
        if len({tuple(read_view(texts[0]).axes[2]) for texts in by_prefix.values()}) > 1 and all(
            len(texts) == 1 for texts in by_prefix.values()
        ):  # a call for each view
            return [self._patient(name, [text for texts in by_prefix.values() for text in texts])]
        return [
            self._patient(prefix if len(by_prefix) > 1 and prefix else name, texts)
            for prefix, texts in by_prefix.items()
        ]

    def _patient(self, name: str, texts: Sequence[Path]) -> ForeignOrbit:
        views = [read_view(text) for text in texts]
        pictures = [path for text in texts if (path := picture_of(text)) is not None]
        arrays = [self._pixels(path, view) for path, view in zip(pictures, views, strict=True)]
        values = one_size(arrays, [str(path) for path in pictures])
        rows, cols = values.shape[1:]
        geometry, isocentre = orbit_of_views(views, Detector(rows, cols, views[0].pixel_mm[0]))
        kind, unit, notes = _meaning(pictures[0], values)
        place = ", ".join(f"{value:.6g}" for value in isocentre)
        return ForeignOrbit(
            patient=name,
            values=values,
            names=tuple(path.name for path in pictures),
            geometry=geometry,
            kind=kind,
            unit=unit,
            log_unit=unit,
            full_scale=65535.0 if pictures[0].suffix.lower() == ".pgm" else 1.0,
            notes=(*notes, f"the isocentre lies at ({place}) mm of the CT"),
        )

    def _pixels(self, path: Path, view: ViewFile) -> np.ndarray:
        """The pixels of a picture [rows, cols], rows from the top."""
        if path.suffix.lower() != ".raw":
            pixels = read_film(path).pixels.astype(np.float32)
            # the format has its rows from the bottom, and plastimatch writes them from the top
            return pixels[::-1] if path.suffix.lower() == ".pfm" else pixels
        values = np.fromfile(path, dtype="<f4")
        guessed = view.guessed_detector()
        rows, cols = self.rows or guessed.rows, self.cols or guessed.cols
        if rows * cols != len(values):
            raise UserError(
                f"got '{path}' of {len(values)} pixels, for {rows}×{cols} by its text file",
                "wanted the size of the picture",
                "add --set rows=R --set cols=C",
            )
        return values.reshape(rows, cols)


def picture_of(text: Path) -> Path | None:
    """The picture beside a text file, floats first, or None."""
    for suffix in (".pfm", ".raw", ".pgm"):
        if text.with_suffix(suffix).is_file():
            return text.with_suffix(suffix)
    return None


def _meaning(picture: Path, values: np.ndarray) -> tuple[str, float | None, tuple[str, ...]]:
    """The kind of the values, the line integral of a value of 1, and a note."""
    if picture.suffix.lower() == ".pgm":
        note = (
            "PGM: each picture was scaled by itself (--autoscale); write -t pfm to keep the scale"
        )
        if air_is_bright(values):
            return "transmission", None, (note, "air is bright: written with -e")
        return "line-integral", None, (note,)
    low, high = float(values.min()), float(values.max())
    if low > 0 and abs(high - 1) < 1e-4:
        return "transmission", TENTH, ("air is 1: written with -e",)
    tops = values.max((1, 2))
    if high > MOST_TENTH or (len(tops) > 1 and np.ptp(tops) < 1e-5 * high):
        note = "each picture was scaled by itself (--autoscale): there is no scale"
        bright = air_is_bright(values)
        return ("transmission" if bright else "line-integral"), None, (note,)
    notes = ["pixels are a tenth of the line integral"]
    if low > 0 and high < 1:
        notes.append("no ray misses the patient: if written with -e, say --input-kind transmission")
    return "line-integral", TENTH, tuple(notes)
