"""A scan in millimetres: voxel values, the affine that places them in the world, and what the
values mean.

Read from and written to NIfTI, MetaImage and NRRD, and read from a folder of DICOM slices, through
SimpleITK. World coordinates are LPS millimetres in every case (SimpleITK turns NIfTI's RAS over).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pydicom
    import SimpleITK

Quantity = Literal["hu", "mu_per_mm", "relative"]
AIR = {"hu": -1000.0, "mu_per_mm": 0.0, "relative": 0.0}  # what lies outside a volume
WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd")
SLICE_TAGS = [
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values [D, H, W] with the affine from voxel index (i = x, j = y, k = z) to LPS
    millimetres.

    >>> v = Volume.centred(torch.zeros(4, 6, 8), (1.0, 1.0, 2.0), "hu")
    >>> v.origin_mm, v.centre_mm, round(float(v.to_mu().values.mean()), 4)
    ((-3.5, -2.5, -3.0), (0.0, 0.0, 0.0), 0.0205)
    """

    values: Tensor  # [D, H, W] float32
    affine: np.ndarray  # [4, 4] float64
    quantity: Quantity  # Hounsfield units, attenuation per mm, or attenuation in an unknown unit
    mu_water_per_mm: float = 0.0205  # water at about 60 keV
    note: str = DISCLAIMER

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
        if not np.allclose(square.T @ square, np.eye(3), atol=1e-3):
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
        """An axis-aligned volume about a point, by default the isocentre; ``spacing_mm`` is (x, y,
        z) or one number.
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
        """Attenuation per mm: mu = mu_water·(1 + HU/1000), never below zero, and zero at or below
        ``air_below_hu``.

        Plastimatch's DRRs follow ``air_below_hu=-800`` with ``mu_water_per_mm=0.022``.
        """
        hu = self.to_hu().values
        mu = self.values if self.quantity == "mu_per_mm" else self.mu_water_per_mm * (1 + hu / 1000)
        if air_below_hu is not None:
            mu = torch.where(hu <= air_below_hu, 0.0, mu)
        return dataclasses.replace(self, values=mu.clamp_min(0), quantity="mu_per_mm")

    def to_hu(self) -> Volume:
        """Hounsfield units: HU = 1000·(mu/mu_water − 1)."""
        if self.quantity == "relative":
            raise UserError(
                "got a volume of relative attenuation",
                "wanted Hounsfield units or attenuation per mm",
                "calibrate it, or use it where the scale does not matter",
            )
        hu = (
            self.values
            if self.quantity == "hu"
            else 1000 * (self.values / self.mu_water_per_mm - 1)
        )
        return dataclasses.replace(self, values=hu, quantity="hu")

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
            values = torch.tensordot(values, matrix, dims=([2 - axis], [1])).movedim(-1, 2 - axis)
        affine = _affine(self.direction, spacing, self.centre_mm, tuple(new[::-1]))
        return dataclasses.replace(self, values=values.contiguous(), affine=affine)

    def aligned(self) -> Volume:
        """The same scan on a grid whose i, j, k run along world x, y, z: turned over exactly if
        possible, else interpolated.
        """
        direction = self.direction
        order = np.abs(direction).argmax(axis=1)  # which voxel axis runs along x, y and z
        if sorted(order) == [0, 1, 2] and np.allclose(
            np.abs(direction[range(3), order]), 1, atol=1e-6
        ):
            values = self.values.permute([2 - int(order[2 - i]) for i in range(3)])
            values = values.flip([2 - x for x in range(3) if direction[x, order[x]] < 0])
            spacing = np.array(self.spacing_mm)[order]
            return dataclasses.replace(
                self,
                values=values,
                affine=_affine(np.eye(3), spacing, self.centre_mm, tuple(values.shape)),
            )
        return self._straightened()

    def _straightened(self) -> Volume:
        """Trilinear interpolation onto the axis-aligned box about the scan, with air around it."""
        size = np.array(self.shape[::-1])
        extent = np.abs(self.direction) @ (size * self.spacing_mm)
        spacing = np.array(self.spacing_mm)[np.abs(self.direction).argmax(axis=1)]
        shape = tuple(np.ceil(extent / spacing - 1e-6).astype(int)[::-1].tolist())
        affine = _affine(np.eye(3), spacing, self.centre_mm, shape)
        to_index = np.linalg.inv(self.affine) @ affine
        scale = 2 / size
        turn = torch.from_numpy(to_index[:3, :3] * scale[:, None]).to(self.values)
        shift = torch.from_numpy((to_index[:3, 3] + 0.5) * scale - 1).to(self.values)
        plane = torch.stack(
            torch.meshgrid(*(torch.arange(n).to(self.values) for n in shape[:0:-1]), indexing="xy"),
            -1,
        )
        above_air = self.values[None, None] - AIR[self.quantity]
        slices = [
            grid_sample(
                above_air,
                (plane @ turn[:, :2].T + turn[:, 2] * k + shift)[None, None],
                align_corners=False,
            )[0, 0]
            for k in range(shape[0])
        ]
        return dataclasses.replace(
            self, values=torch.cat(slices) + AIR[self.quantity], affine=affine
        )


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
    """Weights [new, old] of resampling a line about its middle; ``ratio`` is the new spacing over
    the old.
    """
    at = ((torch.arange(new) - (new - 1) / 2) * ratio + (old - 1) / 2).clamp(0, old - 1)
    weights = (1 - (at[:, None] - torch.arange(old)).abs() / max(1.0, ratio)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def files_at_hand() -> bool:
    """Whether volumes can be read and written here: SimpleITK is installed. Training goes on
    without it.
    """
    return importlib.util.find_spec("SimpleITK") is not None


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume atomically as ``.nii.gz``, ``.nii``, ``.mha`` or ``.nrrd`` (float32,
    compressed where the format can).

    MetaImage and NRRD keep quantity, mu_water_per_mm and note as key-value pairs and the affine in
    full; NIfTI keeps them in its 80-character ``descrip`` (a longer note is cut) and the affine in
    single precision.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.name.lower().endswith(WRITABLE):
        raise UserError(
            f"got the volume name '{path.name}'",
            f"wanted one ending in {', '.join(WRITABLE)}",
            "rename the output",
        )
    image = sitk.GetImageFromArray(volume.values.detach().cpu().numpy())
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.origin_mm)
    image.SetDirection(volume.direction.ravel().tolist())
    note = " ".join(volume.note.split())
    for key, text in {
        "quantity": volume.quantity,
        "mu_water_per_mm": repr(volume.mu_water_per_mm),
        "note": note,
        "ITK_FileNotes": f"{volume.quantity} mu_water_per_mm={volume.mu_water_per_mm:g} {note}"[
            :79
        ],
    }.items():
        image.SetMetaData(key, text)
    with files.atomic(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(_reason(error)) from error


def read_volume(path: str | Path, *, quantity: Quantity | None = None) -> Volume:
    """Read a volume file, or a folder that holds the slices of one DICOM series.

    ``quantity`` overrides what the file says; a file that says nothing is taken for Hounsfield
    units if it holds negative values. Slices are put in order of their position, never of their
    name. Errors: anything that is not one whole, right-angled, single-channel 3-D scan.
    """
    path = Path(path)
    if quantity is not None and quantity not in get_args(Quantity):
        raise unknown_name("quantity", quantity, get_args(Quantity))
    if not path.exists():
        raise UserError(
            f"got '{path}', which does not exist",
            "wanted a volume file or a DICOM folder",
            "check the path",
        )
    volume = _read_series(path, quantity) if path.is_dir() else _read_file(path, quantity)
    if not bool(torch.isfinite(volume.values).all()):
        raise UserError(
            f"got '{path}' with values that are not numbers",
            "wanted finite values",
            "clean or re-export the scan",
        )
    return volume


def _read_file(path: Path, quantity: Quantity | None) -> Volume:
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, _reason(error)) from None
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _refuse_cut_nifti(path, image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if (
        image.GetNumberOfComponentsPerPixel() != 1
        or image.GetDimension() != 3
        or min(image.GetSize()) < 2
    ):
        size = "×".join(map(str, image.GetSize()))
        raise UserError(
            f"got '{path}' of size {size} with {image.GetNumberOfComponentsPerPixel()} values per "
            "voxel",
            "wanted one 3-D scan with one value per voxel",
            "pass the folder with all slices"
            if image.GetSize()[2:] == (1,)
            else "extract one scan from it",
        )
    said, mu_water_per_mm, note = _label(image)
    values = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))
    quantity = quantity or said
    if quantity is None and float(values.min()) >= 0:
        raise UserError(
            f"got '{path}' with values from {float(values.min()):g} to {float(values.max()):g} "
            "and no word of what they are",
            "wanted Hounsfield units, which fall below 0 in fat and air",
            "say its quantity: hu, mu_per_mm or relative",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(values, affine, quantity or "hu", mu_water_per_mm, note)


def _label(image: SimpleITK.Image) -> tuple[Quantity | None, float, str]:
    """What :func:`write_volume` noted: from the key-value pairs, or from NIfTI's description."""
    said = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    found = re.match(r"(\w+) mu_water_per_mm=(\S+) (.*)", said.get("ITK_FileNotes", ""))
    if "quantity" in said:
        name, mu, note = (said.get(key, "") for key in ("quantity", "mu_water_per_mm", "note"))
    else:
        name, mu, note = found.groups() if found else ("", "", "")
    quantity = next((known for known in get_args(Quantity) if known == name), None)
    try:
        return quantity, float(mu or 0.0205), note or DISCLAIMER
    except ValueError:
        return quantity, 0.0205, DISCLAIMER


