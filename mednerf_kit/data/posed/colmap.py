"""A COLMAP reconstruction (text or binary) with its photographs: one's own pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras
from .bounds import both, bounds_of_points, bounds_of_poses, common_point
from .colmap_lens import camera_of, lens_of
from .colmap_model import (
    ColmapModel,
    ColmapView,
    count_views,
    find_model,
    find_models,
    read_model,
    seen_rows,
)
from .colmap_places import placed_again
from .lens import cameras_of
from .linear import tone_note
from .llff import folder_factor, picture_folder
from .masks import mask_files, unread_notes
from .nsvf import OPENCV
from .pictures import MaskFile, pictures_in, read_photographs, scene_of
from .reading import Reading
from .scene import SCENES
from .sizes import size_notes, sizes_for
from .splits import chosen_views, held_out
from .toy import BALL, toy_cameras, write_toy_picture
from .types import Scene

# scenes of other formats that may keep the reconstruction they came from
OTHERS = ("transforms.json", "transforms_train.json", "poses_bounds.npy")


FEW_POINTS = 1000  # that may leave out half of what is seen


@SCENES.register("colmap")
class Colmap:
    """A COLMAP reconstruction (text or binary) with its photographs.

    The model lies in sparse/N, sparse or the folder itself (of several the one with the most
    pictures is read); the photographs in images/ or images_N/, in folders below as the model names
    them; masks of pixels that do not count in masks/NAME.png. Lenses of SIMPLE_RADIAL, RADIAL and
    OPENCV are undistorted on reading; the rays of FULL_OPENCV, of fisheyes and of EQUIRECTANGULAR
    follow the lens; other models are refused. Positions that single precision rounded are found
    again from the points. Box, near and far are those of the points without the outermost 1 %.
    Facts: ``points`` [N, 3].

    Options:
        hold: one view in this many, by name, is held out.
        sparse_depth: the points seen in a view are its depth, with confidence
            exp(−(error / mean error)²) (Deng et al. 2022, eq. 8).
        undistort: distortion is taken out of the pictures; false bends the rays instead.
        model: which reconstruction is read, a folder such as ``sparse/1``.
    """

    recipe = "tensorf"

    def __init__(
        self,
        *,
        hold: int = 8,
        sparse_depth: bool = True,
        undistort: bool = True,
        model: str | None = None,
    ) -> None:
        self.hold, self.sparse_depth, self.undistort = hold, sparse_depth, undistort
        self.model = model

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

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        where, notes = self.reconstruction(root)
        model = read_model(where)
        folder, left, said = picture_folder(root, reading.downscale)
        there = {path.relative_to(folder).as_posix() for path in pictures_in(folder, deep=True)}
        model, renamed = with_files(model, there)
        model, placed = placed_again(model)
        notes += [*said, *renamed, *placed]
        unposed = len(there - {view.name for view in model.views})
        if unposed:
            notes.append(f"{unposed} pictures have no pose and are left out")
        check_there(model, there, folder)
        chosen = chosen_views(held_out(model.views, split, self.hold), split, reading.views, root)
        paths = [folder / view.name for view in chosen]
        shots = [camera_of(model, view) for view in chosen]
        sizes = sizes_for(paths, [(camera.rows, camera.cols) for camera in shots])
        lenses = [
            lens_of(camera, size, path, undistort=self.undistort)
            for camera, size, path in zip(shots, sizes, paths, strict=True)
        ]
        masks = mask_files(root, [view.name for view in chosen])
        pictures = read_photographs(
            paths,
            reading,
            downscale=left,
            lenses=lenses,
            upright=[size.upright for size in sizes],
            ignored=[None if path is None else MaskFile(path) for path in masks],
            holes=True,
        )
        near, far, box, how = self.bounds(model)
        poses = torch.stack([view.pose for view in chosen])
        cameras, bent = cameras_of(poses, lenses, pictures.full, near, far)
        notes += [
            *unread_notes(root, paths, masks, split),
            *size_notes(sizes, 1 / folder_factor(folder)),
            *tone_note(paths, reading.tone_map),
            *bent,
        ]
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

    def reconstruction(self, root: Path) -> tuple[Path, list[str]]:
        """The folder of the model that is read, and what to say where there are several."""
        found = find_models(root)
        where = root / self.model if self.model else find_model(root)
        if where is None or where not in found:
            raise UserError(
                f"got '{root}' without a COLMAP model" + (f" in '{self.model}'" * bool(self.model)),
                "wanted cameras, images and points3D in sparse/0",
                "run COLMAP's mapper, or give the folder above",
            )
        counts = {path: count_views(path) for path in found}
        if len(counts) == 1:
            return where, []
        each = ", ".join(f"{path.relative_to(root)} ({n})" for path, n in counts.items())
        return where, [
            f"of {len(counts)} reconstructions {where.relative_to(root)} is read: {each} pictures; "
            "set model to choose another"
        ]

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
        around = bounds_of_poses(poses)
        if len(ahead) < 10:
            found = around
        else:
            found = bounds_of_points(poses, model.points, ahead)
            if len(model.points) < FEW_POINTS and common_point(poses)[2] > 0.9:
                found = both(found, around)
        return found.near, found.far, found.box, [f"near, far, box: {found.how}"]


def with_files(model: ColmapModel, there: set[str]) -> tuple[ColmapModel, list[str]]:
    """The model with the names of the files that are ``there``, and what to say.

    Pictures converted since, from .jpg to .png say, have another suffix.
    """
    stems: dict[str, list[str]] = {}
    for name in sorted(there):
        stems.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    views, first, count = [], "", 0
    for view in model.views:
        name = view.name.replace("\\", "/") if view.name not in there else view.name
        alike = stems.get(str(PurePosixPath(name).with_suffix("")), [])
        if name not in there and len(alike) == 1:
            first, count = first or f"'{name}' as '{alike[0]}'", count + 1
            name = alike[0]
        views.append(replace(view, name=name))
    note = [f"{count} pictures have another suffix than in the model ({first})"] if count else []
    return replace(model, views=views), note


def check_there(model: ColmapModel, there: set[str], folder: Path) -> None:
    """Refuse a model whose pictures are not all there, with their number."""
    missing = [view.name for view in model.views if view.name not in there]
    lost = [name for name in missing if not os.path.isfile(folder / name)]
    if lost:
        raise UserError(
            f"got no picture '{folder / lost[0]}'"
            + (f" and {len(lost) - 1} more of the model's {len(model.views)}" if lost[1:] else ""),
            "wanted the frame that its pose belongs to",
            "copy it there under the model's name, or take its pose away",
        )


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


def quaternion(turn: Tensor) -> tuple[float, ...]:
    """A rotation matrix as (w, x, y, z)."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(turn.double().numpy()).as_quat().tolist()
    return w, x, y, z
