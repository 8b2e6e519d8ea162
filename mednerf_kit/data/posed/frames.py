"""The frames of transforms files: Blender's for each split, nerfstudio's one for a scene."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError
from .lens_keys import (
    ANGLES,
    FLAGS,
    MODEL_KEYS,
    NUMBERS,
    REFUSED,
    SPELLINGS,
    is_set,
    with_plain_keys,
)
from .pictures import tails_elsewhere
from .splits import NoViews, held_out
from .types import SPLITS

FrameRecord = dict[str, Any]
PATHS = ("file_path", "mask_path", "depth_file_path", "depth_path")
ALL_NUMBERS = (*NUMBERS, "near", "far", "applied_scale", "integer_depth_scale")
#: Keys that are read or refused, and ours.
READ = (
    *(*ALL_NUMBERS, *PATHS, *MODEL_KEYS, *FLAGS, *REFUSED, *SPELLINGS),
    *("transform_matrix", "box", "distortion_params", "time", "part", "over"),
    *(f"{part}_filenames" for part in SPLITS[:3]),
)
#: Keys that change no pixel and no ray: names, qualities, steps that were taken before, and what
#: places a scene in another program.
IDLE = (
    *("rotation", "sharpness", "blur_score", "timestamp", "colmap_im_id", "colmap_id", "id"),
    *("aabb_scale", "aabb", "scale", "offset", "up", "orientation_override", "ply_file_path"),
    *("applied_transform", "camera", "camera_id", "camera_label", "name", "enable_depth_loading"),
    *("image_id", "frame_id", "frame_index", "index", "scene_name", "version", "comment"),
)


@dataclass(frozen=True)
class Frames:
    """The frames of a split and those of the whole scene, each with its file's own values."""

    chosen: list[FrameRecord]
    every: list[FrameRecord]
    notes: tuple[str, ...] = ()
    one_file: bool = False  # nerfstudio's, whose pictures are photographs


def read_split(root: Path, split: str, hold: int) -> Frames:
    """The frames of a split; where there is no test split they are those of val."""
    parts = [part for part in SPLITS[:3] if (root / f"transforms_{part}.json").is_file()]
    if not parts:
        found = split_of_one_file(root / "transforms.json", split, hold)
        return replace(found, notes=(*found.notes, *other_files(root, parts)))
    own = stand_in(split, parts)
    if split != "all" and own not in parts:
        raise NoViews(
            f"got no transforms_{split}.json in '{root}'",
            f"wanted one of the splits {', '.join(parts)}",
            "choose one of them",
        )
    by_part = {part: read_frames(root / f"transforms_{part}.json", part) for part in parts}
    every = [frame for part in parts for frame in by_part[part]]
    notes = (*frame_notes(every), *other_files(root, parts))
    if own != split:
        notes = (*notes, f"no transforms_{split}.json: the {own} views are the {split} views")
    return Frames(every if split == "all" else by_part[own], every, notes)


def other_files(root: Path, parts: Sequence[str]) -> list[str]:
    """What to say of transforms files beside those that are read."""
    read = [f"transforms_{part}.json" for part in parts] or ["transforms.json"]
    others = sorted(path.name for path in root.glob("transforms*.json") if path.name not in read)
    return [f"{', '.join(others)} beside {', '.join(read)} are not read"] if others else []


def stand_in(split: str, parts: Sequence[str]) -> str:
    """The split that stands for one that is not there: val for test.

    >>> stand_in("test", ["train", "val"]), stand_in("val", ["train", "test"])
    ('val', 'val')
    """
    return "val" if split == "test" and "test" not in parts and "val" in parts else split


def split_of_one_file(path: Path, split: str, hold: int) -> Frames:
    """:func:`read_split` of nerfstudio's one file, which may list the pictures of its splits."""
    every = read_frames(path)
    notes = frame_notes(every)
    lists = {part: every[0].get(f"{part}_filenames") or () for part in ("test", "train", "val")}
    if not any(lists.values()):
        every.sort(key=lambda frame: str(frame["file_path"]))
        return Frames(held_out(every, split, hold), every, notes, True)
    members: dict[str, set[int]] = {}
    for part, names in lists.items():
        members[part], unknown = members_of(every, names, part, path)
        if unknown:
            notes = (
                *notes,
                f"{len(unknown)} of {len(names)} {part}_filenames are no frames (the first is "
                f"'{unknown[0]}')",
            )
    for k, frame in enumerate(every):
        frame["part"] = next((part for part, found in members.items() if k in found), "")
    left = sum(not frame["part"] for frame in every)
    if left:
        given = ", ".join(f"{part}_filenames" for part in SPLITS[:3] if lists[part])
        notes = (*notes, f"{left} of {len(every)} frames are in none of {given} and are left out")
    if split == "all":
        return Frames([frame for frame in every if frame["part"]], every, notes, True)
    own = stand_in(split, [part for part, found in members.items() if found])
    if own != split:
        notes = (*notes, f"no {split}_filenames: the {own} views are the {split} views")
    return Frames([every[k] for k in sorted(members[own])], every, notes, True)


