"""What a reader takes from a file, before any of it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import DISCLAIMER
from ...core.errors import UserError
from ...core.memory import check_room
from ..voxels import Quantity

WANTED = "wanted a whole NIfTI, MetaImage, NRRD or DICOM scan"
DEFLATE = 1032  # how many times larger deflated data can be at most
UNPLACED = (
    "the file says nothing of the scan's orientation: its axes were taken to run to the patient's "
    "left, back and head, its middle to lie at the origin"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScan:
    """One 3-D scan as its file has it: values that may not be finite, axes that may be sheared."""

    values: np.ndarray  # [D, H, W] float32, rescaled as the file says
    affine: np.ndarray  # [4, 4] voxel index (i, j, k) to LPS millimetres
    dtype: np.dtype | None = None  # of the numbers in the file, where it is known
    padding: np.ndarray | None = None  # [D, H, W] bool: voxels that the file says hold nothing
    has_size: bool = True  # whether the file gives the size of voxels; 1 mm stands for it if not
    size_fault: UserError | None = None  # what is wrong with the size of voxels
    quantity: Quantity | None = None  # where the file says it
    unit: str = ""  # of the values, where the file names one that is not Hounsfield's
    mu_water_per_mm: float = 0.0205
    note: str = DISCLAIMER
    remarks: tuple[str, ...] = ()  # what was assumed, a sentence each


def unplaced(shape: Sequence[int], size_mm: np.ndarray | float = 1.0) -> np.ndarray:
    """The affine of voxels [D, H, W] about the origin, for a file that places nothing."""
    affine = np.diag([*np.broadcast_to(size_mm, 3), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


def check_voxels(path: Path, size: Sequence[int]) -> None:
    """Refuse a scan of more voxels than memory holds, before they are read."""
    what = f"'{path}' of {'×'.join(map(str, size))} voxels"
    check_room(what, 4 * math.prod(size), "resample it, or cut a part out")


def unreadable(path: Path, why: str) -> UserError:
    """The error for a scan that is damaged or of another format."""
    return UserError(
        f"got '{path}', which cannot be read ({why})", WANTED, "copy or export it again"
    )


def no_scan(path: Path, size: Sequence[int], components: int) -> UserError:
    """The error for a picture, a series in time, or several values per voxel."""
    return UserError(
        f"got '{path}' of size {'×'.join(map(str, size))} with {components} values per voxel",
        "wanted one 3-D scan with one value per voxel",
        "pass the folder with all slices"
        if tuple(size[2:]) in ((), (1,))
        else "extract one scan from it",
    )


def reason(error: Exception) -> str:
    """The last line of a library's report, without its source paths and addresses.

    >>> reason(RuntimeError("a.cxx, line 3\\nVTKImageIO(0x55eb): Premature EOF."))
    'Premature EOF'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    lines[-1] = re.sub(r"\w+\(0x[0-9a-f]+\): ", "", lines[-1])
    return lines[-1].split("ERROR: ")[-1].strip().rstrip(".")


def by(lengths: Sequence[float] | np.ndarray) -> str:
    """Lengths for people.

    >>> by([0.7, 0.7, 2.5])
    '0.7×0.7×2.5'
    """
    return "×".join(f"{length:.4g}" for length in lengths)
