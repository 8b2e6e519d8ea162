"""Lenses: pinholes with Brown's distortion, and pictures with the distortion taken out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError

ZOOM_STEPS = 200  # of 1 % each


@dataclass(frozen=True)
class Lens:
    """Pinhole intrinsics in pixels (centres at integers) with Brown's distortion, as in OpenCV.

    The coefficients are radial (k1, k2) and tangential (p1, p2).
    """

    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    radial: tuple[float, float] = (0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)

    @property
    def distorts(self) -> bool:
        """Whether the lens is more than a pinhole."""
        return any((*self.radial, *self.tangential))

    def matrix(self, zoom: float = 1.0) -> Tensor:
        """The pinhole's camera matrix K [3, 3] in float64, its focal length times ``zoom``."""
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        rows = [[fx * zoom, 0.0, cx], [0.0, fy * zoom, cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)


def undistorted(image: Tensor, lens: Lens) -> Tensor:
    """The picture [H, W, C] that a pinhole sees of a photograph [H, W, C]; bilinear.

    The pinhole's focal length is :func:`least_zoom` times the lens's.
    """
    from kornia.geometry.transform import remap

    rows, cols = image.shape[:2]
    across, down = (torch.arange(n, dtype=torch.float64) for n in (cols, rows))
    xy = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    x, y = photographed_at(lens, xy.view(-1, 2), least_zoom(lens, rows, cols)).float().T
    maps = (x.view(1, rows, cols), y.view(1, rows, cols))
    planes = image.movedim(-1, 0)[None]
    return remap(planes, *maps, padding_mode="border", align_corners=True)[0].movedim(0, -1)


def least_zoom(lens: Lens, rows: int, cols: int) -> float:
    """The smallest enlargement of the focal length by which all of the picture was photographed.

    It is found in steps of 1 %.
    """
    if not lens.distorts:
        return 1.0
    across, down = (torch.linspace(0, n - 1, 65, dtype=torch.float64) for n in (cols, rows))
    left, right = torch.zeros_like(down), torch.full_like(down, cols - 1.0)
    top, bottom = torch.zeros_like(across), torch.full_like(across, rows - 1.0)
    border = torch.stack(
        [torch.cat([across, across, left, right]), torch.cat([top, bottom, down, down])], -1
    )
    for step in range(ZOOM_STEPS):
        zoom = 1 + step / 100
        xy = photographed_at(lens, border, zoom)
        if bool(((xy >= -0.5) & (xy <= xy.new_tensor([cols, rows]) - 0.5)).all()):
            return zoom
    raise UserError(
        f"got a lens with distortion {lens.radial + lens.tangential}",
        "wanted one that a pinhole picture can be made of",
        "undistort the pictures with COLMAP's image_undistorter",
    )


def photographed_at(lens: Lens, xy: Tensor, zoom: float) -> Tensor:
    """Pixels [N, 2] (x, y) of the photograph that a pinhole's pixels [N, 2] show.

    The pinhole's focal length is ``zoom`` times the lens's.
    """
    from kornia.geometry.calibration import distort_points

    coefficients = torch.tensor((*lens.radial, *lens.tangential), dtype=xy.dtype)
    return distort_points(xy, lens.matrix(), coefficients, lens.matrix(zoom))
