"""NeuS's format, in which the masked DTU scans are spread: cameras_sphere.npz, image/ and mask/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras
from .arrays import ERRORS
from .bounds import bounds_of_box, cube
from .linear import tone_note
from .masks import mask_folder, unread_notes
from .nsvf import OPENCV
from .pictures import MaskFile, pictures_in, read_pictures, scene_of
from .reading import Reading
from .scene import SCENES
from .sizes import check_centres
from .splits import chosen_views, held_out
from .toy import toy_cameras, toy_picture, write_toy_picture
from .types import Scene

NAMES = ("cameras_sphere.npz", "cameras.npz")
ROUNDED = 1e-4  # of the object's radius


@SCENES.register("dtu")
class Dtu:
    """NeuS's layout of DTU scans: cameras_sphere.npz (world_mat_N, scale_mat_N), image/, mask/.

    Lengths are those in which the object lies in the unit ball, so the box is ±1. Facts:
    ``mm_per_unit`` (DTU's world is in millimetres) and ``to_world`` [4, 4], back to the file's
    space.

    Options:
        hold: one view in this many is held out (NeuS itself trains on all: split "all").
        masked: the masks are the pictures' alpha; without, pictures stay whole.
    """

    recipe = "neus_dtu"

    def __init__(self, *, hold: int = 8, masked: bool = True) -> None:
        self.hold, self.masked = hold, masked

    @staticmethod
    def detect(root: Path) -> bool:
        return any((root / name).is_file() for name in NAMES) and (root / "image").is_dir()

    @staticmethod
    def example(folder: Path) -> Path:
        from PIL import Image

        cameras, scale_mat = toy_cameras(), np.diag([2.0, 2.0, 2.0, 1.0])
        scale_mat[:3, 3] = (0.1, 0.2, 0.3)
        arrays: dict[str, np.ndarray] = {}
        for v in range(cameras.count):
            write_toy_picture(folder / "image" / f"{v:06d}.png", cameras, v, alpha=False)
            (folder / "mask").mkdir(exist_ok=True)
            mask = (255 * toy_picture(cameras, v)[..., 3]).byte().numpy()
            Image.fromarray(mask).save(folder / "mask" / f"{v:03d}.png")
            pose = (cameras.c2w[v] * OPENCV).double().numpy()
            centre = cameras.centre_px[v].tolist()
            k = np.array(
                [
                    [float(cameras.focal_px[v, 0]), 0, centre[0]],
                    [0, float(cameras.focal_px[v, 1]), centre[1]],
                    [0, 0, 1],
                ]
            )
            world = np.eye(4)
            world[:3] = k @ np.hstack([pose[:, :3].T, -pose[:, :3].T @ pose[:, 3:]])
            arrays |= {f"world_mat_{v}": world, f"scale_mat_{v}": scale_mat}
        np.savez(folder / NAMES[0], allow_pickle=False, **arrays)
        return folder

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        lenses, poses, scale_mat, notes = read_cameras(
            next(root / name for name in NAMES if (root / name).is_file())
        )
        paths = pictures_in(root / "image")
        if len(paths) != len(poses):
            raise UserError(
                f"got {len(paths)} pictures in '{root / 'image'}' and {len(poses)} cameras",
                "wanted one camera per picture",
                "remove the surplus",
            )
        home = mask_folder(root) if self.masked else None
        masks = pictures_in(home) if home is not None else []
        if masks and len(masks) != len(paths):
            raise UserError(
                f"got {len(paths)} pictures and {len(masks)} masks in '{root}'",
                "wanted one mask per picture or none",
                "remove the surplus, or set masked: false",
            )
        chosen = chosen_views(
            held_out(range(len(paths)), split, self.hold), split, reading.views, root
        )
        own = [masks[i] for i in chosen] if masks else None
        ignored = reading.masks == "ignore" and own is not None
        pictures = read_pictures(
            [paths[i] for i in chosen],
            downscale=reading.downscale,
            background=reading.background,
            masks=None if ignored or reading.masks == "off" else own,
            ignored=[MaskFile(path) for path in own] if ignored and own else None,
            tone_map=reading.tone_map,
        )
        check_centres(lenses[chosen, 1], pictures.full, root)
        bounds = bounds_of_box(poses, cube(torch.zeros(3), 1.0))
        cameras = Cameras(
            poses[chosen],
            lenses[chosen, 0],
            lenses[chosen, 1],
            *pictures.full,
            bounds.near,
            bounds.far,
        )
        facts = {"mm_per_unit": float(scale_mat[0, 0]), "to_world": scale_mat.float()}
        stems = [paths[i].stem for i in chosen]
        return scene_of(
            pictures,
            root,
            "dtu",
            split,
            stems,
            cameras.resized(*pictures.size),
            bounds.box,
            facts=facts,
            notes=[
                *notes,
                *unread_notes(root, paths, masks or paths, split),
                *tone_note(paths, reading.tone_map),
            ],
            to_world=scale_mat,
        )


def check_matrices(world: Sequence[np.ndarray], scale: Sequence[np.ndarray]) -> None:
    """Raise ValueError for matrices that are no cameras."""
    for v, (camera, ball) in enumerate(zip(world, scale, strict=True)):
        if camera.dtype.kind not in "fiu" or ball.dtype.kind not in "fiu":
            raise ValueError(f"view {v} has matrices that are no real numbers")
        if camera.shape != (4, 4) or ball.shape != (4, 4):
            raise ValueError(f"view {v} has matrices {camera.shape} and {ball.shape}, not 4×4")
        p = (camera @ ball)[:3, :3]
        if not np.isfinite(camera @ ball).all() or np.linalg.matrix_rank(p) < 3:
            raise ValueError(f"the matrices of view {v} are singular or not finite")


def rounding_note(world: Sequence[np.ndarray], scale: np.ndarray) -> list[str]:
    """A sentence where cameras of single precision lie so far off that it rounds their places.

    ``scale`` [4, 4] leads from the unit ball to the world.
    """
    rounded = float(np.abs(scale[:3, 3]).max() / abs(scale[0, 0])) * 2.0**-24
    if world[0].dtype.itemsize > 4 or rounded < ROUNDED:
        return []
    return [
        f"the cameras are stored in single precision, which rounds them to {rounded:.1g} of the "
        "object's radius so far from the origin: write them in double precision, or move the world"
    ]


def read_cameras(path: Path) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Lenses [V, 2, 2], poses [V, 3, 4], the matrix [4, 4] from unit ball to world, and remarks.

    A lens is its focal length and its principal point.

    P = world_mat · scale_mat = K [R | t] by RQ decomposition with a positive diagonal. The
    principal point is taken as it is: DTU's calibration counts pixel centres.
    """
    from scipy.linalg import rq

    try:
        with np.load(path, allow_pickle=False) as file:
            count = sum(key.startswith("world_mat_") and "inv" not in key for key in file.files)
            world, scale = (
                [np.asarray(file[f"{name}_mat_{v}"]) for v in range(count)]
                for name in ("world", "scale")
            )
        if not count:
            raise ValueError("no world_mat_0")
        check_matrices(world, scale)
        notes = rounding_note(world, scale[0])
        world, scale = ([m.astype(np.float64) for m in some] for some in (world, scale))
    except ERRORS as error:
        raise UserError(
            f"got '{path}' that cannot be read ({error})",
            "wanted world_mat_N and scale_mat_N for each view",
            "make it again with NeuS's preprocessing",
        ) from None
    lenses, poses = [], []
    for v in range(count):
        p = (world[v] @ scale[v])[:3]
        k, turn = rq(p[:, :3])
        signs = np.sign(np.diag(k))
        k, turn = k * signs, signs[:, None] * turn
        sign = np.sign(np.linalg.det(turn))  # P is known up to its sign
        k, position = k / k[2, 2], -np.linalg.solve(p[:, :3], p[:, 3])
        lenses.append([[k[0, 0], k[1, 1]], [k[0, 2], k[1, 2]]])
        poses.append(np.column_stack([sign * turn.T, position]))
    own = torch.from_numpy(np.stack(poses)) * OPENCV
    return torch.tensor(np.array(lenses)).float(), own, torch.from_numpy(scale[0]), notes
