"""The classical baselines of another house: FDK and SART of RTK (Rit et al. 2014), where its
package ``itk-rtk`` is installed.

RTK turns about y with a right-handed detector, so that x, y, z there are y, z, x here and columns
are mirrored on the way in.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.types import SUPPORT
from ..imaging.geometry import Geometry


def installed() -> bool:
    """Whether ``itk-rtk`` is there."""
    try:
        return bool(metadata.version("itk-rtk"))
    except metadata.PackageNotFoundError:
        return False


def load() -> None:
    """Import it now: that takes seconds, which are no method's."""
    import itk

    itk.RTK.ThreeDCircularProjectionGeometry.New()


def fdk(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int,
    half_extent: float = SUPPORT,
    hann: float = 1.0,
    extend: float = 1.0,
) -> Tensor:
    """RTK's FDK of an orbit [V, rows, cols] -> [size, size, size], image value per field unit.

    ``hann`` is the cut of the window (0: none), ``extend`` the share of a row that is continued on
    both sides.
    """
    from itk import RTK as rtk  # noqa: N811

    setup, stack, start = _inputs(images, geometry, size, half_extent)
    method = rtk.FDKConeBeamReconstructionFilter[_image_type()].New()
    method.SetInput(0, start)
    method.SetInput(1, stack)
    method.SetGeometry(setup)
    method.GetRampFilter().SetTruncationCorrection(extend)
    method.GetRampFilter().SetHannCutFrequency(hann)
    method.Update()
    return _output(method.GetOutput(), geometry)


def sart(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int,
    half_extent: float = SUPPORT,
    epochs: int = 16,
    relax: float = 1.0,
) -> Tensor:
    """RTK's SART of an orbit [V, rows, cols], one view at a time, values kept positive -> [size,
    size, size].
    """
    from itk import RTK as rtk  # noqa: N811

    setup, stack, start = _inputs(images, geometry, size, half_extent)
    kind = _image_type()
    method = rtk.SARTConeBeamReconstructionFilter[kind, kind].New()
    method.SetInput(0, start)
    method.SetInput(1, stack)
    method.SetGeometry(setup)
    method.SetNumberOfIterations(epochs)
    method.SetLambda(relax)
    method.SetEnforcePositivity(True)
    method.Update()
    return _output(method.GetOutput(), geometry)


def _image_type() -> Any:
    import itk

    return itk.Image[itk.F, 3]


def _inputs(
    images: Tensor, geometry: Geometry, size: int, half_extent: float
) -> tuple[Any, Any, Any]:
    """RTK's geometry, the stack of projections and the empty volume."""
    import itk
    from itk import RTK as rtk  # noqa: N811

    if geometry.axis != "z" or geometry.tilt_deg or not geometry.columns_flipped:
        raise UserError(
            "got an orbit about another axis, tilted or mirrored for RTK",
            "wanted the package's own convention",
            "leave the rtk methods out",
        )
    setup = rtk.ThreeDCircularProjectionGeometry.New()
    for angle_deg in geometry.angles_deg:
        setup.AddProjection(
            geometry.source_to_isocentre_mm,
            geometry.source_to_detector_mm,
            -angle_deg,
            -geometry.offset_mm[0],
            geometry.offset_mm[1],
        )
    # columns mirrored, rows upwards
    mirrored = np.ascontiguousarray(images.flip(1, 2).float().numpy())
    stack = itk.image_from_array(mirrored)
    pixel = geometry.pixel_mm
    stack.SetSpacing([pixel, pixel, 1.0])
    stack.SetOrigin([-pixel * (geometry.cols - 1) / 2, -pixel * (geometry.rows - 1) / 2, 0.0])
    start = itk.image_from_array(np.zeros((size,) * 3, np.float32))
    voxel_mm = 2 * half_extent * geometry.half_width_mm / size
    start.SetSpacing([voxel_mm] * 3)
    start.SetOrigin([-voxel_mm * (size - 1) / 2] * 3)
    return setup, stack, start


def _output(image: Any, geometry: Geometry) -> Tensor:
    """RTK's volume, per millimetre over [x, z, y] of ours, as [z, y, x] per field unit."""
    import itk

    values = torch.from_numpy(np.array(itk.array_from_image(image)))
    return values.permute(1, 2, 0).contiguous() * geometry.half_width_mm