def members_of(
    every: Sequence[FrameRecord], names: Sequence[Any], part: str, path: Path
) -> tuple[set[int], list[str]]:
    """The places of the frames that a list of pictures names, in whatever spelling, and the rest.

    Of a path of another place its end counts.
    """
    if not isinstance(names, list | tuple):
        raise UserError(
            f"got {part}_filenames in '{path}' that is no list", "wanted a list", "correct it"
        )
    spelled: dict[str, int] = {}
    twice: set[str] = set()
    for k, frame in enumerate(every):
        full = PurePosixPath(frame["file_path"])
        spelled[str(full)] = spelled[str(full.with_suffix(""))] = k
        for short in (full.name, full.stem):
            if spelled.get(short, k) != k:
                twice.add(short)
            spelled.setdefault(short, k)
    found, unknown = set(), []
    for name in names:
        plain = plain_path(str(name))
        keys = [
            key
            for tail in (plain, *tails_elsewhere(plain))
            for key in (tail, str(PurePosixPath(tail).with_suffix("")))
        ]
        place = next((key for key in keys if key in spelled and key not in twice), None)
        if place is not None:
            found.add(spelled[place])
        else:
            unknown.append(str(name))
    if unknown and not found:
        raise UserError(
            f"got {part}_filenames in '{path}' of which none is a frame (the first is "
            f"'{unknown[0]}')",
            "wanted the file_path of frames",
            "correct the list",
        )
    return found, unknown


def frame_notes(every: Sequence[FrameRecord]) -> tuple[str, ...]:
    """What to say of keys of frames and of their file."""
    notes = []
    keys = sorted({key for frame in every for key in frame["over"]})
    if keys:
        notes.append(f"{', '.join(keys)} of single frames win over those of the whole file")
    unread = sorted(
        {key for frame in every for key, value in frame.items() if is_set(value)}
        - {*READ, *IDLE, *(key for key in every[0] if key.endswith("_frames"))}
    )
    if unread:
        notes.append(f"keys of the transforms file that are not read: {', '.join(unread)}")
    others = sorted(key for key in every[0] if key.endswith("_frames") and every[0][key])
    if others:
        notes.append(
            f"the frames of {', '.join(others)} are not read: put them into frames, and "
            "their names into test_filenames"
        )
    if len({str(frame["time"]) for frame in every if "time" in frame}) > 1:
        notes.append("the frames have times: a scene that moves is fitted as if it stood still")
    return tuple(notes)


def plain_path(name: str) -> str:
    """A path of a file with forward separators and without ``.``.

    >>> plain_path("./images\\\\a.png")
    'images/a.png'
    """
    return posixpath.normpath(name.replace("\\", "/"))


def read_frames(path: Path, part: str = "") -> list[FrameRecord]:
    """The frames of a transforms file, each with the file's own values where it has none."""
    try:
        values = json.loads(path.read_bytes())  # by its byte order mark: UTF-8, UTF-16 or UTF-32
        common = {key: value for key, value in values.items() if key != "frames"}
        frames = [
            with_plain_keys({**common, **frame, "part": part, "over": over(common, frame)})
            for frame in values["frames"]
        ]
        if not all("file_path" in frame and "transform_matrix" in frame for frame in frames):
            raise ValueError("a frame without file_path or transform_matrix")
        if not all(isinstance(frame["file_path"], str) for frame in frames):
            raise ValueError("a file_path that is no text")
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
        for key in ALL_NUMBERS:
            frame[key] = read_number(frame.get(key), key, path)
        for key in PATHS:
            if frame.get(key) is not None:
                frame[key] = plain_path(str(frame[key]))
    return frames


def over(common: Mapping[str, Any], frame: Mapping[str, Any]) -> list[str]:
    """The numbers that a frame gives otherwise than its file."""
    return [key for key in NUMBERS if key in common and frame.get(key, common[key]) != common[key]]


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
    """Poses [V, 3, 4] of frames, float64."""
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
    if not bool(poses.isfinite().all()):
        raise UserError(
            f"got a transform_matrix in '{root}' with numbers that are not finite",
            "wanted camera to world, row by row",
            "correct the transforms file",
        )
    return poses[:, :3]
