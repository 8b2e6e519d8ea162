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
from ...imaging.motion import square
from .arrays import ERRORS
from .bounds import box_of_frusta, common_point
from .linear import tone_note
from .masks import mask_files, unread_notes
from .pictures import MaskFile, no_pictures, pictures_in, read_photographs, scene_of
from .reading import Reading
from .scene import SCENES
from .sizes import size_notes, sizes_for
from .splits import chosen_views, held_out
from .toy import toy_cameras, write_toy_picture
from .types import Scene

LEVEL = 0.1  # of their distance: cameras whose mean offset is less stand round a point, not above
FROM_THE_FRONT_DEG = 60.0  # views that look further away from the mean have no common front


@SCENES.register("llff")
class Llff:
    """LLFF's poses_bounds.npy with images/, or any images_N/ alone.

    Defaults are those of Mildenhall et al. 2020. Facts: ``scale`` (scene lengths per length of the
    file) and ``focus`` (how far ahead a spiral looks).

    Options:
        ndc: normalised device coordinates, for views from the front; None is true unless
            ``spherify``, or where a view looks more than 60° away from the mean.
        recentre: poses are relative to their average.
        spherify: for turns about an object: the point nearest to all optical axes becomes the
            origin, the cameras' mean distance from it 1; None is true where views are no views
            from the front and look at one point.
        hold: one view in this many is held out for val and test.
        bd_factor: lengths are multiplied by 1 / (bd_factor · nearest bound).
    """

    recipe = "tensorf_ndc"

    def __init__(
        self,
        *,
        ndc: bool | None = None,
        recentre: bool = True,
        spherify: bool | None = None,
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
        self.ndc, self.recentre, self.spherify = ndc, recentre, spherify
        self.hold, self.bd_factor = hold, bd_factor

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

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        poses, lens, bounds = read_poses(root / "poses_bounds.npy")
        folder, left, notes = picture_folder(root, reading.downscale)
        paths = pictures_in(folder)
        if len(paths) != len(poses):
            raise UserError(
                f"got {len(paths)} pictures in '{folder}' and {len(poses)} poses in "
                "poses_bounds.npy",
                "wanted one pose per picture, in the order of their names",
                "remove the pictures COLMAP could not place, or run LLFF's imgs2poses.py again",
            )
        ndc, spherify, said = self.space(poses)
        poses, bounds, scale, to_world = self.placed(poses, bounds, spherify)
        nearest, farthest = float(bounds.min()), float(bounds.max())
        chosen = chosen_views(
            held_out(range(len(paths)), split, self.hold), split, reading.views, root
        )
        wanted = (float(lens[0, 0]), float(lens[0, 1]))
        own = [paths[i] for i in chosen]
        sizes = sizes_for(own, [wanted] * len(own))
        masks = mask_files(root, [path.name for path in own])
        pictures = read_photographs(
            own,
            reading,
            downscale=left,
            upright=[size.upright for size in sizes],
            ignored=[None if path is None else MaskFile(path) for path in masks],
            holes=True,
        )
        near, far = (0.0, 1.0) if ndc else (0.9 * nearest, farthest)
        size = torch.tensor([lens[0, 1], lens[0, 0]])
        every = Cameras(
            poses,
            lens[:, 2:].expand(-1, 2),
            (size - 1).div(2).expand(len(poses), 2),
            round(wanted[0]),
            round(wanted[1]),
            near,
            far,
            ndc,
        ).resized(*pictures.size)
        facts: dict[str, Any] = {
            "scale": scale,
            "focus": 1 / (0.25 / (0.9 * nearest) + 0.75 / (5 * farthest)),
        }
        return scene_of(
            pictures,
            root,
            "llff",
            split,
            [path.stem for path in own],
            every.take(chosen),
            box_of_frusta(every),
            facts=facts,
            notes=[
                *notes,
                *said,
                *unread_notes(root, own, masks, split),
                *size_notes(sizes, 1 / folder_factor(folder)),
                *tone_note(own, reading.tone_map),
            ],
            to_world=to_world,
        )

    def space(self, poses: Tensor) -> tuple[bool, bool, list[str]]:
        """Whether rays are in NDC, whether poses are spherified, and why where that was found."""
        if self.ndc is not None or self.spherify is not None:
            spherify = bool(self.spherify)
            return (not spherify if self.ndc is None else self.ndc), spherify, []
        back = poses[:, :, 2]
        away = float(
            torch.rad2deg((back @ normalize(back.mean(0), dim=0)).clamp(-1, 1).acos().max())
        )
        if away <= FROM_THE_FRONT_DEG:
            return True, False, []
        about = common_point(poses)[2] > 0.9
        turned = "a turn about one point: spherify is true" if about else "ndc is false"
        return (
            False,
            about,
            [f"views look up to {away:.0f}° away from the mean, which is {turned}"],
        )

    def placed(
        self, poses: Tensor, bounds: Tensor, spherify: bool
    ) -> tuple[Tensor, Tensor, float, Tensor]:
        """Poses and bounds scaled and recentred, the scale, and the way back [4, 4]."""
        scale = 1 / (float(bounds.min()) * self.bd_factor)
        poses = poses.clone()
        poses[:, :, 3] *= scale
        to_world = torch.diag(torch.tensor([1 / scale] * 3 + [1.0], dtype=torch.float64))
        if self.recentre or spherify:
            frame = middle_pose(poses)
            poses, to_world = in_frame(frame, poses), to_world @ square(frame)
        shrink = 1.0
        if spherify:
            frame, shrink = sphere_frame(poses)
            poses = in_frame(frame, poses)
            poses[:, :, 3] *= shrink
            back = torch.diag(torch.tensor([1 / shrink] * 3 + [1.0], dtype=torch.float64))
            to_world = to_world @ square(frame) @ back
        return poses, bounds * (scale * shrink), scale * shrink, to_world


def read_poses(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Poses [V, 3, 4] (right, up, back), lenses [V, 3] and bounds [V, 2], as in the file.

    A lens is rows, columns and focal length; bounds are near and far.
    """
    try:
        # mapped, not read: what a header claims is compared with the file before it is allocated
        values = np.load(path, allow_pickle=False, mmap_mode="r")
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError("no array of real numbers")
    except ERRORS as error:
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
    turns = poses[..., :3]
    off = (turns.mT @ turns - torch.eye(3)).abs().amax((1, 2))
    if float(off.max()) > 1e-2 or not bool((matrix[..., 4] > 0).all()):
        raise UserError(
            f"got '{path}' whose view {int(off.argmax())} has axes that are no rotation (off by "
            f"{float(off.max()):.2g}), or a size or focal length that is not positive",
            "wanted rotations, rows, columns and focal length",
            "make it again with LLFF's imgs2poses.py",
        )
    return poses, matrix[..., 4].float(), rows[:, 15:]


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


def middle_pose(poses: Tensor) -> Tensor:
    """The average pose [3, 4] of poses; of a whole turn, which has none, their axes and middle."""
    if float(poses[:, :, 2].mean(0).norm()) > 1e-3:
        return average_pose(poses)
    return torch.cat([torch.eye(3).to(poses), poses[:, :, 3].mean(0)[:, None]], -1)


def in_frame(frame: Tensor, poses: Tensor) -> Tensor:
    """Poses [V, 3, 4] relative to a frame [3, 4]."""
    inverse = frame[:, :3].mT
    moved = poses.clone()
    moved[:, :, 3] -= frame[:, 3]
    return inverse @ moved


def folder_factor(folder: Path) -> int:
    """The factor that a folder of pictures names: 8 of images_8, else 1."""
    return int(folder.name[7:]) if folder.name[7:].isdigit() else 1


def spherified(poses: Tensor) -> tuple[Tensor, float]:
    """Poses about the origin at a mean distance of 1, and the scale that did it.

    Their mean offset points upwards (+z); of a level turn the cameras' own mean up does.
    """
    frame, shrink = sphere_frame(poses)
    moved = in_frame(frame, poses)
    moved[:, :, 3] *= shrink
    return moved, shrink


def sphere_frame(poses: Tensor) -> tuple[Tensor, float]:
    """The frame [3, 4] of :func:`spherified`, and its scale."""
    centre = nearest_to_axes(poses)
    away = poses[:, :, 3] - centre
    level = float(away.mean(0).norm()) < LEVEL * float(away.norm(dim=-1).mean())
    up = normalize((poses[:, :, 1] if level else away).mean(0), dim=0)
    helper = torch.eye(3, dtype=up.dtype)[int(up.abs().argmin())]
    x = normalize(torch.linalg.cross(helper, up), dim=0)
    frame = torch.stack([x, torch.linalg.cross(up, x), up, centre], -1)
    moved = in_frame(frame, poses)
    return frame, 1 / float(moved[:, :, 3].norm(dim=-1).square().mean().sqrt())
