"""A scan in millimetres: voxel values, the affine that places them, and what the values mean.

World coordinates are LPS millimetres in every case. Volumes are written to NIfTI, MetaImage and
NRRD here, and read in ``scans/``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError, unknown_name
from .voxels import AIR, SQUARE, Quantity

if TYPE_CHECKING:
    import SimpleITK

WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd")


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values [D, H, W] and the affine from voxel index to LPS millimetres.

    The index (i, j, k) runs along x, y and z where the affine is diagonal.

    >>> v = Volume.centred(torch.zeros(4, 6, 8), (1.0, 1.0, 2.0), "hu")
    >>> v.origin_mm, v.centre_mm, round(float(v.to_mu().values.mean()), 4)
    ((-3.5, -2.5, -3.0), (0.0, 0.0, 0.0), 0.0205)
    """

    values: Tensor  # [D, H, W] float32
    affine: np.ndarray  # [4, 4] float64
    quantity: Quantity  # Hounsfield units, attenuation per mm, or attenuation in an unknown unit
    mu_water_per_mm: float = 0.0205  # water at about 60 keV
    note: str = DISCLAIMER
    remarks: tuple[str, ...] = ()  # what was assumed when it was read, a sentence each

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values.to(torch.float32))
        object.__setattr__(self, "affine", np.array(self.affine, dtype=np.float64))
        if self.quantity not in AIR:
            raise unknown_name("quantity", str(self.quantity), AIR)
        if self.values.ndim != 3 or not self.values.numel() or self.affine.shape != (4, 4):
            raise UserError(
                f"got values {list(self.values.shape)} and an affine {list(self.affine.shape)}",
                "wanted values [D, H, W] and an affine [4, 4]",
                "pass one 3-D volume",
            )
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        if not np.isfinite(self.affine).all() or (spacing <= 0).any():
            raise UserError(
                "got an affine with a zero or infinite voxel",
                "wanted finite, positive spacings",
                "correct the file's header",
            )
        square = self.affine[:3, :3] / spacing
        if not np.allclose(square.T @ square, np.eye(3), atol=SQUARE):
            raise UserError(
                "got an affine with sheared axes",
                "wanted axes at right angles",
                "resample the scan to a right-angled grid",
            )

    @classmethod
    def centred(
        cls,
        values: Tensor,
        spacing_mm: float | Sequence[float],
        quantity: Quantity,
        *,
        centre_mm: Sequence[float] = (0.0, 0.0, 0.0),
        mu_water_per_mm: float = 0.0205,
        note: str = DISCLAIMER,
    ) -> Volume:
        """An axis-aligned volume about a point, by default the isocentre.

        ``spacing_mm`` is (x, y, z) or one number.
        """
        return cls(
            values,
            _affine(np.eye(3), spacing_mm, centre_mm, tuple(values.shape)),
            quantity,
            mu_water_per_mm,
            note,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        depth, height, width = self.values.shape
        return depth, height, width

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """The centre of voxel (0, 0, 0)."""
        return tuple(self.affine[:3, 3].tolist())

    @property
    def direction(self) -> np.ndarray:
        """The world directions of i, j and k as the columns of a [3, 3] matrix."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        middle = [(n - 1) / 2 for n in self.shape[::-1]]
        return tuple((self.affine[:3, :3] @ middle + self.affine[:3, 3]).tolist())

    def to_mu(self, *, air_below_hu: float | None = None) -> Volume:
        """Attenuation per millimetre: mu = mu_water·(1 + HU/1000), never below zero.

        It is zero at or below ``air_below_hu``.

        Plastimatch's DRRs follow ``air_below_hu=-800`` with ``mu_water_per_mm=0.022``.
        """
        self._check_scaled()
        mu = self.attenuation(self.values)
        if air_below_hu is not None:
            mu = torch.where(self.to_hu().values <= air_below_hu, 0.0, mu)
        return dataclasses.replace(self, values=mu, quantity="mu_per_mm")

    def attenuation(self, values: Tensor) -> Tensor:
        """Attenuation per mm of some of the values of this volume, never below zero: [...].

        Relative attenuation stays as it is.
        """
        if self.quantity == "relative":
            return values
        if self.quantity == "hu":
            values = self.mu_water_per_mm * (1 + values / 1000)
        return values.clamp_min(0)

    def to_hu(self) -> Volume:
        """Hounsfield units: HU = 1000·(mu/mu_water − 1)."""
        self._check_scaled()
        hu = (
            self.values
            if self.quantity == "hu"
            else 1000 * (self.values / self.mu_water_per_mm - 1)
        )
        return dataclasses.replace(self, values=hu, quantity="hu")

    def _check_scaled(self) -> None:
        if self.quantity == "relative":
            raise UserError(
                "got a volume of relative attenuation",
                "wanted Hounsfield units or attenuation per mm",
                "calibrate it, or use it where the scale does not matter",
            )

    def resampled(
        self,
        *,
        spacing_mm: float | Sequence[float] | None = None,
        size: int | Sequence[int] | None = None,
    ) -> Volume:
        """The same box on another grid: of this spacing (x, y, z or one number) or of this size.

        A size is [D, H, W] over the same extent, or the number of cubic voxels along the longest
        side. Axis by axis with a triangle as wide as the coarser of both spacings: linear
        interpolation when finer, averaged when coarser.
        """
        if (spacing_mm is None) == (size is None):
            raise ValueError("resampled: give either spacing_mm or size")
        old = np.array(self.shape[::-1])
        extent = old * self.spacing_mm
        if size is None:
            spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), 3)
            new = np.maximum(1, np.round(extent / spacing)).astype(int)
        elif isinstance(size, int):
            spacing = np.full(3, extent.max() / size)
            new = np.maximum(1, np.round(extent / spacing)).astype(int)
        else:
            new = np.array(size)[::-1]
            spacing = extent / new
        values = self.values
        for axis, n in enumerate(new):
            matrix = _triangle(old[axis], n, spacing[axis] / self.spacing_mm[axis]).to(values)
            values = (matrix @ values.transpose(2 - axis, 1)).transpose(2 - axis, 1)
        affine = _affine(self.direction, spacing, self.centre_mm, tuple(new[::-1]))
        return dataclasses.replace(self, values=values.contiguous(), affine=affine)

    def aligned(self) -> Volume:
        """The same scan on a grid whose i, j, k run along world x, y, z.

        Where its axes run along these in another order or sense, the scan is turned over exactly;
        else it is interpolated linearly onto the box about it, with air around.
        """
        direction, spacing = self.direction, np.array(self.spacing_mm)
        if np.array_equal(direction, np.eye(3)):
            return self
        import SimpleITK as sitk

        along = np.abs(direction).argmax(axis=1)  # which voxel axis runs along x, y and z
        spacing_mm = spacing[along]
        if sorted(along) == [0, 1, 2] and np.allclose(np.abs(direction).max(axis=1), 1, atol=1e-6):
            image = sitk.DICOMOrient(_as_image(self), "LPS")
            affine = _affine(np.eye(3), spacing_mm, self.centre_mm, image.GetSize()[::-1])
        else:
            air = AIR[self.quantity]
            extent = np.abs(direction) @ (np.array(self.shape[::-1]) * spacing)
            size = np.ceil(extent / spacing_mm - 1e-6).astype(int).tolist()
            affine = _affine(np.eye(3), spacing_mm, self.centre_mm, tuple(size[::-1]))
            image = sitk.Resample(
                sitk.ConstantPad(_as_image(self), (1, 1, 1), (1, 1, 1), air),  # fades into air
                size,
                outputOrigin=affine[:3, 3].tolist(),
                outputSpacing=spacing_mm.tolist(),
                defaultPixelValue=air,
            )
        values = torch.from_numpy(sitk.GetArrayFromImage(image))
        return dataclasses.replace(self, values=values, affine=affine)


def _affine(
    direction: np.ndarray,
    spacing_mm: float | Sequence[float] | np.ndarray,
    centre_mm: Sequence[float],
    shape: tuple[int, ...],
) -> np.ndarray:
    """The affine of a grid [D, H, W] whose middle lies at ``centre_mm``."""
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing_mm, dtype=np.float64)
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ [(n - 1) / 2 for n in shape[::-1]]
    return affine


def _triangle(old: int, new: int, ratio: float) -> Tensor:
    """Weights [new, old] that resample a line about its middle.

    ``ratio`` is the new spacing over the old.
    """
    at = ((torch.arange(new) - (new - 1) / 2) * ratio + (old - 1) / 2).clamp(0, old - 1)
    weights = (1 - (at[:, None] - torch.arange(old)).abs() / max(1.0, ratio)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def _as_image(volume: Volume, values: Tensor | None = None) -> SimpleITK.Image:
    """The same voxels, or other ``values``, in the same place, for SimpleITK."""
    import SimpleITK as sitk

    values = volume.values if values is None else values
    image = sitk.GetImageFromArray(values.detach().cpu().numpy())
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.origin_mm)
    image.SetDirection(volume.direction.ravel().tolist())
    return image


def files_at_hand() -> bool:
    """Whether volumes can be read and written here, that is, whether SimpleITK is installed.

    Training goes on without it.
    """
    return importlib.util.find_spec("SimpleITK") is not None


def write_volume(volume: Volume, path: str | Path, *, rounded: bool = False) -> None:
    """Write a volume atomically as ``.nii.gz``, ``.nii``, ``.mha`` or ``.nrrd``.

    Values are float32, or 16-bit integers where all are whole and fit; compressed where the format
    can. With ``rounded`` they are brought to whole numbers first.

    MetaImage and NRRD keep quantity, mu_water_per_mm and note as key-value pairs and the affine in
    full; NIfTI keeps them in its 80-character ``descrip`` (a longer note is cut) and the affine in
    single precision.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITABLE):
        raise UserError(
            f"got the volume name '{path.name}'",
            f"wanted one ending in {', '.join(WRITABLE)}",
            "rename the output",
        )
    values = _whole_numbers(volume.values, rounded=rounded)
    if values is None:
        values = volume.values.round() if rounded else volume.values
    note = " ".join(volume.note.split())
    with files.atomic(path) as temporary:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            from .scans.nifti_out import write_nifti

            described = f"{volume.quantity} mu_water_per_mm={volume.mu_water_per_mm:g} {note}"
            write_nifti(temporary, values.detach().cpu().numpy(), volume.affine, described[:79])
        else:
            labels = {"quantity": volume.quantity, "note": note}
            labels["mu_water_per_mm"] = repr(volume.mu_water_per_mm)
            _write_by_itk(temporary, _as_image(volume, values), labels)


