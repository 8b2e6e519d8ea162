"""The files of a COLMAP reconstruction, as text or binary: cameras, images and points."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from .nsvf import OPENCV

#: COLMAP's models by number, each with its number of parameters. Those that :func:`lens_of` does
#: not know are refused by their names.
MODELS = (
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
    ("FOV", 5),
    ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5),
    ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    ("SIMPLE_DIVISION", 4),
    ("DIVISION", 5),
    ("SIMPLE_FISHEYE", 3),
    ("FISHEYE", 4),
    ("EUCM", 6),
    ("EQUIRECTANGULAR", 2),
)
#: Of the models that are read: the lens's model, whether both focal lengths are given, and the
#: names of the coefficients that follow the principal point.
LENSES = {
    "SIMPLE_PINHOLE": ("brown", False, ""),
    "PINHOLE": ("brown", True, ""),
    "SIMPLE_RADIAL": ("brown", False, "k1"),
    "RADIAL": ("brown", False, "k1 k2"),
    "OPENCV": ("brown", True, "k1 k2 p1 p2"),
    "FULL_OPENCV": ("brown", True, "k1 k2 p1 p2 k3 k4 k5 k6"),
    "SIMPLE_FISHEYE": ("fisheye", False, ""),
    "FISHEYE": ("fisheye", True, ""),
    "SIMPLE_RADIAL_FISHEYE": ("fisheye", False, "k1"),
    "RADIAL_FISHEYE": ("fisheye", False, "k1 k2"),
    "OPENCV_FISHEYE": ("fisheye", True, "k1 k2 k3 k4"),
}


@dataclass(frozen=True)
class ColmapCamera:
    """A line of cameras.txt."""

    model: str
    cols: int
    rows: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapView:
    """A line of images.txt."""

    name: str
    camera: int
    pose: Tensor  # [3, 4] camera to world: right, up, back, position
    seen: np.ndarray  # numbers of the points seen in it, −1 for keypoints without one
    xy: np.ndarray  # [K, 2] where in the picture, in pixels from its corner


@dataclass(frozen=True)
class ColmapModel:
    """A reconstruction."""

    cameras: dict[int, ColmapCamera]
    views: list[ColmapView]  # by name
    points: Tensor  # [N, 3]
    errors: Tensor  # [N] mean reprojection error, pixels
    rows: dict[int, int]  # number of a point -> its row in ``points``


def seen_rows(model: ColmapModel, view: ColmapView) -> Tensor:
    """Rows in ``model.points`` of the points a view sees."""
    return torch.tensor(
        [model.rows[k] for k in view.seen.tolist() if k in model.rows], dtype=torch.long
    )


def find_models(root: Path) -> list[Path]:
    """The folders of reconstructions, the usual place of one first."""
    folders = [root / "sparse" / "0", root / "sparse", root / "colmap" / "sparse" / "0", root]
    for place in (root / "sparse", root / "colmap" / "sparse"):
        if place.is_dir():
            folders += sorted(path for path in place.iterdir() if path.is_dir())
    return [
        where
        for where in dict.fromkeys(folders)
        if any(
            all((where / f"{name}{suffix}").is_file() for name in ("cameras", "images"))
            for suffix in (".bin", ".txt")
        )
    ]


def find_model(root: Path) -> Path | None:
    """The folder of the reconstruction with the most pictures."""
    return max(find_models(root), key=count_views, default=None)


def count_views(where: Path) -> int:
    """How many pictures a reconstruction placed; 0 where its file cannot be read."""
    try:
        if (where / "cameras.bin").is_file() and (where / "images.bin").is_file():
            with open(where / "images.bin", "rb") as file:
                return _next(file, "<Q")[0]
        lines = (where / "images.txt").read_text(encoding="utf-8-sig").splitlines()
        return len([line for line in lines if not line.startswith("#")][::2])
    except (OSError, ValueError, struct.error):
        return 0


def read_model(where: Path) -> ColmapModel:
    """Read cameras, images and points3D; binary wins where both are there."""
    binary = (where / "cameras.bin").is_file() and (where / "images.bin").is_file()
    suffix, read = (".bin", _read_binary) if binary else (".txt", _read_text)
    try:
        cameras, views, points = read(where, suffix)
        check_numbers(cameras, views, points)
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
        MemoryError,
        struct.error,
    ) as error:
        raise UserError(
            f"got a COLMAP model in '{where}' that cannot be read ({error})",
            "wanted whole cameras, images and points3D files",
            "export it again with COLMAP's model_converter",
        ) from None
    if not views:
        raise UserError(
            f"got a COLMAP model in '{where}' without images",
            "wanted at least one that was placed",
            "run the mapper again",
        )
    rows = {number: row for row, number in enumerate(points)}
    values = np.array(list(points.values()), dtype=np.float64).reshape(-1, 4)
    return ColmapModel(
        cameras,
        sorted(views, key=lambda view: view.name),
        torch.from_numpy(values[:, :3]),
        torch.from_numpy(values[:, 3]).float(),
        rows,
    )


Parts = tuple[
    dict[int, ColmapCamera], list[ColmapView], dict[int, tuple[float, float, float, float]]
]


def check_numbers(
    cameras: Mapping[int, ColmapCamera], views: Sequence[ColmapView], points: Mapping[int, tuple]
) -> None:
    """Raise ValueError for numbers that no reconstruction has."""
    for number, camera in cameras.items():
        if not all(map(math.isfinite, camera.params)) or min(camera.cols, camera.rows) < 1:
            raise ValueError(f"camera {number} has numbers that are not finite, or no size")
    for view in views:
        if not bool(view.pose.isfinite().all()):
            raise ValueError(f"the pose of '{view.name}' is not finite")
    if not np.isfinite(list(points.values())).all():
        raise ValueError("points are not finite")


def _read_text(where: Path, suffix: str) -> Parts:
    cameras, views, points = {}, [], {}
    for words in _lines(where / f"cameras{suffix}"):
        cameras[int(words[0])] = ColmapCamera(
            words[1], int(words[2]), int(words[3]), tuple(map(float, words[4:]))
        )
    lines = (where / f"images{suffix}").read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    for head, seen in zip(lines[::2], lines[1::2] + [""], strict=False):
        words = head.split(maxsplit=9)
        if words:
            values, keypoints = list(map(float, words[1:8])), seen.split()
            xy = np.array([keypoints[::3], keypoints[1::3]], dtype=np.float64).T
            views.append(
                ColmapView(
                    words[9],
                    int(words[8]),
                    pose_of(values[:4], values[4:]),
                    np.array(keypoints[2::3], dtype=np.int64),
                    xy,
                )
            )
    for words in _lines(where / f"points3D{suffix}"):
        points[int(words[0])] = (float(words[1]), float(words[2]), float(words[3]), float(words[7]))
    return cameras, views, points


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that is no comment; a file that is not there has none."""
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read_binary(where: Path, suffix: str) -> Parts:
    cameras, views, points = {}, [], {}
    with open(where / f"cameras{suffix}", "rb") as file:
        for _ in range(_next(file, "<Q")[0]):
            number, model, cols, rows = _next(file, "<iiQQ")
            if not 0 <= model < len(MODELS):  # how many parameters follow is not known
                raise unread_lens(f"number {model}")
            name, count = MODELS[model]
            cameras[number] = ColmapCamera(name, cols, rows, _next(file, f"<{count}d"))
    size = (where / f"images{suffix}").stat().st_size
    with open(where / f"images{suffix}", "rb") as file:
        for _ in range(_next(file, "<Q")[0]):
            _, *values, camera = _next(file, "<i7di")
            name = b"".join(iter(lambda: file.read(1) or b"\0", b"\0")).decode("utf-8")
            count = _next(file, "<Q")[0]
            left = size - file.tell()
            if 24 * count > left:
                raise ValueError(f"'{name}' has {count} points in {left} bytes")
            keypoints = np.frombuffer(
                file.read(24 * count), dtype=[("xy", "<f8", 2), ("point", "<i8")]
            )
            pose = pose_of(values[:4], values[4:])
            views.append(ColmapView(name, camera, pose, keypoints["point"], keypoints["xy"]))
    path = where / f"points3D{suffix}"
    if path.is_file():
        with open(path, "rb") as file:
            for _ in range(_next(file, "<Q")[0]):
                number, x, y, z, *_, error, track = _next(file, "<Q3d3BdQ")
                points[number] = (x, y, z, error)
                file.seek(8 * track, 1)
    return cameras, views, points


def _next(file: BinaryIO, form: str) -> tuple:
    """The next values of a binary file."""
    return struct.unpack(form, file.read(struct.calcsize(form)))


def pose_of(q: Sequence[float], t: Sequence[float]) -> Tensor:
    """The camera's right, up, back and position [3, 4] from COLMAP's quaternion and shift.

    The quaternion (w, x, y, z) and the shift go from world to camera, in OpenCV's axes.
    """
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_quat([q[1], q[2], q[3], q[0]]).as_matrix()
    return torch.from_numpy(np.column_stack([turn.T, -turn.T @ np.array(t)])) * OPENCV


def unread_lens(model: str) -> UserError:
    """The error for a camera model that is not read."""
    return UserError(
        f"got a COLMAP camera of model {model}",
        f"wanted one of {', '.join((*LENSES, 'EQUIRECTANGULAR'))}",
        "undistort the pictures with COLMAP's image_undistorter",
    )
