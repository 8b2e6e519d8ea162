"""A scene written as nerfstudio's ``transforms.json`` with its pictures, for other programs.

Format ``blender`` reads it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import files
from ...core.errors import UserError
from ...imaging.cameras import Cameras
from .types import Scene
from .world import world_box, world_poses, world_scale

CAMERA_MODELS = {
    "brown": "OPENCV",
    "fisheye": "OPENCV_FISHEYE",
    "equirectangular": "EQUIRECTANGULAR",
}


def check_transforms(scene: Scene) -> None:
    """Refuse what the file cannot express: radiographs, mirrored cameras, NDC."""
    if scene.quantity != "colour":
        raise UserError(
            "got radiographs for transforms.json",
            "wanted a scene of photographs",
            "export its volume instead",
        )
    if bool((torch.linalg.det(scene.cameras.c2w[:, :, :3]) < 0).any()):
        raise UserError(
            "got mirrored cameras for transforms.json",
            "wanted poses that are rotations",
            "mirror the pictures first",
        )
    if scene.cameras.ndc:
        raise UserError(
            "got a forward-facing scene in NDC for transforms.json, where near and "
            "far are distances",
            "wanted a scene in its own space",
            "fit it with --set scene.ndc=false",
        )


def write_transforms(
    splits: Iterable[Scene], folder: str | Path, *, to_world: Tensor | None = None
) -> None:
    """Write splits of a scene: ``transforms.json``, and pictures as ``images/SPLIT/STEM.png``.

    The pictures are those that were read: at their size, without their lens's distortion, RGBA
    where their coverage is known, with masks as ``masks/SPLIT/STEM.png``. ``SPLIT_filenames`` lists
    the views of each split; a val that is the test, which must come before it, is not written
    again. Poses, near, far and box are those after ``to_world`` [4, 4]. Raises UserError as
    :func:`check_transforms` does.
    """
    folder, frames, test = Path(folder), [], None
    lists: dict[str, list[str]] = {}
    for scene in splits:
        check_transforms(scene)
        if (
            test is not None
            and scene.stems == test.stems
            and torch.equal(scene.cameras.c2w, test.cameras.c2w)
        ):
            lists[f"{scene.split}_filenames"] = lists["test_filenames"]
            continue
        names = [f"images/{scene.split}/{stem.replace('/', '_')}.png" for stem in scene.stems]
        for v, name in enumerate(names):
            write_picture(folder / name, scene, v)
            frame = {"file_path": name, **camera(scene, v, to_world)}
            if scene.valid is not None:
                frame["mask_path"] = name.replace("images/", "masks/", 1)
                write_mask(folder / frame["mask_path"], scene.valid[v])
            frames.append(frame)
        lists[f"{scene.split}_filenames"] = names
        test = scene if scene.split == "test" else test
    near, far = (
        torch.as_tensor(value, dtype=torch.float64)
        for value in (scene.cameras.near, scene.cameras.far)
    )
    length = world_scale(to_world)
    space = {
        "near": length * float(near.min()),
        "far": length * float(far.max()),
        "box": (scene.box if to_world is None else world_box(scene.box, to_world)).tolist(),
    }
    files.write_json(
        folder / "transforms.json", {"camera_model": "OPENCV", **space, **lists, "frames": frames}
    )


def camera(scene: Scene, view: int, to_world: Tensor | None = None) -> dict[str, Any]:
    """Lens and pose of a view; nerfstudio counts pixels from the corner of the first.

    That is half a pixel before our zero.
    """
    cameras = scene.cameras
    (fl_x, fl_y), (cx, cy) = cameras.focal_px[view].tolist(), cameras.centre_px[view].tolist()
    return {
        "fl_x": fl_x,
        "fl_y": fl_y,
        "cx": cx + 0.5,
        "cy": cy + 0.5,
        "w": cameras.cols,
        "h": cameras.rows,
        **lens_keys(cameras, view),
        "transform_matrix": [
            *(
                cameras.c2w[view] if to_world is None else world_poses(cameras.c2w[view], to_world)
            ).tolist(),
            [0.0, 0.0, 0.0, 1.0],
        ],
    }


def lens_keys(cameras: Cameras, view: int) -> dict[str, Any]:
    """The keys of a lens that is no pinhole."""
    if cameras.lenses is None:
        return {}
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    *numbers, d1, d2, d3 = cameras.lenses.coefficients[view].tolist()
    model = CAMERA_MODELS[cameras.lenses.name(view)]
    if model == "OPENCV" and any((d1, d2, d3)):
        k4, k5, k6 = d1, d2, d3
        return {
            "camera_model": "FULL_OPENCV",
            **dict(zip(names, numbers, strict=True)),
            **{"k4": k4, "k5": k5, "k6": k6},
        }
    return {"camera_model": model, **dict(zip(names, numbers, strict=True))}


def write_mask(path: Path, valid: Tensor) -> None:
    """Write which pixels [H, W] count, white, as a PNG."""
    from PIL import Image

    with files.atomic(path) as temporary:
        Image.fromarray((255 * valid).to(torch.uint8).numpy()).save(temporary)


def write_picture(path: Path, scene: Scene, view: int) -> None:
    """Write a view as an 8-bit PNG, with coverage as RGBA of straight colours.

    Straight colours c are those of α c + (1 − α) background.
    """
    from PIL import Image

    values = scene.images[view].float()
    if scene.alpha is not None:
        # as it will be read, so that the mixture stays
        alpha = (255 * scene.alpha[view, ..., None].float()).round() / 255
        straight = (values - (1 - alpha) * scene.background) / alpha.clamp_min(1 / 255)
        values = torch.cat([straight, alpha], -1)
    with files.atomic(path) as temporary:
        Image.fromarray((255 * values.clamp(0, 1)).round().numpy().astype(np.uint8)).save(temporary)
