"""Volumes for the page: voxels on straight axes, their windows and colours, slices as PNG.

A slice is shown as radiologists look at it: axial from the feet, coronal from the front, sagittal
from the left; the patient's left is on the picture's right.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..core.errors import UserError, unknown_name
from ..viz.colours import GREY, HEAT, SHARE, SIGNED, on_scale
from .shown import Shown

PLANES = ("axial", "coronal", "sagittal")
# letters at a slice's left, right, top and bottom
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
# name -> level and width in HU
WINDOWS = {"lung": (-600, 1500), "mediastinum": (40, 400), "bone": (400, 1800)}
CLEAR = 0.1  # share of an overlay's end below which nothing is drawn
COLOURS = {"grey": GREY, "signed": SIGNED, "heat": HEAT, "share": SHARE}
OVERLAY_COLOURS = {"uncertainty": "heat", "measured": "share", "difference": "signed"}
KEPT = 6  # volumes that stay in memory


@dataclass(frozen=True, eq=False)
class Voxels:
    """Values [D, H, W] on axes that run to the patient's left, back and head (LPS)."""

    values: np.ndarray  # float32
    spacing_mm: tuple[float, float, float]  # x, y, z
    origin_mm: tuple[float, float, float]  # centre of voxel (0, 0, 0)
    quantity: str
    remarks: tuple[str, ...] = ()

    def slice(self, plane: str, index: int) -> np.ndarray:
        """One slice [rows, columns] as it is looked at; the index runs to the head, back or left.

        >>> v = Voxels(np.arange(8.0).reshape(2, 2, 2), (1, 1, 1), (0, 0, 0), "hu")
        >>> v.slice("axial", 1).tolist(), v.slice("coronal", 0).tolist()
        ([[4.0, 5.0], [6.0, 7.0]], [[4.0, 5.0], [0.0, 1.0]])
        """
        if plane == "axial":
            return self.values[index]
        if plane == "coronal":
            return self.values[::-1, index]
        return self.values[::-1, :, index]

    def count(self, plane: str) -> int:
        """How many slices a plane has."""
        return self.values.shape[PLANES.index(plane)]

    def size_mm(self, plane: str) -> tuple[float, float]:
        """Width and height of a slice."""
        x, y, z = (n * s for n, s in zip(self.values.shape[::-1], self.spacing_mm, strict=True))
        return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]

    def windows(self) -> dict[str, tuple[float, float]]:
        """Low and high end of each window.

        Where there are no Hounsfield units they are placed by the volume's own soft tissue, the
        median of what is denser than half its dense end, taken for water.
        """
        if self.quantity == "hu":
            water = None
        else:
            dense = self.values[self.values > np.quantile(self.values, 0.99) / 2]
            water = float(np.median(dense)) if dense.size else 1.0
        found: dict[str, tuple[float, float]] = {}
        for name, (level, width) in WINDOWS.items():
            ends = (level - width / 2, level + width / 2)
            if water is not None:
                ends = (water * (1 + ends[0] / 1000), water * (1 + ends[1] / 1000))
            found[name] = ends
        low, high = (float(v) for v in np.quantile(self.values, (0.001, 0.999)))
        return found | {"everything": (low, max(high, low + 1e-6))}


def voxels(shown: Shown, name: str) -> Voxels:
    """One volume of a result, or ``difference``: its volume less the truth."""
    if name == "difference":
        ours, truth = voxels(shown, "volume"), voxels(shown, "truth")
        if ours.values.shape != truth.values.shape:
            raise UserError(
                "got a volume and a truth on two grids",
                "wanted one grid",
                "evaluate the patient again",
            )
        return replace(ours, values=ours.values - truth.values)
    file = shown.volume_file(name)
    if file is None:
        raise unknown_name("volume", name, ["volume", *shown.overlays])
    said = shown.quantity if name in ("volume", "truth") else "relative"
    return _read(str(file), file.stat().st_mtime_ns, said)


