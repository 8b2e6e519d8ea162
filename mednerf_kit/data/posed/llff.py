"""LLFF's format: photographs with ``poses_bounds.npy``, usually seen from the front.

Rays are then in normalised device coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...core.errors import UserError
from ...imaging.cameras import Cameras, average_pose, nearest_to_axes
from .bounds import box_of_frusta
from .pictures import no_pictures, pictures_in, read_pictures, scene_of
from .scene import SCENES
from .splits import chosen_views, held_out
from .toy import toy_cameras, write_toy_picture
from .types import Scene


@SCENES.register("llff")
class Llff:
    """LLFF's poses_bounds.npy with images/, or any images_N/ alone.

    Defaults are those of Mildenhall et al. 2020. Facts: ``scale`` (scene lengths per length of the
    file) and ``focus`` (how far ahead a spiral looks).

    Options:
        ndc: normalised device coordinates, for views from the front; None is true unless
            ``spherify``.
        recentre: poses are relative to their average.
        spherify: for turns about an object: the point nearest to all optical axes becomes the
            origin, the cameras' mean distance from it 1.
        hold: one view in this many is held out for val and test.
        bd_factor: lengths are multiplied by 1 / (bd_factor · nearest bound).
    """

    recipe = "tensorf_ndc"

    def __init__(
        self,
        *,
        ndc: bool | None = None,
        recentre: bool = True,
        spherify: bool = False,
        hold: int = 8,
        bd_factor: float = 0.75,
    ) -> None:
        if ndc and spherify:
            raise UserError(
                "got ndc with spherify",
                "wanted one of them",
                "views all round an object have no common front",
            )
        if bd_factor <= 0:
            raise UserError(
                f"got bd_factor {bd_factor:g}", "wanted a positive number", "the usual one is 0.75"
            )
        self.ndc = not spherify if ndc is None else ndc
        self.recentre, self.spherify, self.hold, self.bd_factor = (
            recentre or spherify,
            spherify,
            hold,
            bd_factor,
        )

    @staticmethod
    def detect(root: Path) -> bool:
        return (root / "poses_bounds.npy").is_file()

    @staticmethod
    def example(folder: Path) -> Path:
        cameras = toy_cameras()
        rows = []
        for v, pose in enumerate(cameras.c2w):
            write_toy_picture(folder / "images_4" / f"image{v:03d}.png", cameras, v, alpha=False)
            lens = torch.tensor(
                [4.0 * cameras.rows, 4.0 * cameras.cols, 4 * float(cameras.focal_px[v, 0])]
            )
            down_right_back = torch.stack(
                [-pose[:, 1], pose[:, 0], pose[:, 2], pose[:, 3], lens], -1
            )
            rows.append([*down_right_back.reshape(-1).tolist(), 2.0, 6.0])
        np.save(folder / "poses_bounds.npy", np.array(rows))
        return folder

    def load(
        self, root: Path, split: str, *, downscale: int, background: float | None, views: int | None
    ) -> Scene:
        poses, lens, bounds = read_poses(root / "poses_bounds.npy")
        folder, left, notes = picture_folder(root, downscale)
        paths = pictures_in(folder)
        if len(paths) != len(poses):
            raise UserError(
                f"got {len(paths)} pictures in '{folder}' and {len(poses)} poses in "
                "poses_bounds.npy",
                "wanted one pose per picture, in the order of their names",
                "remove the pictures COLMAP could not place, or run LLFF's imgs2poses.py again",
            )
        scale = 1 / (float(bounds.min()) * self.bd_factor)
        poses[:, :, 3] *= scale
        bounds = bounds * scale
        if self.recentre:
            poses = in_frame(average_pose(poses), poses)
        if self.spherify:
            poses, shrink = spherified(poses)
            scale, bounds = scale * shrink, bounds * shrink
        nearest, farthest = float(bounds.min()), float(bounds.max())
        chosen = chosen_views(held_out(range(len(paths)), split, self.hold), split, views, root)
        pictures = read_pictures([paths[i] for i in chosen], downscale=left, background=background)
        near, far = (0.0, 1.0) if self.ndc else (0.9 * nearest, farthest)
        size = torch.tensor([lens[0, 1], lens[0, 0]])
        every = Cameras(
            poses,
            lens[:, 2:].expand(-1, 2),
            (size - 1).div(2).expand(len(poses), 2),
            round(float(lens[0, 0])),
            round(float(lens[0, 1])),
            near,
            far,
            self.ndc,
        ).resized(*pictures.size)
        facts: dict[str, Any] = {
            "scale": scale,
            "focus": 1 / (0.25 / (0.9 * nearest) + 0.75 / (5 * farthest)),
        }
        stems, box = [paths[i].stem for i in chosen], box_of_frusta(every)
        return scene_of(
            pictures, root, "llff", split, stems, every.take(chosen), box, facts=facts, notes=notes
        )


def read_poses(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Poses [V, 3, 4] (right, up, back), lenses [V, 3] and bounds [V, 2], as in the file.

    A lens is rows, columns and focal length; bounds are near and far.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"got '{path}' that cannot be read ({error})",
            "wanted an array of V×17",
            "make it again",
        ) from None
    if (
        values.ndim != 2
        or values.shape[1] != 17
        or not np.isfinite(values).all()
        or not (values[:, 15] > 0).all()
    ):
        raise UserError(
            f"got '{path}' of shape {list(values.shape)}",
            "wanted V×17 finite numbers with positive bounds",
            "make it again with LLFF's imgs2poses.py",
        )
    if (swapped := values[:, 15] > values[:, 16]).any():
        view = int(swapped.argmax())
        raise UserError(
            f"got '{path}' whose view {view} has near {values[view, 15]:g} and far "
            f"{values[view, 16]:g}",
            "wanted near < far in columns 16 and 17",
            "swap them",
        )
    rows = torch.from_numpy(values.astype(np.float64))
    matrix = rows[:, :15].reshape(-1, 3, 5)
    poses = torch.stack([matrix[..., 1], -matrix[..., 0], matrix[..., 2], matrix[..., 3]], -1)
    return poses.float(), matrix[..., 4].float(), rows[:, 15:].float()


def picture_folder(root: Path, downscale: int) -> tuple[Path, int, list[str]]:
    """The folder to read, what is left to divide its pictures' sides by, and remarks.

    There is a remark where its pictures are smaller than asked for.
    """
    folders = {1: root / "images"}
    folders |= {
        int(f.name[7:]): f for f in root.glob("images_*") if f.is_dir() and f.name[7:].isdigit()
    }
    there = {factor: folder for factor, folder in folders.items() if pictures_in(folder, deep=True)}
    if not there:
        raise no_pictures(root, "images/ or images_N/")
    fitting = [factor for factor in there if downscale % factor == 0]
    if fitting:
        return there[max(fitting)], downscale // max(fitting), []
    factor = min(there, key=lambda f: (f < downscale, abs(f - downscale)))
    return (
        there[factor],
        1,
        [f"pictures are at 1/{factor}: '{there[factor].name}' is all there is for 1/{downscale}"],
    )


def in_frame(frame: Tensor, poses: Tensor) -> Tensor:
    """Poses [V, 3, 4] relative to a frame [3, 4]."""
    inverse = frame[:, :3].mT
    moved = poses.clone()
    moved[:, :, 3] -= frame[:, 3]
    return inverse @ moved


def spherified(poses: Tensor) -> tuple[Tensor, float]:
    """Poses about the origin at a mean distance of 1, and the scale that did it.

    Their mean offset points upwards (+z).
    """
    centre = nearest_to_axes(poses)
    up = normalize((poses[:, :, 3] - centre).mean(0), dim=0)
    helper = torch.eye(3)[int(up.abs().argmin())]
    x = normalize(torch.linalg.cross(helper, up), dim=0)
    frame = torch.stack([x, torch.linalg.cross(up, x), up, centre], -1)
    moved = in_frame(frame, poses)
    shrink = 1 / float(moved[:, :, 3].norm(dim=-1).square().mean().sqrt())
    moved[:, :, 3] *= shrink
    return moved, shrink
