"""Blender's format (``transforms_*.json``) and nerfstudio's (``transforms.json``).

They differ in how they give the lens.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras
from .arrays import read_array_map
from .bounds import Bounds, as_box, bounds_of_poses
from .depth import pixel_grid, read_levels
from .frames import FrameRecord, frame_poses, read_split
from .lens import cameras_of
from .lens_keys import guessed_size, read_lens, wanted_size
from .linear import tone_note
from .masks import mask_files, unread_notes
from .pictures import (
    MaskFile,
    as_upright,
    find_picture,
    fitted_map,
    read_photographs,
    resized_nearest,
    scene_of,
)
from .reading import Reading
from .scene import SCENES
from .sizes import size_notes, sizes_for
from .splits import chosen_views
from .toy import toy_cameras, write_toy_picture
from .types import Scene

DEPTH_FAR = 8.0  # nerf_synthetic's depth pictures run from 8 (black, which is nothing) to 0 (white)


@SCENES.register("blender")
class Blender:
    """Blender's transforms_train/val/test.json (nerf_synthetic), or nerfstudio's transforms.json.

    Poses are OpenGL's. ``transforms.json`` without ``SPLIT_filenames`` holds some views out.
    ``near``, ``far`` and ``box`` may stand in the file. Lens distortion (k1, k2, p1, p2) is taken
    out on reading; of fuller lenses, fisheyes and equirectangular panoramas the rays are bent.
    ``mask_path``, ``masks/`` and instant-ngp's ``dynamic_mask_STEM.png`` are masks. Depth pictures
    are ``depth_file_path`` (nerfstudio), ``depth_path`` with ``integer_depth_scale`` (instant-ngp),
    both planar, and of nerf_synthetic's test views ``r_N_depth_*.png``, read as 8·(1 − v/255), in
    steps of 8/255.

    Options:
        hold: of a ``transforms.json``, one view in this many is held out.
        depth_kind: what nerf_synthetic's depth pictures hold. They are said to hold planar depth,
            but read as the distance along the ray the views agree with each other (data/README.md).
        depth_unit: scene units per level of ``depth_file_path``, before the file's
            ``applied_scale``: millimetres of a scene in metres.
        undistort: distortion is taken out of the pictures; false bends the rays instead.
    """

    recipe = "tensorf"

    def __init__(
        self,
        *,
        hold: int = 8,
        depth_kind: Literal["distance", "planar"] = "distance",
        depth_unit: float = 1e-3,
        undistort: bool = True,
    ) -> None:
        if not depth_unit > 0:
            raise UserError(
                f"got depth_unit {depth_unit:g}", "wanted a positive number", "the usual is 0.001"
            )
        self.hold, self.depth_kind, self.undistort = hold, depth_kind, undistort
        self.depth_unit = depth_unit

    @staticmethod
    def detect(root: Path) -> bool:
        return any((root / f"transforms{end}.json").is_file() for end in ("", "_train", "_test"))

    @staticmethod
    def example(folder: Path) -> Path:
        cameras = toy_cameras()
        angle = 2 * math.atan(0.5 * cameras.cols / float(cameras.focal_px[0, 0]))
        for split in ("train", "test"):
            frames = []
            for v in range(cameras.count):
                write_toy_picture(folder / split / f"r_{v}.png", cameras, v)
                frames.append(
                    {
                        "file_path": f"./{split}/r_{v}",
                        "transform_matrix": [*cameras.c2w[v].tolist(), [0, 0, 0, 1]],
                    }
                )
            text = json.dumps({"camera_angle_x": angle, "frames": frames})
            (folder / f"transforms_{split}.json").write_text(text, encoding="utf-8")
        return folder

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        found = read_split(root, split, self.hold)
        every = found.every
        frames = chosen_views(found.chosen, split, reading.views, root)
        paths = [find_picture(root, frame["file_path"]) for frame in frames]
        sizes = sizes_for(
            paths, [wanted_size(frame) for frame in frames], [guessed_size(f) for f in frames]
        )
        lenses = [
            read_lens(frame, path, size, undistort=self.undistort)
            for frame, path, size in zip(frames, paths, sizes, strict=True)
        ]
        poses = frame_poses(frames, root)
        masks = masks_of_frames(root, frames, paths)
        pictures = read_photographs(
            paths,
            reading,
            lenses=lenses,
            upright=[size.upright for size in sizes],
            ignored=masks,
            holes=found.one_file,
        )
        bounds, notes = bounds_of_file(every[0], frame_poses(every, root))
        cameras, said = cameras_of(poses, lenses, pictures.full, bounds.near, bounds.far)
        cameras = cameras.resized(*pictures.size)
        notes += [
            *found.notes,
            *unread_notes(root, paths, masks, split),
            *size_notes(sizes),
            *tone_note(paths, reading.tone_map),
            *said,
        ]
        stems = tuple(
            f"{frame['part']}/{path.stem}" if split == "all" and frame["part"] else path.stem
            for frame, path in zip(frames, paths, strict=True)
        )
        turned = [size.orientation if size.upright else 1 for size in sizes]
        depth, unknown = self.depth(root, frames, paths, cameras, turned)
        if depth is not None and unknown:
            notes.append(
                f"no depth for {len(unknown)} of {len(paths)} views (the first is '{unknown[0]}')"
            )
        places = {(Path(frame["file_path"]).stem, frame["part"]) for frame in every}
        splits_of = Counter(stem for stem, _ in places)
        shared = frozenset(stem for stem, count in splits_of.items() if count > 1)
        return scene_of(
            pictures,
            root,
            "blender",
            split,
            stems,
            cameras,
            bounds.box,
            depth=depth,
            notes=notes,
            shared=shared,
        )

    def depth(
        self,
        root: Path,
        frames: Sequence[FrameRecord],
        paths: Sequence[Path],
        cameras: Cameras,
        turned: Sequence[int],
    ) -> tuple[Tensor | None, list[str]]:
        """Distances [V, H, W] along the rays, and the names of pictures without depth.

        ``turned`` are the EXIF orientations that the pictures were turned upright by.

        The distance is nan where it is unknown, and None where no view has any.
        """
        if any(depth_file(frame) for frame in frames):
            size = (cameras.rows, cameras.cols)
            maps = [
                self.named_depth(root, frame, size, turn)
                for frame, turn in zip(frames, turned, strict=True)
            ]
            planar = torch.stack(
                [
                    torch.full((cameras.rows, cameras.cols), torch.nan) if m is None else m
                    for m in maps
                ]
            )
            unknown = [path.name for path, m in zip(paths, maps, strict=True) if m is None]
            return planar * cameras.planar_factor(*pixel_grid(cameras)), unknown
        depth, unknown = read_depth_pictures(paths, (cameras.rows, cameras.cols))
        if depth is not None and self.depth_kind == "planar":
            depth = depth * cameras.planar_factor(*pixel_grid(cameras))
        return depth, unknown

    def named_depth(
        self, root: Path, frame: FrameRecord, size: tuple[int, int], turned: int
    ) -> Tensor | None:
        """The planar depth [H, W] of the file that a frame names, nan where it is 0."""
        name = depth_file(frame)
        if not name:
            return None
        path, unit = root / name, self.depth_unit * (frame["applied_scale"] or 1.0)
        if not frame.get("depth_file_path"):
            unit = frame["integer_depth_scale"]
        if not path.is_file():
            raise UserError(
                f"got no depth '{path}'",
                "wanted the one that its frame names",
                "copy it there, or take its name out of the transforms file",
            )
        levels = read_array_map(path) if path.suffix.lower() == ".npy" else read_levels(path)
        if (levels.shape[0] < levels.shape[1]) != (size[0] < size[1]):
            levels = as_upright(levels, turned)
        distance = torch.where(levels > 0, levels * unit, torch.nan)
        return fitted_map(distance, size, f"the depth '{path}'", "make it again for this picture")


def depth_file(frame: FrameRecord) -> str | None:
    """The depth picture that a frame names, if its unit is known."""
    ours = frame.get("depth_path") if frame["integer_depth_scale"] else None
    return frame.get("depth_file_path") or ours


def masks_of_frames(
    root: Path, frames: Sequence[FrameRecord], paths: Sequence[Path]
) -> list[MaskFile | None]:
    """The mask of each frame: the one it names, instant-ngp's beside the picture, or in masks/."""
    beside = mask_files(root, [frame["file_path"] for frame in frames])
    found: list[MaskFile | None] = []
    for frame, path, other in zip(frames, paths, beside, strict=True):
        dynamic = path.with_name(f"dynamic_mask_{path.stem}.png")
        if frame.get("mask_path"):
            found.append(MaskFile(root / frame["mask_path"]))
        elif dynamic.is_file():
            found.append(MaskFile(dynamic, inverted=True))
        else:
            found.append(None if other is None else MaskFile(other))
    return found


