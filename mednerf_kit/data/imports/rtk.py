"""A stack of projections with the geometry XML of RTK."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...imaging.geometry import Geometry
from ...imaging.geometry_files.base import Detector
from ...imaging.geometry_files.rtk import RtkXml, geometry_of_views, read_views
from ...imaging.scans.read import read_file
from ...imaging.scans.stored import StoredScan
from .base import IMPORTERS, ForeignOrbit, square_pixels

STACKS = (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd", ".tif", ".tiff")


@IMPORTERS.register("rtk")
class RtkProjections:
    """A folder with a geometry XML of RTK and one stack of projections (MHA, NIfTI, NRRD …).

    Rows of the stack run upwards where its spacing is positive; its origin places the detector.
    Floats are line integrals, integers the intensities of a detector.

    Options:
        stack: name of the stack, where several files could be it.
    """

    def __init__(self, *, stack: str | None = None) -> None:
        self.stack = stack

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_dir() and any(RtkXml.detect(path) for path in source.glob("*.xml"))

    @staticmethod
    def example(folder: Path) -> Path:
        import SimpleITK as sitk

        from ...imaging.geometry import DEFAULTS
        from ..posed.orbit import ball_integrals

        folder.mkdir(parents=True)
        geometry = DEFAULTS["chest"].resized(16).orbit(6)
        RtkXml().write(geometry, folder / "geometry.xml")
        values = ball_integrals(geometry, radius=0.5).flip(1, 2).numpy()
        image = sitk.GetImageFromArray(np.ascontiguousarray(values))
        image.SetSpacing([geometry.pixel_mm, geometry.pixel_mm, 1.0])
        image.SetOrigin([-7.5 * geometry.pixel_mm, -7.5 * geometry.pixel_mm, 0.0])
        sitk.WriteImage(image, str(folder / "projections.mha"))
        return folder

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        xml = next(path for path in sorted(source.glob("*.xml")) if RtkXml.detect(path))
        _, views = read_views(xml)
        path, scan = self._stack_of(source, len(views))
        values, spacing, origin = _as_array(scan)
        rows, cols = values.shape[1:]
        values = values[:, ::-1]
        col_mm, row_mm = (abs(v) for v in spacing[:2])
        # the middle of the stack, in the detector's own coordinates
        sides = zip(origin[:2], spacing[:2], (cols, rows), strict=True)
        middle = [first + step * (count - 1) / 2 for first, step, count in sides]
        if spacing[1] < 0:
            values = values[:, ::-1]
        if spacing[0] < 0:
            values = values[..., ::-1]
        for view in views:
            for name, shift in zip(("X", "Y"), middle, strict=True):
                key = f"ProjectionOffset{name}"
                view[key] = view.get(key, 0.0) + shift
        squares, pitch, notes = square_pixels(values, row_mm, col_mm)
        found = geometry_of_views(views, Detector(squares.shape[1], squares.shape[2], pitch))
        if not scan.has_size:
            notes = (*notes, f"'{path.name}' gives no pixel size: 1 mm was assumed")
        if not any(origin[:2]):
            notes = (
                *notes,
                f"the origin of '{path.name}' is 0, 0: its first pixel lies on the axis; if the "
                "detector is centred, write its origin",
            )
        counts = scan.dtype is not None and scan.dtype.kind in "iu"
        if counts:
            notes = (*notes, "integers: taken for intensities behind the patient")
        return [
            ForeignOrbit(
                patient=source.resolve().name,
                values=squares,
                names=tuple(f"{path.name} {k}" for k in range(len(views))),
                geometry=found,
                kind="transmission" if counts else "line-integral",
                full_scale=float(np.iinfo(scan.dtype).max) if counts else 1.0,
                notes=notes,
            )
        ]

    def _stack_of(self, source: Path, views: int) -> tuple[Path, StoredScan]:
        """The stack of this many projections in a folder, and what it holds."""
        names = [self.stack] if self.stack else sorted(p.name for p in source.iterdir())
        found, sizes, faults = [], [], []
        for name in names:
            if not name.lower().endswith(STACKS) or not (source / name).is_file():
                continue
            try:
                scan = read_file(source / name)
            except UserError as error:
                faults.append(error)
                continue
            sizes.append(f"{name} {'×'.join(map(str, scan.values.shape[::-1]))}")
            if len(scan.values) == views:
                found.append((source / name, scan))
        if len(found) == 1:
            return found[0]
        if len(faults) == 1 and not sizes:
            raise faults[0]
        if len(faults) == views and not sizes:
            raise UserError(
                f"got {views} pictures of a projection each in '{source}'",
                "wanted one stack of them",
                "join them, as rtkprojections does",
            )
        raise UserError(
            f"got {len(found)} stacks of {views} projections in '{source}' "
            f"({', '.join(sizes) or 'no image'})",
            "wanted one",
            "say which with --set stack=NAME" if found else "lay it beside the geometry XML",
        )


def _as_array(scan: StoredScan) -> tuple[np.ndarray, list[float], list[float]]:
    """The values [V, rows, cols] of a stack, its spacing with signs, and its origin."""
    axes = scan.affine[:3, :3]
    spacing = np.diag(axes)
    if not np.allclose(axes, np.diag(spacing), atol=1e-6 * np.abs(axes).max()):
        raise UserError(
            "got a stack of projections with a turned detector",
            "wanted axes along the detector's",
            "write it with the identity as its direction",
        )
    return scan.values, spacing.tolist(), scan.affine[:3, 3].tolist()
