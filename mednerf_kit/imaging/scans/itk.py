"""What SimpleITK reads and no other file here: VTK and less common formats."""

from __future__ import annotations

import locale
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .stored import StoredScan, no_scan, reason, unreadable

VTK_HEADER_BYTES = 4096
#: Formats whose voxels may be compressed, or be text; their own readers notice what breaks off.
PACKED = (".gz", ".h5", ".hdf", ".hdf5", ".he5", ".mnc", ".mnc2", ".vtk")


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


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Nothing that a C library prints reaches the terminal: HDF5 and MINC know no other way."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # without a standard error there is nothing to keep from it
        yield
        return
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def read_itk(path: Path) -> StoredScan:
    """Read a file through SimpleITK; raises UserError for what is no whole 3-D scan."""
    import SimpleITK as sitk

    try:
        with quiet_itk(), _quiet_stderr():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise unreadable(path, reason(error)) from None
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 or image.GetDimension() != 3:
        raise no_scan(path, image.GetSize(), components)
    stored = sitk.GetArrayFromImage(image)
    held = path.stat().st_size
    if path.suffix.lower() == ".vtk":
        _check_vtk(path, stored)
    elif path.suffix.lower() not in PACKED and held < stored.nbytes:  # the rest is any memory
        raise unreadable(path, f"it ends after {held} bytes, for {stored.size} voxels")
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