def bounds_of_file(frame: Mapping[str, Any], poses: Tensor) -> tuple[Bounds, list[str]]:
    """Near, far and box as the file gives them, else from the poses of the whole scene."""
    found = bounds_of_poses(poses)
    given = {key: frame[key] for key in ("near", "far", "box") if frame.get(key) is not None}
    box = as_box(given["box"]) if "box" in given else found.box
    bounds = Bounds(given.get("near", found.near), given.get("far", found.far), box, found.how)
    assumed = [key for key in ("near", "far", "box") if key not in given]
    return bounds, [f"{', '.join(assumed)}: {found.how}"] if assumed else []


def read_depth_pictures(
    paths: Sequence[Path], size: tuple[int, int]
) -> tuple[Tensor | None, list[str]]:
    """Depth [V, H, W] from ``STEM_depth_*.png``, and the names of pictures without one.

    The depth is nan in the background, and None where no view has any.
    """
    maps, unknown = [], []
    for path in paths:
        beside = sorted(path.parent.glob(f"{path.stem}_depth_*.png"))
        if not beside:
            unknown.append(path.name)
        grey = resized_nearest(read_levels(beside[0]), *size) if beside else torch.zeros(size)
        maps.append(torch.where(grey > 0, DEPTH_FAR * (1 - grey / 255), torch.nan))
    depth = torch.stack(maps)
    return (depth if bool(depth.isfinite().any()) else None), unknown