def _refuse_cut_nifti(path: Path, image: SimpleITK.Image) -> None:
    """A cut NIfTI is read without complaint, the missing voxels as zeros; so its length is measured
    here.
    """
    import gzip

    there = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            while block := file.read(1 << 22):
                there += len(block)
    except (EOFError, OSError) as error:
        raise _unreadable(path, str(error)) from None
    voxels = int(np.prod(image.GetSize())) * image.GetNumberOfComponentsPerPixel()
    wanted = float(image.GetMetaData("vox_offset")) + voxels * int(image.GetMetaData("bitpix")) // 8
    if there < wanted:
        raise _unreadable(path, f"it ends after {there} of {wanted:.0f} bytes")


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"got '{path}', which cannot be read ({why})",
        "wanted a whole NIfTI, MetaImage, NRRD or DICOM scan",
        "copy or export it again",
    )


def _reason(error: Exception) -> str:
    """The last line of SimpleITK's report, without its source paths."""
    return str(error).strip().splitlines()[-1].split("ERROR: ")[-1].strip().rstrip(".")


def _read_series(folder: Path, quantity: Quantity | None) -> Volume:
    """One DICOM series: the affine from the slices' own positions, the pixels (rescaled) through
    SimpleITK.
    """
    import SimpleITK as sitk

    slices = _headers(folder)
    first = next(iter(slices.values()))
    if quantity is None and first.Modality != "CT":
        raise UserError(
            f"got a DICOM series of modality {first.Modality} in '{folder}'",
            "wanted a CT in Hounsfield units",
            "say its quantity: mu_per_mm or relative",
        )
    order, affine = _ordered(folder, list(slices.values()))
    paths = list(slices)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(paths[i]) for i in order])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # each slice has its own rescale slope
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unreadable(folder, _reason(error)) from None
    return Volume(torch.from_numpy(values), affine, quantity or "hu")