def _write_by_itk(path: Path, image: SimpleITK.Image, labels: Mapping[str, str]) -> None:
    """Write a compressed image with key-value pairs."""
    import SimpleITK as sitk

    for key, text in labels.items():
        image.SetMetaData(key, text)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


def _whole_numbers(values: Tensor, *, rounded: bool) -> Tensor | None:
    """Values [D, H, W] in 16 bits, which take half the time to compress, ``rounded`` on request;
    None where they are not whole or do not fit.
    """
    short = torch.empty(values.shape, dtype=torch.int16)
    for part, into in zip(values, short, strict=True):
        part = part.round() if rounded else part
        into.copy_(part.clamp(-32768, 32767))
        if not torch.equal(into.float(), part):
            return None
    return short


def write_volumes(volumes: Mapping[str, Volume], folder: Path, *, dicom: bool = False) -> None:
    """Write volumes of one result as ``NAME.nii.gz``, and on request as ``NAME.dcm`` too.

    The DICOM files are Enhanced CTs of one study (``scans/dicom_out.py``).
    """
    for name, volume in volumes.items():
        write_volume(volume, folder / f"{name}.nii.gz")
    if dicom and volumes:
        from .scans.dicom_out import study_uid, write_enhanced_ct

        study = study_uid(next(iter(volumes.values())))
        for name, volume in volumes.items():
            write_enhanced_ct(volume, folder / f"{name}.dcm", study=study)
