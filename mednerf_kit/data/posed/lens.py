"""Lenses of photographs: as rays, and Brown's also as pictures with the distortion taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras
from ...imaging.lens_models import MODELS, Lenses

ZOOM_STEPS = 200  # of 1 % each


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels (centres at integers) with a model of :data:`~.lens_models.MODELS`.

    Brown's coefficients are radial (k1, k2, k3, k4), tangential (p1, p2) and those of the radial
    polynomial below the fraction line; a fisheye has radial ones. An ``undistort`` lens of k1, k2,
    p1 and p2 is taken out of its pictures; the rays of any other are bent.
    """

    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    radial: tuple[float, ...] = (0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    below: tuple[float, ...] = ()
    model: str = "brown"
    undistort: bool = True

    @property
    def distorts(self) -> bool:
        """Whether the lens is more than a pinhole."""
        return self.model != "brown" or any((*self.radial, *self.tangential, *self.below))

    @property
    def bends_pictures(self) -> bool:
        """Whether the pictures are undistorted."""
        plain = self.model == "brown" and not any((*self.radial[2:], *self.below))
        return self.distorts and self.undistort and plain

    @property
    def coefficients(self) -> list[float]:
        """The nine numbers of :class:`~.lens_models.Lenses`; zeros of a picture undistorted."""
        if self.bends_pictures:
            return [0.0] * 9
        radial, below = ((*k, 0.0, 0.0, 0.0, 0.0) for k in (self.radial, self.below))
        return [*radial[:4], *self.tangential, *below[:3]]

    def matrix(self, zoom: float = 1.0) -> Tensor:
        """The pinhole's camera matrix K [3, 3] in float64, its focal length times ``zoom``."""
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        rows = [[fx * zoom, 0.0, cx], [0.0, fy * zoom, cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)


def cameras_of(
    poses: Tensor,
    lenses: Sequence[Lens],
    full: tuple[int, int],
    near: float | Tensor,
    far: float | Tensor,
) -> tuple[Cameras, list[str]]:
    """Cameras [V] with these lenses and pictures of ``full`` rows and columns, and what to say."""
    zooms = torch.tensor([least_zoom(lens, *full) for lens in lenses])
    focal = torch.tensor([lens.focal_px for lens in lenses]) * zooms[:, None]
    centre = torch.tensor([lens.centre_px for lens in lenses])
    cameras, notes = Cameras(poses, focal, centre, *full, near, far), []
    if any(lens.bends_pictures for lens in lenses):
        notes.append(
            "lens distortion was taken out of the pictures, which enlarged them by up to "
            f"{100 * (zooms.max() - 1):.0f} %"
        )
    bent = [lens for lens in lenses if lens.distorts and not lens.bends_pictures]
    if bent:
        names = [model.name for model in MODELS]
        numbers = torch.tensor([names.index(lens.model) for lens in lenses])
        rows = torch.tensor([lens.coefficients for lens in lenses], dtype=torch.float64)
        cameras = replace(cameras, lenses=Lenses(numbers, rows))
        check_rays(cameras, lenses)
        kinds = ", ".join(sorted({lens.model for lens in bent}))
        notes.append(f"the rays of {len(bent)} views follow their lens ({kinds})")
    return cameras, notes


def check_rays(cameras: Cameras, lenses: Sequence[Lens]) -> None:
    """Refuse lenses that no ray leads through to pixels of their pictures."""
    ends = (torch.linspace(0, n - 1, 9) for n in (cameras.rows, cameras.cols))
    yx = torch.cartesian_prod(*ends).expand(cameras.count, -1, -1)
    view = torch.arange(cameras.count)[:, None].expand(-1, yx.shape[1])
    points = (yx.flip(-1) - cameras.centre_px[:, None]) / cameras.focal_px[:, None]
    assert cameras.lenses is not None
    back = cameras.lenses.points(view, cameras.lenses.directions(view, points))
    off = ((back - points) * cameras.focal_px[:, None]).abs().amax((1, 2)).nan_to_num(nan=torch.inf)
    if float(off.max()) > 0.5:
        lens = lenses[int(off.argmax())]
        raise UserError(
            f"got a {lens.model} lens with coefficients {lens.coefficients} that does not reach "
            "all of its picture",
            "wanted each pixel on one ray",
            "calibrate it again, or undistort the pictures",
        )


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
    if not lens.bends_pictures:
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

    coefficients = torch.tensor((*lens.radial[:2], *lens.tangential), dtype=xy.dtype)
    return distort_points(xy, lens.matrix(), coefficients, lens.matrix(zoom))
