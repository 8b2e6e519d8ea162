"""The cameras of a COLMAP reconstruction as lenses in pixels of the pictures."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import UserError
from .colmap_model import LENSES, MODELS, ColmapCamera, ColmapModel, ColmapView, unread_lens
from .lens import Lens
from .lens_keys import whole_sphere
from .sizes import PictureSize


def camera_of(model: ColmapModel, view: ColmapView) -> ColmapCamera:
    """The camera of a view."""
    if view.camera not in model.cameras:
        raise UserError(
            f"got the view '{view.name}' of camera {view.camera} without that camera",
            "wanted each camera in the cameras file",
            "export the model again with COLMAP's model_converter",
        )
    return model.cameras[view.camera]


def lens_of(camera: ColmapCamera, size: PictureSize, path: Path, *, undistort: bool = True) -> Lens:
    """The lens in pixels of a picture, which may be smaller than what was reconstructed."""
    if camera.model == "EQUIRECTANGULAR":
        return whole_sphere(size, path)
    if camera.model not in LENSES:
        raise unread_lens(camera.model)
    model, both, names = LENSES[camera.model]
    p = camera.params
    if len(p) != dict(MODELS)[camera.model]:
        raise UserError(
            f"got a camera of model {camera.model} with {len(p)} parameters",
            f"wanted {dict(MODELS)[camera.model]}",
            "export the model again with COLMAP's model_converter",
        )
    (fx, fy), (cx, cy), rest = (p[:2], p[2:4], p[4:]) if both else ((p[0], p[0]), p[1:3], p[3:])
    k = dict.fromkeys(("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"), 0.0)
    k |= dict(zip(names.split(), rest, strict=True))
    across, down = size.cols / camera.cols, size.rows / camera.rows
    focal, centre = (fx * across, fy * down), (cx * across - 0.5, cy * down - 0.5)
    if model == "fisheye":
        return Lens(focal, centre, (k["k1"], k["k2"], k["k3"], k["k4"]), model=model)
    radial, below = (k["k1"], k["k2"], k["k3"]), (k["k4"], k["k5"], k["k6"])
    return Lens(focal, centre, radial, (k["p1"], k["p2"]), below, undistort=undistort)
