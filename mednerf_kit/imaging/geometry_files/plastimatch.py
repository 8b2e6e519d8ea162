"""plastimatch: the options of ``plastimatch drr``, and the text file beside each of its pictures.

Angles are those of this package: at 0 the source stands at +x and turns to −y. Columns run as seen
from the source. ``-n`` is the direction from the detector to the source; ``-y`` is left alone, for
it is read in radians. Pairs (``-r``, ``-z``, ``-c``, the first line of a text file) are columns and
rows, x before y, although the help calls them rows and columns. Pixels hold a tenth of the line
integral.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core import files
from ...core.errors import UserError
from ..geometry import Geometry
from ..orbit_of_frames import geometry_of_frames
from ..view_frames import ViewFrame
from .base import (
    GEOMETRY_FILES,
    MIRRORED,
    OWN_KEY,
    Detector,
    kept_apart,
    kept_in,
    refuse_view_frames,
    snapped,
    unmirrored,
    unreadable,
    with_kept,
)

PROGRAM = "plastimatch drr"
#: What nine printed digits leave of an angle in degrees and of a position in mm.
PRINTED = 2e-5
#: What arithmetic leaves of both where all digits are printed.
EXACT = 1e-9
VALUES = {
    "a": 1,
    "num-angles": 1,
    "N": 1,
    "gantry-angle-spacing": 1,
    "sad": 1,
    "sid": 1,
    "r": 2,
    "dim": 2,
    "z": 2,
    "detector-size": 2,
    "c": 2,
    "image-center": 2,
    "n": 3,
    "nrm": 3,
    "vup": 3,
}  # options that place source and detector, and how many numbers each has
SHORT = {
    "num-angles": "a",
    "gantry-angle-spacing": "N",
    "dim": "r",
    "detector-size": "z",
    "image-center": "c",
    "nrm": "n",
}


@GEOMETRY_FILES.register("plastimatch")
class PlastimatchOptions:
    """The options of ``plastimatch drr``, a call a line, or the text files beside its pictures."""

    suffix = ".txt"

    @staticmethod
    def detect(path: Path) -> bool:
        if path.is_dir():
            return any(is_view_file(file) for file in path.glob("*.txt"))
        return path.suffix == ".txt" and (is_view_file(path) or PROGRAM in _start(path))

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        if path.is_dir() or is_view_file(path):
            texts = sorted(path.glob("*.txt"), key=files.natural_key) if path.is_dir() else [path]
            views = [read_view(text) for text in texts if is_view_file(text)]
            return orbit_of_views(views, detector or views[0].guessed_detector())[0]
        try:
            text = path.read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line.strip().startswith(PROGRAM)]
            found = [_of_options(_options(line), path) for line in lines]
        except (OSError, ValueError) as error:
            raise unreadable(path, error, PROGRAM) from None
        angles = [angle for geometry in found for angle in geometry.angles_deg]
        if not found or any(geometry.at(()) != found[0].at(()) for geometry in found):
            raise UserError(
                f"got '{path}' with {len(found)} calls that differ in more than the view",
                "wanted one detector and one pair of distances",
                "leave only the calls of one set",
            )
        return with_kept(found[0].at(angles), kept_in(text, "#", "\n"))

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        refuse_view_frames(geometry, "plastimatch")
        plain = unmirrored(geometry)
        pixel, rows, cols = plain.pixel_mm, plain.rows, plain.cols
        right, up = plain.offset_mm
        common = (
            f"{PROGRAM} --sad {plain.source_to_isocentre_mm!r} --sid "
            f'{plain.source_to_detector_mm!r} -r "{cols} {rows}" '
            f'-z "{cols * pixel!r} {rows * pixel!r}" '
            f'-c "{(cols - 1) / 2 - right / pixel!r} {(rows - 1) / 2 + up / pixel!r}"'
        )
        step = _step(plain.angles_deg)
        if plain.axis == "z" and not plain.tilt_deg and step is not None:
            calls = [f"{common} -a {plain.views} -N {step!r}"]
        else:
            frames = plain.frames_of_views()
            calls = [
                f'{common} -n "{_numbers(n)}" --vup "{_numbers(-row)}"'
                for n, row in zip(frames.towards.numpy(), frames.row.numpy() / pixel, strict=True)
            ]
        kept = json.dumps(kept_apart(geometry))
        files.write_text(path, "\n".join([f"# {OWN_KEY} {kept}", *calls]) + "\n")
        notes = [
            "add -I CT -O PREFIX -t pfm and, as the isocentre, -o; multiply the pixels by 10 to "
            "have line integrals"
        ]
        return (
            (*notes, MIRRORED.format(program="plastimatch"))
            if geometry.columns_flipped
            else (*notes,)
        )


@dataclass(frozen=True)
class ViewFile:
    """The text file beside a picture: one view in LPS millimetres of the CT."""

    path: Path
    middle: tuple[float, float]  # column and row at which the central ray meets the detector
    source_to_isocentre_mm: float
    source_to_detector_mm: float
    axes: np.ndarray  # [3, 3] image right, image down and the way from source to detector
    source_mm: np.ndarray  # [3]
    pixel_mm: tuple[float, float]  # pitch of the columns and of the rows

    def guessed_detector(self) -> Detector:
        """The detector whose middle the central ray meets."""
        cols, rows = (round(2 * middle + 1) for middle in self.middle)
        return Detector(rows, cols, self.pixel_mm[0])


def view_text(geometry: Geometry, angle_deg: float) -> str:
    """The text that plastimatch writes beside the picture of a view, the isocentre at 0, 0, 0."""
    plain = unmirrored(geometry).at([angle_deg])
    pixel = plain.pixel_mm
    source, _, right, down = (vectors[0].numpy() for vectors in plain.frames_of_views())
    axes = np.stack([right / pixel, down / pixel, np.cross(right, down) / pixel**2])
    extrinsic = np.eye(4)
    extrinsic[:3] = np.column_stack([axes, -axes @ source])
    intrinsic = np.zeros((3, 4))
    intrinsic[:, :3] = np.diag([1 / pixel, 1 / pixel, 1 / plain.source_to_detector_mm])
    middle = (
        (plain.cols - 1) / 2 - plain.offset_mm[0] / pixel,
        (plain.rows - 1) / 2 + plain.offset_mm[1] / pixel,
    )
    distances = (plain.source_to_isocentre_mm, plain.source_to_detector_mm)
    parts = [
        *(_row(numbers) for numbers in (middle, *(intrinsic @ extrinsic))),
        *(_row([distance]) for distance in distances),
        _row(axes[2]),
        "Extrinsic",
        *map(_row, extrinsic),
        "Intrinsic",
        *map(_row, intrinsic),
    ]
    return "\n".join(parts) + "\n"


def _row(numbers: Sequence[float] | np.ndarray) -> str:
    return "".join(f"{number + 0.0:18.8e}" for number in numbers)


def is_view_file(path: Path) -> bool:
    """Whether a file is the text that plastimatch writes beside a picture."""
    text = _start(path)
    return "Extrinsic" in text and "Intrinsic" in text


def read_view(path: Path) -> ViewFile:
    """Read the text file beside a picture; raises UserError for a damaged one."""
    try:
        words = path.read_text(encoding="utf-8").replace("Extrinsic", " ").replace("Intrinsic", " ")
        numbers = np.array([float(word) for word in words.split()])
        if len(numbers) != 47 or not np.isfinite(numbers).all():
            raise ValueError(f"{len(numbers)} numbers for 47")
        extrinsic, intrinsic = numbers[19:35].reshape(4, 4), numbers[35:].reshape(3, 4)
        axes, shift = extrinsic[:3, :3], extrinsic[:3, 3]
        pixel = 1 / intrinsic[0, 0], 1 / intrinsic[1, 1]
    except (OSError, ValueError, ZeroDivisionError) as error:
        raise unreadable(path, error, PROGRAM) from None
    return ViewFile(
        path, (numbers[0], numbers[1]), numbers[14], numbers[15], axes, -axes.T @ shift, pixel
    )


def orbit_of_views(views: Sequence[ViewFile], detector: Detector) -> tuple[Geometry, np.ndarray]:
    """The orbit of pictures of ``detector`` pixels, and its isocentre [3] in LPS mm of the CT."""
    first = views[0]
    col_mm, row_mm = first.pixel_mm
    if not math.isclose(row_mm, col_mm, rel_tol=1e-6):
        raise UserError(
            f"got '{first.path}' with pixels of {col_mm:g} by {row_mm:g} mm",
            "wanted square ones",
            "give -z and -r the same ratio",
        )
    # nine digits are printed
    pitch = round(col_mm * detector.cols, 4) / detector.cols
    isocentre = first.source_mm + first.source_to_isocentre_mm * first.axes[2]
    frames = []
    for view in views:
        right, down, ahead = view.axes
        middle = (  # of the detector, seen from where the central ray meets it
            ((detector.cols - 1) / 2 - view.middle[0]) * pitch * right
            + ((detector.rows - 1) / 2 - view.middle[1]) * pitch * down
        )
        source = view.source_mm - isocentre
        centre = source + view.source_to_detector_mm * ahead + middle
        frames.append(_frame(source, centre, pitch * right, pitch * down))
    found = geometry_of_frames(frames, rows=detector.rows, cols=detector.cols)
    return snapped(dataclasses.replace(found, pixel_mm=pitch), PRINTED), isocentre


def _frame(*vectors: np.ndarray) -> ViewFrame:
    """A frame of source, detector, column and row."""
    names = ("source_mm", "detector_mm", "column_mm", "row_mm")
    return ViewFrame(**{n: tuple(v.tolist()) for n, v in zip(names, vectors, strict=True)})


def _of_options(options: dict[str, list[float]], path: Path) -> Geometry:
    """The geometry of one call's options; raises ValueError for one that is missing."""
    missing = [name for name in ("sad", "sid", "r", "z") if name not in options]
    if missing:
        raise ValueError(f"no {', '.join('-' * min(len(n), 2) + n for n in missing)}")
    (cols, rows), (width, height) = options["r"], options["z"]
    pixel = width / cols
    if not math.isclose(pixel, height / rows, rel_tol=1e-9):
        raise ValueError("pixels that are not square")
    col, row = options.get("c", [(cols - 1) / 2, (rows - 1) / 2])
    setup = Geometry(
        source_to_isocentre_mm=options["sad"][0],
        source_to_detector_mm=options["sid"][0],
        rows=int(rows),
        cols=int(cols),
        pixel_mm=pixel,
        offset_mm=(((cols - 1) / 2 - col) * pixel, (row - (rows - 1) / 2) * pixel),
        columns_flipped=False,
    )
    if "n" not in options:
        count = int(options.get("a", [1])[0])
        step = options.get("N", [360 / count])[0]
        return snapped(setup.at(k * step for k in range(count)), EXACT)
    towards, vup = (np.array(options.get(n, [0, 0, 1])) for n in ("n", "vup"))
    towards = towards / np.linalg.norm(towards)
    right = np.cross(vup, towards)
    right /= np.linalg.norm(right)
    up = np.cross(towards, right)
    source = setup.source_to_isocentre_mm * towards
    shift = setup.offset_mm[0] * right + setup.offset_mm[1] * up
    centre = source - setup.source_to_detector_mm * towards + shift
    frame = _frame(source, centre, pixel * right, -pixel * up)
    return snapped(geometry_of_frames([frame], rows=setup.rows, cols=setup.cols), EXACT)


def _options(line: str) -> dict[str, list[float]]:
    """The numbers of a call's options by their short names."""
    words, found = shlex.split(line), {}
    for word, value in zip(words, words[1:], strict=False):
        name = word.lstrip("-") if word.startswith("-") else ""
        if name in VALUES:
            found[SHORT.get(name, name)] = [float(number) for number in value.split()]
            if len(value.split()) != VALUES[name]:
                raise ValueError(f"{word} with '{value}'")
    return found


def _step(angles_deg: Sequence[float]) -> float | None:
    """The step of angles that are its multiples from 0 on, or None."""
    if not angles_deg or angles_deg[0] != 0:
        return None
    step = angles_deg[1] if len(angles_deg) > 1 else 0.0
    return step if all(k * step == angle for k, angle in enumerate(angles_deg)) else None


def _start(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(4000)
    except (OSError, UnicodeDecodeError):
        return ""


def _numbers(vector: np.ndarray) -> str:
    return " ".join(repr(float(value) + 0.0) for value in vector)