def _headers(folder: Path) -> dict[Path, pydicom.Dataset]:
    """The header of every slice in a folder; other files are passed over, unless they call
    themselves DICOM.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    slices: dict[Path, pydicom.Dataset] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            header = pydicom.dcmread(
                path,
                stop_before_pixels=True,
                specific_tags=[*SLICE_TAGS, "SamplesPerPixel", "NumberOfFrames"],
            )
        except InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".ima"):
                raise _unreadable(path, "no DICOM file") from None
            continue
        except (
            EOFError,
            OSError,
            ValueError,
            LookupError,
            AttributeError,
            NotImplementedError,
            struct.error,
        ) as error:
            raise _unreadable(path, str(error) or type(error).__name__) from None
        if path.name.upper() == "DICOMDIR":
            continue
        missing = [tag for tag in SLICE_TAGS if tag not in header or header[tag].is_empty]
        if missing:
            raise UserError(
                f"got '{path}' without {', '.join(missing)}",
                "wanted whole CT slices only",
                "remove or re-export that file",
            )
        if header.get("SamplesPerPixel", 1) != 1 or int(header.get("NumberOfFrames") or 1) != 1:
            raise UserError(
                f"got '{path}', which is in colour or has several frames",
                "wanted single grey slices",
                "remove that file",
            )
        slices[path] = header
    if len(slices) < 2:
        raise UserError(
            f"got '{folder}' with {len(slices)} DICOM slices",
            "wanted a folder with all slices of one CT series",
            "check the path",
        )
    series = {str(header.SeriesInstanceUID) for header in slices.values()}
    if len(series) > 1:
        raise UserError(
            f"got '{folder}' with {len(series)} DICOM series mixed",
            "wanted the slices of one series",
            "keep one per folder",
        )
    return slices


def _ordered(folder: Path, headers: list[pydicom.Dataset]) -> tuple[list[int], np.ndarray]:
    """The slices' order along their normal (row × column direction), and the affine that their
    positions span.
    """

    def numbers(tag: str) -> np.ndarray:
        return np.array([[float(v) for v in header[tag].value] for header in headers])

    def refuse(what: str, next_step: str) -> UserError:
        return UserError(
            f"got a DICOM series in '{folder}' {what}",
            "wanted equal slices at equal distances",
            next_step,
        )

    alike = np.hstack(
        [
            numbers("ImageOrientationPatient"),
            numbers("PixelSpacing"),
            [[h.Rows, h.Columns] for h in headers],
        ]
    )
    if not np.allclose(alike, alike[0], rtol=0, atol=1e-3):
        raise refuse(
            "whose slices differ in size, spacing or orientation",
            "remove scouts and other scans from the folder",
        )
    across, down = np.split(alike[0, :6], 2)
    normal = np.cross(across, down) / np.linalg.norm(np.cross(across, down))
    positions = numbers("ImagePositionPatient")
    along = positions @ normal
    order = along.argsort(kind="stable")
    step = (along.max() - along.min()) / (len(along) - 1)
    ideal = along.min() + step * np.arange(len(along))
    if (
        step <= 0
        or (np.diff(along[order]) < 0.5 * step).any()
        or np.abs(along[order] - ideal).max() > 0.1 * step
    ):
        raise refuse(
            "whose slices are not equally spaced",
            "look for missing or doubled slices, or export an even reconstruction",
        )
    drift = positions - positions[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(drift, axis=1).max() > 0.5 * alike[0, 6:8].min():
        raise refuse("taken with a tilted gantry", "resample it to a right-angled grid")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * alike[0, 7], down * alike[0, 6], normal * step], axis=1)
    affine[:3, 3] = positions[order[0]]
    return order.tolist(), affine
