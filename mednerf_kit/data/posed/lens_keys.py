"""The lens of a frame of a transforms file: the keys of Blender, nerfstudio and instant-ngp."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from .lens import Lens
from .sizes import PictureSize

ANGLES = ("camera_angle_x", "camera_angle_y")
NUMBERS = (
    *ANGLES,
    *("x_fov", "y_fov", "fl_x", "fl_y", "cx", "cy", "w", "h"),
    *("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"),
)
#: Names of ``camera_model`` and the model of each.
CAMERA_MODELS = {
    "": "brown",
    "PERSP": "brown",
    "PERSPECTIVE": "brown",
    "PINHOLE": "brown",
    "SIMPLE_PINHOLE": "brown",
    "RADIAL": "brown",
    "SIMPLE_RADIAL": "brown",
    "OPENCV": "brown",
    "FULL_OPENCV": "brown",
    "FISHEYE": "fisheye",
    "OPENCV_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "EQUIRECTANGULAR": "equirectangular",
}
#: Keys of lenses that are not read: to leave one out would be another camera.
REFUSED = (
    *("latlong", "rolling_shutter", "transform_matrix_start", "transform_matrix_end"),
    *("s1", "s2", "s3", "s4", "xi", "orthographic"),
    *("distortion", "distortion_coefficients", "dist_coeffs"),
)
#: Other names of ``camera_model``: Blender's and nerfstudio's ``camera_type``, instant-ngp's
#: ``lens_mode``.
MODEL_KEYS = (
    *("camera_model", "camera_type", "lens_model", "lens_type", "lens_mode"),
    *("projection_type", "projection"),
)
#: Other spellings of keys.
SPELLINGS = {"width": "w", "height": "h", "fx": "fl_x", "fy": "fl_y"}
#: Keys that say yes or no, and the model of each.
FLAGS = {
    "is_fisheye": "fisheye",
    "fisheye": "fisheye",
    "equirectangular": "equirectangular",
    "is_equirectangular": "equirectangular",
}
#: Order of nerfstudio's ``distortion_params``.
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def wanted_size(frame: Mapping[str, Any]) -> tuple[float, float] | None:
    """Rows and columns that a frame's intrinsics are for, where it gives both."""
    return (frame["h"], frame["w"]) if frame["w"] and frame["h"] else None


def guessed_size(frame: Mapping[str, Any]) -> tuple[float, float] | None:
    """Rows and columns of a picture whose middle is the frame's principal point."""
    return (2 * frame["cy"], 2 * frame["cx"]) if frame["cx"] and frame["cy"] else None


def with_plain_keys(frame: Mapping[str, Any]) -> dict[str, Any]:
    """A frame with the keys of :data:`SPELLINGS` under their plain names, and nerfstudio's list
    ``distortion_params`` under those of its parts.

    What stands there by its plain name is left alone; a list that is none is a ValueError.

    >>> with_plain_keys({"distortion_params": [0.1, 0.2], "k2": 0.5, "width": 8})["k1"]
    0.1
    """
    listed = frame.get("distortion_params")
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or len(listed) > len(DISTORTION):
        raise ValueError(f"distortion_params that are no list of {', '.join(DISTORTION)}")
    spelled = {plain: frame[key] for key, plain in SPELLINGS.items() if key in frame}
    return {**dict(zip(DISTORTION, listed, strict=False)), **spelled, **frame}


def is_set(value: Any) -> bool:
    """Whether a key says something: not nothing, false, or a list of zeros.

    >>> is_set(True), is_set([0, 0, 1, 0]), is_set([0, 0]), is_set("false"), is_set(None)
    (True, True, False, False, False)
    """
    if isinstance(value, list | tuple):
        return any(is_set(item) for item in value)
    return bool(value) and str(value).lower() not in ("false", "0", "none")


def model_name(frame: Mapping[str, Any]) -> str:
    """How a frame calls its lens's model, in capitals; nothing where it does not."""
    return next((plain_name(frame[key]) for key in MODEL_KEYS if frame.get(key)), "")


def plain_name(value: Any) -> str:
    """The name of a model in capitals, spelled as in :data:`CAMERA_MODELS` if it is there.

    >>> plain_name("opencv-fisheye"), plain_name("OpenCVFisheye"), plain_name("FTheta")
    ('OPENCV_FISHEYE', 'OPENCV_FISHEYE', 'FTHETA')
    """
    letters = re.compile(r"[\W_]")
    name = letters.sub("", str(value)).upper()
    return next(
        (known for known in CAMERA_MODELS if letters.sub("", known) == name), str(value).upper()
    )