@lru_cache(maxsize=KEPT)
def _read(path: str, modified: int, said: str | None) -> Voxels:
    from ..imaging.scans.read import read_volume

    remarks: tuple[str, ...] = ()
    try:
        volume = read_volume(path, quantity=said)  # type: ignore[arg-type]
    except UserError as error:
        if said is not None:
            raise
        # whatever they are, their shapes can be seen
        volume, remarks = read_volume(path, quantity="relative"), (str(error),)
    volume = volume.aligned()
    values = np.ascontiguousarray(volume.values.numpy())
    remarks = (*volume.remarks, *remarks)
    return Voxels(values, volume.spacing_mm, volume.origin_mm, volume.quantity, remarks)


def limit(overlay: Voxels, name: str) -> tuple[float, float]:
    """The values at both ends of an overlay's colours."""
    if name == "measured":
        return 0.0, 1.0
    top = float(np.quantile(np.abs(overlay.values), 0.995)) or 1.0
    return (-top, top) if name == "difference" else (0.0, top)


def about(shown: Shown) -> dict[str, Any]:
    """What a viewer has to know of the volume of a result before it shows a slice."""
    volume = voxels(shown, "volume")
    return {
        "shape": list(volume.values.shape),
        "spacing_mm": list(volume.spacing_mm),
        "origin_mm": list(volume.origin_mm),
        "quantity": volume.quantity,
        "windows": volume.windows(),
        "remarks": list(volume.remarks),
        "planes": {
            plane: {
                "count": volume.count(plane),
                "size_mm": list(volume.size_mm(plane)),
                "letters": LETTERS[plane],
            }
            for plane in PLANES
        },
        "overlays": {
            name: {
                "limit": list(limit(voxels(shown, name), name)),
                "colours": OVERLAY_COLOURS[name],
                "clear": CLEAR,
            }
            for name in shown.overlays
        },
    }


def picture(
    shown: Shown,
    plane: str,
    index: int,
    window: Sequence[float],
    overlay: str | None = None,
    strength: float = 0.5,
) -> np.ndarray:
    """One slice, windowed, with an overlay in its colours: uint8 [rows, columns, 3].

    An overlay covers the grey by ``strength`` where it is at least :data:`CLEAR` of its end.
    """
    if plane not in PLANES:
        raise unknown_name("plane", plane, PLANES)
    volume = voxels(shown, "volume")
    index = min(max(index, 0), volume.count(plane) - 1)
    image = on_scale(volume.slice(plane, index), window, COLOURS["grey"])
    if overlay is not None:
        if overlay not in shown.overlays:
            raise unknown_name("overlay", overlay, shown.overlays)
        over = voxels(shown, overlay)
        ends, values = limit(over, overlay), over.slice(plane, index)
        share = strength * (np.abs(values) >= CLEAR * ends[1])[..., None]
        colours = on_scale(values, ends, COLOURS[OVERLAY_COLOURS[overlay]])
        image = (1 - share) * image + share * colours
    return (image + 0.5).astype(np.uint8)


def values_at(
    shown: Shown, voxel: tuple[int, int, int], overlay: str | None = None
) -> tuple[float, float | None]:
    """The value of a voxel (x, y, z), and that of an overlay there; None without one."""

    def at(name: str) -> float:
        values = voxels(shown, name).values
        place = (min(i, n - 1) for i, n in zip(reversed(voxel), values.shape, strict=True))
        return float(values[tuple(place)])

    return at("volume"), at(overlay) if overlay else None


def png(image: np.ndarray) -> bytes:
    """The bytes of a picture as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def nifti(volume: Voxels) -> bytes:
    """A volume as NIfTI with 16-bit levels between its smallest and its largest value."""
    import nibabel

    low, high = float(volume.values.min()), float(volume.values.max())
    slope = (high - low) / 65535 or 1.0
    levels = np.round((volume.values - low) / slope - 32768).astype(np.int16)
    # NIfTI counts to the right and to the front, LPS to the left and to the back
    affine = np.diag([*volume.spacing_mm, 1.0])
    affine[:3, 3] = volume.origin_mm
    image = nibabel.Nifti1Image(levels.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, low + 32768 * slope)
    return image.to_bytes()
