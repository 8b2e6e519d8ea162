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
from .bounds import Bounds, as_box, bounds_of_poses
from .depth import pixel_grid, read_levels, resized_nearest
from .lens import Lens, least_zoom
from .pictures import find_picture, picture_size, read_pictures, scene_of
from .scene import SCENES
from .splits import NoViews, chosen_views, held_out
from .toy import toy_cameras, write_toy_picture
from .types import SPLITS, Scene

FrameRecord = dict[str, Any]
ANGLES = ("camera_angle_x", "camera_angle_y")
NUMBERS = (
    *ANGLES,
    "fl_x",
    "fl_y",
    "cx",
    "cy",
    "w",
    "h",
    "k1",
    "k2",
    "k3",
    "k4",
    "p1",
    "p2",
    "near",
    "far",
)
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE", "")
DEPTH_FAR = 8.0  # nerf_synthetic's depth pictures run from 8 (black, which is nothing) to 0 (white)


@SCENES.register("blender")
class Blender:
    """Blender's transforms_train/val/test.json (nerf_synthetic), or nerfstudio's transforms.json.

    Poses are OpenGL's. ``transforms.json`` without ``SPLIT_filenames`` holds some views out.
    ``near``, ``far`` and ``box`` may stand in the file. Lens distortion is taken out on reading.
    Depth pictures of nerf_synthetic's test views, ``r_N_depth_*.png``, are read as 8·(1 − v/255),
    in steps of 8/255.

    Options:
        hold: of a ``transforms.json``, one view in this many is held out.
        depth_kind: what depth pictures hold. They are said to hold planar depth, but read as the
            distance along the ray the views agree with each other (data/README.md).
    """

    recipe = "tensorf"

    def __init__(
        self, *, hold: int = 8, depth_kind: Literal["distance", "planar"] = "distance"
    ) -> None:
        self.hold, self.depth_kind = hold, depth_kind

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

    def load(
        self, root: Path, split: str, *, downscale: int, background: float | None, views: int | None
    ) -> Scene:
        frames, every = self.frames(root, split)
        frames = chosen_views(frames, split, views, root)
        paths = [find_picture(root, str(frame["file_path"])) for frame in frames]
        lenses = [read_lens(frame, path) for frame, path in zip(frames, paths, strict=True)]
        poses = frame_poses(frames, root)
        pictures = read_pictures(paths, downscale=downscale, background=background, lenses=lenses)
        bounds, notes = bounds_of_file(every[0], frame_poses(every, root))
        zooms = torch.tensor([least_zoom(lens, *pictures.full) for lens in lenses])
        focal = torch.tensor([lens.focal_px for lens in lenses]) * zooms[:, None]
        centre = torch.tensor([lens.centre_px for lens in lenses])
        cameras = Cameras(poses, focal, centre, *pictures.full, bounds.near, bounds.far).resized(
            *pictures.size
        )
        if any(lens.distorts for lens in lenses):
            notes.append(
                "lens distortion was taken out of the pictures, which enlarged them by up to "
                f"{100 * (zooms.max() - 1):.0f} %"
            )
        stems = tuple(
            f"{frame['part']}/{path.stem}" if split == "all" and frame["part"] else path.stem
            for frame, path in zip(frames, paths, strict=True)
        )
        depth, unknown = read_depth_pictures(paths, pictures.size)
        if depth is not None and unknown:
            notes.append(
                f"no depth for {len(unknown)} of {len(paths)} views (the first is '{unknown[0]}')"
            )
        if depth is not None and self.depth_kind == "planar":
            depth = depth * cameras.planar_factor(*pixel_grid(cameras))
        places = {(Path(str(frame["file_path"])).stem, frame["part"]) for frame in every}
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

    def frames(self, root: Path, split: str) -> tuple[list[FrameRecord], list[FrameRecord]]:
        """The frames of a split and those of the whole scene, each with its file's own values.

        A value of the frame wins over the file's.
        """
        parts = [part for part in SPLITS[:3] if (root / f"transforms_{part}.json").is_file()]
        if not parts:
            return self.frames_of_one_file(root / "transforms.json", split)
        if split != "all" and split not in parts:
            raise NoViews(
                f"got no transforms_{split}.json in '{root}'",
                f"wanted one of the splits {', '.join(parts)}",
                "choose one of them",
            )
        by_part = {part: read_frames(root / f"transforms_{part}.json", part) for part in parts}
        every = [frame for part in parts for frame in by_part[part]]
        return (every if split == "all" else by_part[split]), every

    def frames_of_one_file(
        self, path: Path, split: str
    ) -> tuple[list[FrameRecord], list[FrameRecord]]:
        """:meth:`frames` of nerfstudio's one file, which may list the pictures of its splits."""
        every = read_frames(path)
        lists = {
            part: frozenset(map(str, every[0].get(f"{part}_filenames") or ()))
            for part in ("test", "train", "val")
        }
        if not any(lists.values()):
            every.sort(key=lambda frame: str(frame["file_path"]))
            return held_out(every, split, self.hold), every
        for frame in every:
            name = str(frame["file_path"])
            frame["part"] = next((part for part, names in lists.items() if name in names), "")
        if split == "all":
            return every, every
        return [frame for frame in every if str(frame["file_path"]) in lists[split]], every


