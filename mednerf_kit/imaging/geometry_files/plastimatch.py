"""plastimatch: the options of ``plastimatch drr``, and the text file beside each of its pictures.

Angles are those of this package: at 0 the source stands at +x and turns to −y. Columns run as seen
from the source. ``-n`` is the direction from the detector to the source; ``-y`` is not written, for
it is read in radians. Pairs (``-r``, ``-z``, ``-c``, the first line of a text file) are columns and
rows, x before y, although the help calls them rows and columns; so is ``-w``. Of an option that is
there twice the first one counts. Pixels hold a tenth of the line integral.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
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
#: How a call begins, with or without a path before it or a version in its name.
CALL = re.compile(r"plastimatch\S*\s+drr(?=\s)")
#: What nine printed digits leave of an angle in degrees and of a position in mm.
PRINTED = 2e-5
#: What arithmetic leaves of both where all digits are printed.
EXACT = 1e-9
MOST_VIEWS = 100_000
VALUES = {
    "g": 2,  # of old versions: both distances
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
    "w": 4,
    "subwindow": 4,
    "y": 1,
    "gantry-angle": 1,
}  # options that place source and detector, and how many numbers each has
SHORT = {
    "num-angles": "a",
    "gantry-angle-spacing": "N",
    "dim": "r",
    "detector-size": "z",
    "image-center": "c",
    "nrm": "n",
    "subwindow": "w",
    "gantry-angle": "y",
}
#: What the program's help says it takes where an option is not there.
DEFAULTS = {"sad": [1000.0], "sid": [1500.0]}


@GEOMETRY_FILES.register("plastimatch")
class PlastimatchOptions:
    """The options of ``plastimatch drr``, a call a line, or the text files beside its pictures."""

    suffix = ".txt"

    @staticmethod
    def detect(path: Path) -> bool:
        if path.is_dir():
            return any(is_view_file(file) for file in path.glob("*.txt"))
        script = path.suffix in (".txt", ".sh") and CALL.search(_start(path)) is not None
        return script or (path.suffix == ".txt" and is_view_file(path))

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        if path.is_dir() or is_view_file(path):
            texts = sorted(path.glob("*.txt"), key=files.natural_key) if path.is_dir() else [path]
            views = [read_view(text) for text in texts if is_view_file(text)]
            return orbit_of_views(views, detector or views[0].guessed_detector())[0]
        try:
            text = path.read_text(encoding="utf-8")
            calls = [_options(call) for call in _calls(text)]
            setups = [_setup(options) for options in calls]
            found = _together(calls, setups)
        except (ArithmeticError, OSError, ValueError) as error:
            raise unreadable(path, error, PROGRAM) from None
        return with_kept(found, kept_in(text, "#", "\n"))

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


def _calls(text: str) -> list[str]:
    """The options of each call in a script, whose lines go on behind a backslash.

    >>> _calls("# plastimatch drr -a 1\\nnice plastimatch drr --sad 900 \\\\\\n -a 2")
    [' --sad 900   -a 2']
    """
    lines = re.sub(r"\\\r?\n", " ", text).splitlines()
    found = [CALL.split(line, maxsplit=1) for line in lines if not line.lstrip().startswith("#")]
    return [parts[1] for parts in found if len(parts) > 1]


def _options(call: str) -> dict[str, list[float]]:
    """The numbers of a call's options by their short names.

    >>> _options("--sad=900 -r '32 24' -N -5 -a3 -r '9 9'")
    {'sad': [900.0], 'r': [32.0, 24.0], 'N': [-5.0], 'a': [3.0]}
    """
    words = shlex.split(call, comments=True)
    found: dict[str, list[float]] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if not re.match("--?[a-zA-Z]", word):
            continue
        name, _, value = word.lstrip("-").partition("=")
        if name not in VALUES and not word.startswith("--"):
            name, value = word[1], word[2:]
        if name in VALUES:
            value = value or following
            numbers = [float(number) for number in value.split()]
            if len(numbers) != VALUES[name]:
                raise ValueError(f"{word} with '{value}'")
            found.setdefault(SHORT.get(name, name), numbers)
    if "g" in found:
        found |= {"sad": found["g"][:1], "sid": found["g"][1:]}
    return found


def _setup(options: dict[str, list[float]]) -> Geometry:
    """Distances and detector of one call; raises ValueError for one without, or oblong pixels."""
    options = {**DEFAULTS, **options}
    missing = [f"-{name}" for name in "rz" if name not in options]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    (cols, rows), (width, height) = options["r"], options["z"]
    pixel = width / cols
    if not math.isclose(pixel, height / rows, rel_tol=1e-9):
        raise ValueError("pixels that are not square")
    col, row = options.get("c", [(cols - 1) / 2, (rows - 1) / 2])
    left, right, top, bottom = options.get("w", [0, cols - 1, 0, rows - 1])
    return Geometry(
        source_to_isocentre_mm=options["sad"][0],
        source_to_detector_mm=options["sid"][0],
        rows=int(bottom - top + 1),
        cols=int(right - left + 1),
        pixel_mm=pixel,
        offset_mm=(((left + right) / 2 - col) * pixel, (row - (top + bottom) / 2) * pixel),
        columns_flipped=False,
    )


def _together(calls: Sequence[dict[str, list[float]]], setups: Sequence[Geometry]) -> Geometry:
    """The views of all calls; raises ValueError where they have different pictures, or none."""
    if not calls:
        raise ValueError("no call of the program in it")
    first = setups[0]
    pictures = {(setup.rows, setup.cols, setup.pixel_mm) for setup in setups}
    if len(pictures) > 1:
        raise ValueError(f"{len(calls)} calls that differ in the detector's pixels")
    angles = [_angles_deg(options) for options in calls]
    if not any("n" in options for options in calls) and all(one == first for one in setups):
        return snapped(first.at(angle for some in angles for angle in some), EXACT)
    frames: list[ViewFrame] = []
    for options, setup, some in zip(calls, setups, angles, strict=True):
        if "n" in options:
            frames.append(_of_normal(options, setup))
        else:
            frames += setup.at(some).frames_of_views().to_list()
    found = geometry_of_frames(frames, rows=first.rows, cols=first.cols)
    return snapped(dataclasses.replace(found, pixel_mm=first.pixel_mm), EXACT)


def _angles_deg(options: dict[str, list[float]]) -> list[float]:
    """The view angles of a call without ``-n``; the first, ``-y``, is read in radians."""
    count, start = int(options.get("a", [1])[0]), math.degrees(options.get("y", [0.0])[0])
    if not 1 <= count <= MOST_VIEWS:
        raise ValueError(f"-a {count}")
    step = options.get("N", [360 / count])[0]
    return [start + k * step for k in range(count)]


def _of_normal(options: dict[str, list[float]], setup: Geometry) -> ViewFrame:
    """The view of a call with ``-n``, whose angles then count nothing."""
    pixel = setup.pixel_mm
    towards, vup = (np.array(options.get(n, [0, 0, 1])) for n in ("n", "vup"))
    towards = towards / np.linalg.norm(towards)
    right = np.cross(vup, towards)
    right /= np.linalg.norm(right)
    up = np.cross(towards, right)
    source = setup.source_to_isocentre_mm * towards
    shift = setup.offset_mm[0] * right + setup.offset_mm[1] * up
    centre = source - setup.source_to_detector_mm * towards + shift
    return _frame(source, centre, pixel * right, -pixel * up)


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
