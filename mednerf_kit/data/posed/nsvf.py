"""NSVF's format: rgb/, pose/, intrinsics.txt, bbox.txt.

Synthetic-NSVF and Tanks-and-Temples are spread in it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import natural_key
from ...imaging.cameras import Cameras
from .bounds import Bounds, bounds_of_box, bounds_of_poses
from .linear import tone_note
from .masks import mask_files, unread_notes
from .pictures import MaskFile, no_pictures, pictures_in, read_photographs, scene_of
from .reading import Reading
from .scene import SCENES
from .sizes import check_centres, size_notes, sizes_for
from .splits import chosen_views, held_out
from .toy import toy_cameras, write_toy_picture
from .types import Scene

PREFIXES = {"train": "0", "val": "1", "test": "2"}
# right, down, forward to right, up, back; the position stays
OPENCV = torch.tensor([1.0, -1.0, -1.0, 1.0])


@SCENES.register("nsvf")
class Nsvf:
    """NSVF and Tanks-and-Temples: rgb/ and pose/ (OpenCV poses), intrinsics.txt, bbox.txt.

    The first character of a picture's name is its split: 0 train, 1 val, 2 test; without any 2 the
    test split is 1. Near and far follow from the box. ``intrinsics.txt`` may have either form.

    Options:
        hold: one view in this many is held out where names begin with no such digit.
        enlarge: the box is that of bbox.txt times this; None is 1, and 1.2 where the intrinsics are
            a matrix, as in Tanks-and-Temples, whose boxes are tight.
    """

    recipe = "tensorf_nsvf"

    def __init__(self, *, hold: int = 8, enlarge: float | None = None) -> None:
        self.hold, self.enlarge = hold, enlarge

    @staticmethod
    def detect(root: Path) -> bool:
        return (
            (root / "pose").is_dir()
            and (root / "rgb").is_dir()
            and (root / "intrinsics.txt").is_file()
        )

    @staticmethod
    def example(folder: Path) -> Path:
        cameras = toy_cameras()
        (folder / "pose").mkdir(parents=True)
        for v in range(cameras.count):
            for part in "02":
                write_toy_picture(folder / "rgb" / f"{part}_{v:04d}.png", cameras, v)
                matrix = np.vstack([(cameras.c2w[v] * OPENCV).numpy(), [0, 0, 0, 1]])
                np.savetxt(folder / "pose" / f"{part}_{v:04d}.txt", matrix)
        (fx, _), (cx, cy) = cameras.focal_px[0].tolist(), (cameras.centre_px[0] + 0.5).tolist()
        (folder / "intrinsics.txt").write_text(
            f"{fx} {cx} {cy} 0.\n0. 0. 0.\n0.\n1.\n{cameras.rows} {cameras.cols}\n",
            encoding="utf-8",
        )
        (folder / "bbox.txt").write_text("-1 -1 -1 1.2 1.1 1.3 0.4\n", encoding="utf-8")
        return folder

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        every = pictures_in(root / "rgb")
        if not every:
            raise no_pictures(root, "rgb/")
        poses = {path.stem: path for path in sorted((root / "pose").glob("*.txt"), key=natural_key)}
        unposed = [path.name for path in every if path.stem not in poses]
        if unposed or len(poses) != len(every):
            hint = f" ('{unposed[0]}' has no pose)" if unposed else ""
            raise UserError(
                f"got {len(every)} pictures and {len(poses)} poses in '{root}'{hint}",
                "wanted pose/NAME.txt per rgb/NAME.png",
                "remove the surplus",
            )
        paths = chosen_views(self.of_split(every, split), split, reading.views, root)
        all_poses = torch.stack([read_pose(path) for path in poses.values()])
        wanted = intrinsics_size(root / "intrinsics.txt")
        sizes = sizes_for(paths, [wanted] * len(paths))
        masks = mask_files(root, [path.name for path in paths], "rgb")
        pictures = read_photographs(
            paths,
            reading,
            upright=[size.upright for size in sizes],
            ignored=[None if path is None else MaskFile(path) for path in masks],
        )
        focal, centre, matrix = read_intrinsics(root / "intrinsics.txt", pictures.full)
        check_centres(centre[None], pictures.full, root)
        bounds, notes = self.bounds(root, all_poses, tight=matrix)
        own = torch.stack([read_pose(poses[path.stem]) for path in paths])
        cameras = Cameras(
            own,
            focal.expand(len(own), 2),
            centre.expand(len(own), 2),
            *pictures.full,
            bounds.near,
            bounds.far,
        )
        stems = [path.stem for path in paths]
        return scene_of(
            pictures,
            root,
            "nsvf",
            split,
            stems,
            cameras.resized(*pictures.size),
            bounds.box,
            notes=[
                *notes,
                *unread_notes(root, paths, masks, split),
                *size_notes(sizes),
                *tone_note(paths, reading.tone_map),
            ],
        )

    def of_split(self, every: list[Path], split: str) -> list[Path]:
        """The pictures of a split, by the digit their names begin with."""
        digits = {path.name[0] for path in every if path.name[1:2] == "_"}
        if split == "all":
            return every
        if "0" not in digits:
            return held_out(every, split, self.hold)
        wanted = (
            PREFIXES[split]
            if split == "train" or PREFIXES[split] in digits
            else "1"
            if split == "test"
            else "2"
        )
        return [path for path in every if path.name.startswith(f"{wanted}_")]

    def bounds(self, root: Path, poses: Tensor, *, tight: bool) -> tuple[Bounds, list[str]]:
        """Near, far and box from bbox.txt, or from the poses."""
        path = root / "bbox.txt"
        if not path.is_file():
            found = bounds_of_poses(poses)
            return found, [f"no bbox.txt; near, far, box: {found.how}"]
        values = read_numbers(path)
        if len(values) < 6:
            raise UserError(
                f"got '{path}' with {len(values)} numbers",
                "wanted xmin ymin zmin xmax ymax zmax",
                "correct or remove it",
            )
        if not all(low < high for low, high in zip(values[:3], values[3:6], strict=True)):
            raise UserError(
                f"got '{path}' with corners {values[:3]} and {values[3:6]}",
                "wanted the lower corner below the upper",
                "write xmin ymin zmin xmax ymax zmax",
            )
        box = torch.tensor(values[:6], dtype=torch.float64).view(2, 3)
        enlarge = self.enlarge or (1.2 if tight else 1.0)
        middle = box.mean(0)
        return bounds_of_box(poses, middle + enlarge * (box - middle)), []


def read_numbers(path: Path) -> list[float]:
    """All numbers of a text file."""
    try:
        return [float(word) for word in path.read_text(encoding="utf-8-sig").split()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"got '{path}' that cannot be read ({error})", "wanted numbers", "correct it"
        ) from None


def read_pose(path: Path) -> Tensor:
    """A pose file (camera to world, OpenCV) as right, up, back and position [3, 4]."""
    values = read_numbers(path)
    if not all(map(math.isfinite, values)):
        raise UserError(
            f"got '{path}' with a number that is not finite", "wanted a pose", "correct it"
        )
    if len(values) not in (12, 16):
        raise UserError(
            f"got '{path}' with {len(values)} numbers", "wanted a 4×4 matrix", "correct it"
        )
    return torch.tensor(values[:12], dtype=torch.float64).view(3, 4) * OPENCV


def intrinsics_size(path: Path) -> tuple[float, float] | None:
    """Rows and columns that intrinsics are for, where the file says: a matrix does not."""
    values = read_numbers(path)
    return (values[-2], values[-1]) if len(values) >= 11 and len(values) != 16 else None


def read_intrinsics(path: Path, full: tuple[int, int]) -> tuple[Tensor, Tensor, bool]:
    """Focal length [2] and principal point [2] (x, y) in pixels, and whether a matrix gave them.

    The pixels are those of pictures of ``full`` rows and columns.

    Either a 3×3 or 4×4 matrix, or ``focal [cx cy …]`` first and rows and columns last. Files count
    pixels from the corner.
    """
    values = read_numbers(path)
    rows, cols = full
    if len(values) in (9, 16):
        k = torch.tensor(values).view(int(len(values) ** 0.5), -1)
        focal, corner, size = (
            [float(k[0, 0]), float(k[1, 1])],
            [float(k[0, 2]), float(k[1, 2])],
            [float(cols), float(rows)],
        )
    elif values:
        focal = [values[0], values[0]]
        corner = values[1:3] if len(values) >= 3 and min(values[1:3]) > 0 else [cols / 2, rows / 2]
        size = [values[-1], values[-2]] if len(values) >= 11 else [float(cols), float(rows)]
    else:
        raise UserError(
            f"got '{path}', which is empty", "wanted a focal length or a matrix", "copy it again"
        )
    scale = torch.tensor([cols / size[0], rows / size[1]])
    return torch.tensor(focal) * scale, torch.tensor(corner) * scale - 0.5, len(values) in (9, 16)
