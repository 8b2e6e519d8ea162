"""A COLMAP reconstruction (text or binary) with its photographs: one's own pictures."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras
from .bounds import bounds_of_points, bounds_of_poses
from .lens import Lens, least_zoom
from .llff import picture_folder
from .nsvf import OPENCV
from .pictures import picture_size, pictures_in, read_pictures, scene_of
from .scene import SCENES
from .splits import chosen_views, held_out
from .toy import BALL, toy_cameras, write_toy_picture
from .types import Scene

#: COLMAP's models by number, each with its number of parameters. Those that :func:`lens_of` does
#: not know are refused.
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
)
# scenes of other formats that may keep the reconstruction they came from
OTHERS = ("transforms.json", "transforms_train.json", "poses_bounds.npy")


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


@dataclass(frozen=True)
class ColmapModel:
    """A reconstruction."""

    cameras: dict[int, ColmapCamera]
    views: list[ColmapView]  # by name
    points: Tensor  # [N, 3]
    errors: Tensor  # [N] mean reprojection error, pixels
    rows: dict[int, int]  # number of a point -> its row in ``points``


@SCENES.register("colmap")
class Colmap:
    """A COLMAP reconstruction (text or binary) with its photographs.

    The model lies in sparse/0, sparse or the folder itself; the photographs in images/ or
    images_N/, in folders below as the model names them. Lenses of SIMPLE_RADIAL, RADIAL and OPENCV
    are undistorted on reading; fisheye and fuller models are refused. Box, near and far are those
    of the points without the outermost 1 %. Facts: ``points`` [N, 3].

    Options:
        hold: one view in this many, by name, is held out.
        sparse_depth: the points seen in a view are its depth, with confidence
            exp(−(error / mean error)²) (Deng et al. 2022, eq. 8).
    """

    recipe = "tensorf"

    def __init__(self, *, hold: int = 8, sparse_depth: bool = True) -> None:
        self.hold, self.sparse_depth = hold, sparse_depth

    @staticmethod
    def detect(root: Path) -> bool:
        return find_model(root) is not None and not any((root / name).is_file() for name in OTHERS)

    @staticmethod
    def example(folder: Path) -> Path:
        cameras = toy_cameras()
        points = BALL.sample(40, torch.Generator().manual_seed(0))
        where = folder / "sparse" / "0"
        where.mkdir(parents=True)
        (fx, fy), (cx, cy) = cameras.focal_px[0].tolist(), (cameras.centre_px[0] + 0.5).tolist()
        (where / "cameras.txt").write_text(
            f"# a comment\n1 PINHOLE 16 12 {fx} {fy} {cx} {cy}\n", encoding="utf-8"
        )
        lines = []
        for v in range(cameras.count):
            write_toy_picture(folder / "images" / f"photo_{v}.png", cameras, v, alpha=False)
            pose = cameras.c2w[v] * OPENCV
            turn, shift = pose[:, :3].T, -pose[:, :3].T @ pose[:, 3]
            yx, _ = cameras.to_pixels(torch.full((40,), v), points)
            seen = " ".join(f"{x + 0.5} {y + 0.5} {k + 1}" for k, (y, x) in enumerate(yx.tolist()))
            numbers = " ".join(str(n) for n in (*quaternion(turn), *shift.tolist()))
            lines.append(f"{v + 1} {numbers} 1 photo_{v}.png\n{seen}\n")
        (where / "images.txt").write_text("".join(lines), encoding="utf-8")
        rows = [
            f"{k + 1} {x} {y} {z} 128 128 128 0.5 1 {k} 2 {k}\n"
            for k, (x, y, z) in enumerate(points.tolist())
        ]
        (where / "points3D.txt").write_text("".join(rows), encoding="utf-8")
        return folder

    def load(
        self, root: Path, split: str, *, downscale: int, background: float | None, views: int | None
    ) -> Scene:
        where = find_model(root)
        if where is None:
            raise UserError(
                f"got '{root}' without a COLMAP model",
                "wanted cameras, images and points3D in sparse/0",
                "run COLMAP's mapper, or give the folder above",
            )
        model = read_model(where)
        folder, left, notes = picture_folder(root, downscale)
        files = {path.relative_to(folder).as_posix() for path in pictures_in(folder, deep=True)}
        unposed = len(files - {view.name for view in model.views})
        if unposed:
            notes.append(f"{unposed} pictures have no pose and are left out")
        chosen = chosen_views(held_out(model.views, split, self.hold), split, views, root)
        paths = [folder / view.name for view in chosen]
        lenses = [
            lens_of(model.cameras[view.camera], path)
            for view, path in zip(chosen, paths, strict=True)
        ]
        pictures = read_pictures(paths, downscale=left, background=background, lenses=lenses)
        zooms = torch.tensor([least_zoom(lens, *pictures.full) for lens in lenses])[:, None]
        if any(lens.distorts for lens in lenses):
            notes.append(
                "lens distortion was taken out of the pictures, which enlarged them by up to "
                f"{100 * (zooms.max() - 1):.0f} %"
            )
        near, far, box, how = self.bounds(model)
        cameras = Cameras(
            torch.stack([view.pose for view in chosen]),
            torch.tensor([lens.focal_px for lens in lenses]) * zooms,
            torch.tensor([lens.centre_px for lens in lenses]),
            *pictures.full,
            near,
            far,
        )
        cameras = cameras.resized(*pictures.size)
        depth, confidence = (
            sparse_depth(model, chosen, cameras)
            if self.sparse_depth and len(model.points)
            else (None, None)
        )
        stems = [str(Path(view.name).with_suffix("")) for view in chosen]
        return scene_of(
            pictures,
            root,
            "colmap",
            split,
            stems,
            cameras,
            box,
            depth=depth,
            confidence=confidence,
            facts={"points": model.points},
            notes=(*notes, *how),
        )

    def bounds(self, model: ColmapModel) -> tuple[float, float, Tensor, list[str]]:
        """Near, far and box from the points seen, or without points from the poses."""
        poses = torch.stack([view.pose for view in model.views])
        depths = [
            -((points - pose[:, 3]) @ pose[:, 2])
            for view in model.views
            for points, pose in [(model.points[seen_rows(model, view)], view.pose)]
        ]
        ahead = torch.cat(depths) if depths else torch.zeros(0)
        ahead = ahead[ahead > 0]
        found = (
            bounds_of_points(poses, model.points, ahead)
            if len(ahead) >= 10
            else bounds_of_poses(poses)
        )
        return found.near, found.far, found.box, [f"near, far, box: {found.how}"]


def find_model(root: Path) -> Path | None:
    """The folder of the reconstruction."""
    for where in (root / "sparse" / "0", root / "sparse", root / "colmap" / "sparse" / "0", root):
        if any(
            all((where / f"{name}{suffix}").is_file() for name in ("cameras", "images"))
            for suffix in (".bin", ".txt")
        ):
            return where
    return None


def lens_of(camera: ColmapCamera, path: Path) -> Lens:
    """The lens in pixels of a picture, which may be smaller than what was reconstructed."""
    p = camera.params
    known = {
        "SIMPLE_PINHOLE": lambda: (p[0], p[0], p[1], p[2], 0, 0, 0, 0),
        "PINHOLE": lambda: (*p, 0, 0, 0, 0),
        "SIMPLE_RADIAL": lambda: (p[0], p[0], p[1], p[2], p[3], 0, 0, 0),
        "RADIAL": lambda: (p[0], p[0], p[1], p[2], p[3], p[4], 0, 0),
        "OPENCV": lambda: p,
    }
    if camera.model not in known:
        raise UserError(
            f"got a COLMAP camera of model {camera.model}",
            f"wanted one of {', '.join(known)}",
            "undistort the pictures with COLMAP's image_undistorter",
        )
    rows, cols = picture_size(path)
    across, down = cols / camera.cols, rows / camera.rows
    fx, fy, cx, cy, k1, k2, p1, p2 = known[camera.model]()
    return Lens((fx * across, fy * down), (cx * across - 0.5, cy * down - 0.5), (k1, k2), (p1, p2))


def sparse_depth(
    model: ColmapModel, views: Sequence[ColmapView], cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """Distance to the points seen in each view at their pixels, nan elsewhere; its confidence."""
    depth = torch.full((len(views), cameras.rows, cameras.cols), torch.nan)
    confidence = torch.zeros_like(depth)
    trust = torch.exp(-(model.errors / model.errors.mean().clamp_min(1e-9)).square())
    for v, view in enumerate(views):
        rows = seen_rows(model, view)
        points = model.points[rows]
        yx, ahead = cameras.to_pixels(torch.full((len(points),), v), points)
        y, x = yx.round().long().unbind(-1)
        distance = (points - view.pose[:, 3]).norm(dim=-1)
        inside = (ahead > 0) & (y >= 0) & (x >= 0) & (y < cameras.rows) & (x < cameras.cols)
        order = torch.nonzero(inside)[:, 0]
        # where two share a pixel, the nearer is written last
        order = order[distance[order].argsort(descending=True)]
        for k in order.tolist():
            depth[v, y[k], x[k]], confidence[v, y[k], x[k]] = distance[k], trust[rows[k]]
    return depth, confidence


def seen_rows(model: ColmapModel, view: ColmapView) -> Tensor:
    """Rows in ``model.points`` of the points a view sees."""
    return torch.tensor(
        [model.rows[k] for k in view.seen.tolist() if k in model.rows], dtype=torch.long
    )


def read_model(where: Path) -> ColmapModel:
    """Read cameras, images and points3D; binary wins where both are there."""
    binary = (where / "cameras.bin").is_file() and (where / "images.bin").is_file()
    suffix, read = (".bin", _read_binary) if binary else (".txt", _read_text)
    try:
        cameras, views, points = read(where, suffix)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
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
        torch.from_numpy(values[:, :3]).float(),
        torch.from_numpy(values[:, 3]).float(),
        rows,
    )


Parts = tuple[
    dict[int, ColmapCamera], list[ColmapView], dict[int, tuple[float, float, float, float]]
]


def _read_text(where: Path, suffix: str) -> Parts:
    cameras, views, points = {}, [], {}
    for words in _lines(where / f"cameras{suffix}"):
        cameras[int(words[0])] = ColmapCamera(
            words[1], int(words[2]), int(words[3]), tuple(map(float, words[4:]))
        )
    lines = (where / f"images{suffix}").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    for head, seen in zip(lines[::2], lines[1::2] + [""], strict=False):
        words = head.split(maxsplit=9)
        if words:
            values = list(map(float, words[1:8]))
            views.append(
                ColmapView(
                    words[9],
                    int(words[8]),
                    pose_of(values[:4], values[4:]),
                    np.array(seen.split()[2::3], dtype=np.int64),
                )
            )
    for words in _lines(where / f"points3D{suffix}"):
        points[int(words[0])] = (float(words[1]), float(words[2]), float(words[3]), float(words[7]))
    return cameras, views, points


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that is no comment; a file that is not there has none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read_binary(where: Path, suffix: str) -> Parts:
    cameras, views, points = {}, [], {}
    with open(where / f"cameras{suffix}", "rb") as file:
        for _ in range(_next(file, "<Q")[0]):
            number, model, cols, rows = _next(file, "<iiQQ")
            name, count = MODELS[model]
            cameras[number] = ColmapCamera(name, cols, rows, _next(file, f"<{count}d"))
    with open(where / f"images{suffix}", "rb") as file:
        for _ in range(_next(file, "<Q")[0]):
            _, *values, camera = _next(file, "<i7di")
            name = b"".join(iter(lambda: file.read(1) or b"\0", b"\0")).decode("utf-8")
            count = _next(file, "<Q")[0]
            seen = np.frombuffer(
                file.read(24 * count), dtype=[("x", "<f8"), ("y", "<f8"), ("point", "<i8")]
            )["point"]
            views.append(ColmapView(name, camera, pose_of(values[:4], values[4:]), seen))
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
    return torch.from_numpy(np.column_stack([turn.T, -turn.T @ np.array(t)])).float() * OPENCV


def quaternion(turn: Tensor) -> tuple[float, ...]:
    """A rotation matrix as (w, x, y, z)."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(turn.double().numpy()).as_quat().tolist()
    return w, x, y, z
