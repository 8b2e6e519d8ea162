"""MetaImage, NRRD and whatever else SimpleITK reads, with what it leaves aside in their headers.

SimpleITK reads lengths as millimetres whatever unit the header gives, takes 1 mm where a size is
missing or no number, and leaves a MetaImage's own rescaling alone.
"""

from __future__ import annotations

import locale
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from .label import label_of
from .stored import UNPLACED, StoredScan, by, no_scan, reason, unreadable

META, NRRD, TIFF = (".mha", ".mhd"), (".nrrd", ".nhdr"), (".tif", ".tiff")
MOST_HEADER_BYTES = 1 << 20
MILLIMETRES = {
    "m": 1000.0,
    "meter": 1000.0,
    "metre": 1000.0,
    "cm": 10.0,
    "mm": 1.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "nm": 1e-6,
}
UNKNOWN = {"", "?", "???", "unknown", "none"}


@contextmanager
def quiet_itk() -> Iterator[None]:
    """No warning of the C++ libraries reaches the terminal, and the process keeps its locale.

    SimpleITK's reader of VTK files leaves the locale C behind, in which text files are ASCII.
    """
    import SimpleITK as sitk

    before = locale.setlocale(locale.LC_ALL)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        locale.setlocale(locale.LC_ALL, before)


def read_itk(path: Path) -> StoredScan:
    """Read a file through SimpleITK; raises UserError for what is no whole 3-D scan."""
    import SimpleITK as sitk

    try:
        with quiet_itk():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise unreadable(path, reason(error)) from None
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 or image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise no_scan(path, image.GetSize(), components)
    said = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    quantity, mu_water_per_mm, note = label_of(
        {**said, "description": said.get("ITK_FileNotes", "")}
    )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    values, suffix = sitk.GetArrayFromImage(image).astype(np.float32), path.suffix.lower()
    remarks, has_size = [], True
    if suffix in META + NRRD:
        header = _header(path)
        unit_mm, has_size = _unit_mm(path, header), _has_size(header)
        affine[:3] *= unit_mm
        if unit_mm != 1:
            remarks.append(f"lengths in a unit of {unit_mm:g} mm, as the header says, became mm")
        slope, offset = (
            _number(path, header.get(f"elementtointensityfunction{key}", default))
            for key, default in (("slope", "1"), ("offset", "0"))
        )
        if slope and (slope, offset) != (1, 0):
            values = values * np.float32(slope) + np.float32(offset)
            remarks.append(f"values were rescaled to {slope:g}·stored {offset:+g} by the header")
    elif suffix in TIFF:
        has_size = False
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(image.GetSize()) - 1) / 2)
        remarks.append(UNPLACED)
    return StoredScan(
        values=values,
        affine=affine,
        has_size=has_size,
        size_fault=_size_fault(path, np.reshape(image.GetDirection(), (3, 3))),
        quantity=quantity,
        mu_water_per_mm=mu_water_per_mm,
        note=note,
        remarks=tuple(remarks),
    )


def _size_fault(path: Path, direction: np.ndarray) -> UserError | None:
    """What is wrong where the axes of a MetaImage are no unit vectors, beside a spacing."""
    lengths = np.linalg.norm(direction, axis=0)
    if np.allclose(lengths, 1, atol=1e-3):
        return None
    return UserError(
        f"got '{path}' with axes {by(lengths)} long in its TransformMatrix, beside a spacing",
        "wanted unit vectors there",
        "correct the header, or say the size of voxels with --spacing-mm",
    )


def _header(path: Path) -> dict[str, str]:
    """The fields of a MetaImage's or NRRD's text header, by their names in small letters."""
    found = {}
    with open(path, "rb") as file:
        for line in file.read(MOST_HEADER_BYTES).split(b"\n"):
            text = line.decode("utf-8", "replace").strip()
            if not text:
                break
            name, separator, value = re.split(r"(:=|:|=)", f"{text}:", maxsplit=1)
            if separator != ":=":  # NRRD's own key-value pairs
                found[name.strip().lower()] = value.removesuffix(":").strip()
            if name.strip() == "ElementDataFile":
                break
    return found


def _unit_mm(path: Path, header: Mapping[str, str]) -> float:
    """Millimetres of a header's unit of length; they are millimetres where it gives none."""
    text = header.get("space units") or header.get("units") or header.get("distanceunits") or ""
    units = {unit.strip(' "').lower() for unit in re.findall(r'"[^"]*"|[^\s"]+', text)}
    units -= UNKNOWN
    if len(units) > 1 or not units <= set(MILLIMETRES):
        raise UserError(
            f"got '{path}', whose lengths are not in one known unit",
            f"wanted one of {', '.join(MILLIMETRES)} for all three axes",
            "correct the header",
        )
    return MILLIMETRES[units.pop()] if units else 1.0


def _has_size(header: Mapping[str, str]) -> bool:
    """Whether a header gives the size of voxels, in numbers."""
    keys = ("elementspacing", "elementsize", "space directions", "spacings")
    text = next((header[key] for key in keys if key in header), "")
    return bool(text) and "nan" not in text.lower()


def _number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise unreadable(path, "a word where its header should have a number") from None