def model_of(frame: Mapping[str, Any], path: Path) -> str:
    """The model of a frame's lens; raises UserError for one that is not read, by its name."""
    named = (*REFUSED, *(key for key in frame if key.startswith("ftheta_")))
    given = [key for key in named if is_set(frame.get(key))]
    if model_name(frame) != "FULL_OPENCV":
        given += [key for key in ("k5", "k6") if frame.get(key)]
    if given:
        raise UserError(
            f"got {given[0]} in the transforms file of '{path.name}', a lens that is not read",
            "wanted a pinhole, OPENCV, OPENCV_FISHEYE or EQUIRECTANGULAR",
            "undistort the pictures first (COLMAP's image_undistorter), and leave the key out",
        )
    names = {key: plain_name(frame[key]) for key in MODEL_KEYS if frame.get(key)}
    for key, name in names.items():
        if name not in CAMERA_MODELS:
            raise UserError(
                f"got a camera of model '{name}' ({key}) in '{path.parent}'",
                f"wanted one of {', '.join(filter(None, CAMERA_MODELS))}",
                "undistort the pictures first (COLMAP's image_undistorter)",
            )
    flags = {key: model for key, model in FLAGS.items() if is_set(frame.get(key))}
    said = {key: CAMERA_MODELS[name] for key, name in names.items()}
    # a plain camera's name is a default that other keys speak more plainly than
    models = {model for model in (said | flags).values() if model != "brown"}
    if len(models) > 1:
        each = ", ".join(f"{key} {frame[key]}" for key in said | flags)
        raise UserError(
            f"got several lenses in the transforms file of '{path.name}' ({each})",
            "wanted one",
            "leave out the keys of the others",
        )
    return models.pop() if models else "brown"


def read_lens(
    frame: Mapping[str, Any], path: Path, size: PictureSize, *, undistort: bool = True
) -> Lens:
    """A frame's lens in pixels of its picture.

    Files give ``camera_angle_x`` (radians), ``x_fov`` (degrees), or ``fl_x``, ``cx``, ``k1`` … for
    a picture of ``w``×``h``.
    """
    model = model_of(frame, path)
    if model == "equirectangular":
        return whole_sphere(size, path)
    rows, cols = size.rows, size.cols
    wide, high = cols / (frame["w"] or cols), rows / (frame["h"] or rows)
    if not (frame["w"] and frame["h"]):  # one of them gives the scale of both
        wide = high = wide * high
    fx, fy = focal_px(frame, rows, cols, wide, high)
    cx = (cols - 1) / 2 if frame["cx"] is None else frame["cx"] * wide - 0.5
    cy = (rows - 1) / 2 if frame["cy"] is None else frame["cy"] * high - 0.5
    if not wanted_size(frame) and not (-0.5 <= cx <= cols - 0.5 and -0.5 <= cy <= rows - 0.5):
        raise UserError(
            f"got a principal point at ({cx + 0.5:g}, {cy + 0.5:g}), outside of '{path}' of "
            f"{cols}×{rows} pixels",
            "wanted the intrinsics of these pictures",
            'add "w" and "h" of the pictures they are for, and they are scaled',
        )
    k1, k2, k3, k4, k5, k6, p1, p2 = (
        frame[key] or 0.0 for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    )
    if model == "fisheye":
        return Lens((fx, fy), (cx, cy), (k1, k2, k3, k4), model=model)
    if model_name(frame) == "FULL_OPENCV":
        return Lens((fx, fy), (cx, cy), (k1, k2, k3), (p1, p2), (k4, k5, k6), undistort=undistort)
    return Lens((fx, fy), (cx, cy), (k1, k2, k3, k4), (p1, p2), undistort=undistort)


def focal_px(
    frame: Mapping[str, Any], rows: int, cols: int, wide: float, high: float
) -> tuple[float, float]:
    """Focal lengths in pixels of a picture of ``rows``×``cols``, ``wide`` and ``high`` times the
    file's.
    """
    x = along(frame, "x", cols, wide)
    y = along(frame, "y", rows, high)
    if x is None and y is None:
        raise UserError(
            f"got frame '{frame['file_path']}' without a focal length",
            "wanted camera_angle_x or fl_x",
            "add it",
        )
    if x is None or y is None:  # square pixels
        only = x if x is not None else y
        assert only is not None
        return only, only
    return x, y


def along(frame: Mapping[str, Any], axis: str, pixels: int, scale: float) -> float | None:
    """The focal length along an axis, from the first key that gives it."""
    if frame[f"fl_{axis}"]:
        return frame[f"fl_{axis}"] * scale
    if frame[f"camera_angle_{axis}"] is not None:
        return 0.5 * pixels / math.tan(0.5 * frame[f"camera_angle_{axis}"])
    if frame[f"{axis}_fov"]:
        return 0.5 * pixels / math.tan(0.5 * math.radians(frame[f"{axis}_fov"]))
    return None


def whole_sphere(size: PictureSize, path: Path) -> Lens:
    """The lens of an equirectangular picture, which must show the whole sphere."""
    if abs(size.cols - 2 * size.rows) > 1:
        raise UserError(
            f"got an equirectangular picture '{path}' of {size.cols}×{size.rows} pixels",
            "wanted the whole sphere, twice as wide as high",
            "give whole panoramas, or the camera that the pictures were taken with",
        )
    focal = (size.cols / (2 * math.pi), size.rows / math.pi)
    return Lens(focal, ((size.cols - 1) / 2, (size.rows - 1) / 2), model="equirectangular")
