"""What SimpleITK reads and no other file here: VTK and less common formats."""

from __future__ import annotations

import locale
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .stored import StoredScan, no_scan, reason, unreadable

VTK_HEADER_BYTES = 4096


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
    if components != 1 or image.GetDimension() != 3:
        raise no_scan(path, image.GetSize(), components)
    stored = sitk.GetArrayFromImage(image)
    if path.suffix.lower() == ".vtk":
        _check_vtk(path, stored)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return StoredScan(values=stored.astype(np.float32), affine=affine, dtype=stored.dtype)


def _check_vtk(path: Path, stored: np.ndarray) -> None:
    """Refuse a VTK file that holds fewer values than it says; its reader fills the rest."""
    start = path.read_bytes()
    table = re.search(rb"LOOKUP_TABLE[^\n]*\n", start[:VTK_HEADER_BYTES])
    data = start[table.end() :] if table else b""
    binary = b"\nBINARY" in start[:VTK_HEADER_BYTES]
    held = len(data) // stored.itemsize if binary else len(data.split())
    if held < stored.size:
        raise unreadable(path, f"it ends after {held} of {stored.size} values")