def read_frames(path: Path, part: str = "") -> list[FrameRecord]:
    """The frames of a transforms file, each with the file's own values where it has none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        common = {key: value for key, value in values.items() if key != "frames"}
        frames = [{**common, **frame, "part": part} for frame in values["frames"]]
        if not all("file_path" in frame and "transform_matrix" in frame for frame in frames):
            raise ValueError("a frame without file_path or transform_matrix")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"got '{path}' that cannot be read ({error})",
            'wanted {"frames": [{"file_path", "transform_matrix"}, …]}',
            "correct it",
        ) from None
    if not frames:
        raise UserError(
            f"got '{path}' without frames",
            "wanted at least one",
            "choose another split or correct the file",
        )
    for frame in frames:
        for key in NUMBERS:
            frame[key] = read_number(frame.get(key), key, path)
    return frames


def read_number(value: Any, key: str, path: Path) -> float | None:
    """A number of a transforms file; None where it is not given."""
    low, high, wanted = (
        (0.0, math.pi, "an angle between 0 and π")
        if key in ANGLES
        else (-math.inf, math.inf, "a number")
    )
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number is None or low < number < high:
        return number
    raise UserError(f"got {key} {value!r} in '{path}'", f"wanted {wanted}", "correct it")


def frame_poses(frames: Sequence[FrameRecord], root: Path) -> Tensor:
    """Poses [V, 3, 4] of frames."""
    try:
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    except (TypeError, ValueError):
        poses = torch.zeros(0)
    if poses.ndim != 3 or poses.shape[1] not in (3, 4) or poses.shape[2] != 4:
        raise UserError(
            f"got a transform_matrix in '{root}' that is no 4×4 matrix",
            "wanted camera to world, row by row",
            "correct the transforms file",
        )
    return poses[:, :3].float()


def read_lens(frame: Mapping[str, Any], path: Path) -> Lens:
    """A frame's lens in pixels of its picture.

    Files give ``camera_angle_x``, or ``fl_x``, ``cx``, ``k1`` … for a picture of ``w``×``h``.
    """
    rows, cols = picture_size(path)
    model = str(frame.get("camera_model", "")).upper()
    if model not in PINHOLES or frame["k3"] or frame["k4"]:
        raise UserError(
            f"got a camera of model '{model or 'with k3 or k4'}' in '{path.parent}'",
            "wanted a pinhole, or a lens with k1, k2, p1, p2",
            "undistort the pictures first (COLMAP's image_undistorter)",
        )
    wide, high = cols / (frame["w"] or cols), rows / (frame["h"] or rows)
    if frame["fl_x"] is not None:
        fx = frame["fl_x"] * wide
        fy = frame["fl_y"] * high if frame["fl_y"] else fx
    elif frame["camera_angle_x"] is not None:
        fx = 0.5 * cols / math.tan(0.5 * frame["camera_angle_x"])
        fy = 0.5 * rows / math.tan(0.5 * frame["camera_angle_y"]) if frame["camera_angle_y"] else fx
    else:
        raise UserError(
            f"got frame '{frame['file_path']}' without a focal length",
            "wanted camera_angle_x or fl_x",
            "add it",
        )
    cx = (cols - 1) / 2 if frame["cx"] is None else frame["cx"] * wide - 0.5
    cy = (rows - 1) / 2 if frame["cy"] is None else frame["cy"] * high - 0.5
    k1, k2, p1, p2 = (frame[k] or 0.0 for k in ("k1", "k2", "p1", "p2"))
    return Lens((fx, fy), (cx, cy), (k1, k2), (p1, p2))


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
