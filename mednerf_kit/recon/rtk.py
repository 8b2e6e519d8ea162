"""FDK and SART of RTK, where the package ``itk-rtk`` is installed: baselines from elsewhere.

Rit et al., J. Phys. Conf. Ser. 489, 2014. RTK's orbit turns about y with a right-handed detector,
so that x, y, z there are y, z, x here, and columns that run as on a radiograph are mirrored on the
way in.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..imaging.geometry import Geometry
from .fdk import level_orbit
from .field_volume import FieldVolume
from .redundancy import redundancy, turn_of


def installed() -> bool:
    """Whether the package ``itk-rtk`` is installed."""
    try:
        return bool(metadata.version("itk-rtk"))
    except metadata.PackageNotFoundError:
        return False


def load() -> None:
    """Import RTK now: that takes seconds, which must not count as a method's time."""
    import itk

    itk.RTK.ThreeDCircularProjectionGeometry.New()


def fdk(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int,
    hann: float = 1.0,
    extend: float = 1.0,
) -> FieldVolume:
    """RTK's FDK of an orbit [V, rows, cols] -> [size, size, size].

    With RTK's weights for short arcs (Parker) and displaced detectors (Wang), where the views need
    them. Raises UserError where :func:`.redundancy.redundancy` does.

    Options:
        size: voxels along each side of the cube.
        hann: where the Hann window ends, as a share of the Nyquist frequency; 0: no window.
        extend: share of a row by which it is continued on both sides.
    """
    from itk import RTK as rtk  # noqa: N811

    geometry = level_orbit(geometry)
    turn = turn_of(torch.tensor(geometry.angles_deg))
    redundancy(geometry, turn)
    setup, stack, start = _inputs(images, geometry, size)
    kind = _image_type()
    displaced = rtk.DisplacedDetectorImageFilter[kind].New(Input=stack, Geometry=setup)
    parker = rtk.ParkerShortScanImageFilter[kind].New(Input=displaced.GetOutput(), Geometry=setup)
    # RTK takes a turn of views more than 20° apart for an arc
    weighted = parker if turn.arc_deg < 360 else displaced
    method = rtk.FDKConeBeamReconstructionFilter[kind].New()
    method.SetInput(0, start)
    method.SetInput(1, weighted.GetOutput())
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
    epochs: int = 16,
    relax: float = 1.0,
) -> FieldVolume:
    """RTK's SART of an orbit [V, rows, cols], values kept positive -> [size, size, size].

    Options:
        size: voxels along each side of the cube.
        epochs: passes over all views, one view at a time.
        relax: share of each correction that is applied.
    """
    from itk import RTK as rtk  # noqa: N811

    setup, stack, start = _inputs(images, geometry, size)
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


def _inputs(images: Tensor, geometry: Geometry, size: int) -> tuple[Any, Any, Any]:
    """RTK's geometry, the stack of projections and the empty volume it fills."""
    import itk
    from itk import RTK as rtk  # noqa: N811

    geometry = level_orbit(geometry)
    if geometry.axis != "z":
        raise UserError(
            f"got an orbit about {geometry.axis} for RTK",
            "wanted one about z",
            "leave the rtk methods out",
        )
    sign = -1 if geometry.columns_flipped else 1
    setup = rtk.ThreeDCircularProjectionGeometry.New()
    for angle_deg in geometry.angles_deg:
        setup.AddProjection(
            geometry.source_to_isocentre_mm,
            geometry.source_to_detector_mm,
            -angle_deg,
            sign * geometry.offset_mm[0],
            geometry.offset_mm[1],
        )
    # rows upwards
    upright = images.flip(1, 2) if geometry.columns_flipped else images.flip(1)
    stack = itk.image_from_array(np.ascontiguousarray(upright.float().numpy()))
    pixel = geometry.pixel_mm
    stack.SetSpacing([pixel, pixel, 1.0])
    stack.SetOrigin([-pixel * (geometry.cols - 1) / 2, -pixel * (geometry.rows - 1) / 2, 0.0])
    empty = FieldVolume.of(torch.zeros(size, size, size), geometry)
    start = itk.image_from_array(empty.values.numpy())
    start.SetSpacing(list(empty.spacing_mm))
    start.SetOrigin([-voxel_mm * (size - 1) / 2 for voxel_mm in empty.spacing_mm])
    return setup, stack, start


def _output(image: Any, geometry: Geometry) -> FieldVolume:
    """RTK's volume, image value per millimetre over [x, z, y] of ours, in field units."""
    import itk

    per_mm = torch.from_numpy(np.array(itk.array_from_image(image)))
    values = per_mm.permute(1, 2, 0).contiguous() * geometry.half_width_mm
    return FieldVolume.of(values, geometry)
