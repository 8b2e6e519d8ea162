"""What can be measured on a chest's volume in Hounsfield units by thresholds alone: regions, their
overlap, lung volume, heart width, depth of the thorax. Pure functions of volumes [D, H, W] =
[z, y, x] in LPS.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TISSUE_HU = -500.0  # half way from air to water: what is denser is no air
BONE_HU = 200.0  # above soft tissue; contrast medium in vessels is above it too
REGIONS = ("air", "lung", "soft_tissue", "bone")  # by label, 0 to 3
OVERLAPPING = ("lung", "bone")  # regions whose overlap is scored
# neighbours within an axial slice [z, y, x] only
IN_SLICE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])
#: A lung this small is gas in a bowel, or a threshold's accident.
LEAST_LUNG_ML = 200.0


def region_labels(hu: Tensor) -> Tensor:
    """Label of every voxel [D, H, W] by :data:`REGIONS`, uint8.

    The body is what is denser than −500 HU, its holes filled in each axial slice; inside it lung is
    at most −500 HU (so is gas in airways and bowel), bone is above 200 HU, soft tissue between.
    Everything else is air.

    >>> hu = torch.full((1, 5, 5), -1000.0)
    >>> hu[0, 1:4, 1:4], hu[0, 2, 2] = 40.0, -800.0
    >>> region_labels(hu)[0, 2].tolist()
    [0, 2, 1, 2, 0]
    """
    from scipy import ndimage

    thin = (hu <= TISSUE_HU).cpu().numpy()
    pieces, _ = ndimage.label(
        np.pad(thin, ((0, 0), (1, 1), (1, 1)), constant_values=True), IN_SLICE
    )
    outside = np.isin(pieces, np.unique(pieces[:, 0, 0]))[:, 1:-1, 1:-1]
    labels = torch.from_numpy(~outside).to(torch.uint8).to(hu.device)
    labels[(labels > 0) & (hu > TISSUE_HU)] = REGIONS.index("soft_tissue")
    labels[(labels > 0) & (hu > BONE_HU)] = REGIONS.index("bone")
    return labels


def dice(a: Tensor, b: Tensor) -> float:
    """Dice coefficient 2 |a ∩ b| / (|a| + |b|) of two masks; NaN where both are empty.

    >>> dice(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    0.6666666666666666
    """
    both = float(a.sum() + b.sum())
    return 2 * float((a & b).sum()) / both if both else float("nan")


def region_scores(hu: Tensor, truth: Tensor) -> dict[str, float]:
    """Errors of a volume in HU by the true volume's regions: ``mae_REGION_hu``, ``bias_REGION_hu``
    (mean of estimate − truth), and ``lung_dice``, ``bone_dice`` of the regions that each volume's
    own thresholds find. NaN for a region that is not there.
    """
    mine, true = region_labels(hu), region_labels(truth)
    off, found = hu - truth, {}
    for label, name in enumerate(REGIONS):
        inside = off[true == label]
        found[f"mae_{name}_hu"] = float(inside.abs().mean())
        found[f"bias_{name}_hu"] = float(inside.mean())
    for name in OVERLAPPING:
        label = REGIONS.index(name)
        found[f"{name}_dice"] = dice(mine == label, true == label)
    return found


def chest_measures(hu: Tensor, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """What people ask a chest for, by thresholds; ``spacing_mm`` is (x, y, z).

    - ``lung_volume_ml``: of all voxels labelled lung in the volume's field of view.
    - ``heart_width_mm``: over axial slices with at least half the lungs' largest area, the widest
      gap between the lungs along x, in the middle half of their depth; the 90th percentile of
      slices.
    - ``thorax_width_mm``: the lungs' outermost voxels along x in these slices, the 90th percentile.
    - ``cardiothoracic_ratio``: the first over the second.
    - ``thorax_depth_mm``: from the body's first to its last voxel along y in these slices, the
      median.

    All NaN without lungs (:data:`LEAST_LUNG_ML`). They are the same rule for an estimate and for
    the truth, no radiologist's measurement.
    """
    labels = region_labels(hu).cpu()
    lung, body = labels == REGIONS.index("lung"), labels > 0
    x_mm, y_mm, z_mm = spacing_mm
    volume_ml = float(lung.sum()) * x_mm * y_mm * z_mm / 1000
    names = ("heart_width_mm", "thorax_width_mm", "cardiothoracic_ratio", "thorax_depth_mm")
    if volume_ml < LEAST_LUNG_ML:
        return dict.fromkeys(("lung_volume_ml", *names), float("nan"))
    area = lung.sum((1, 2))
    level = area >= area.max() / 2
    gaps = _widest_gaps(lung[level]) * x_mm
    widths = _extent(lung[level].any(1)) * x_mm
    heart, thorax = (float(v.quantile(0.9)) for v in (gaps, widths))
    depth = float((_extent(body[level].any(2)) * y_mm).median())
    values = (heart, thorax, heart / thorax, depth)
    return {"lung_volume_ml": volume_ml, **dict(zip(names, values, strict=True))}


def _extent(lines: Tensor) -> Tensor:
    """Voxels from the first to the last that is set along lines [N, L]: [N]; 0 for an empty one."""
    place = torch.arange(1, lines.shape[1] + 1)
    last = (lines * place).amax(1)
    first = torch.where(lines, place, place[-1] + 1).amin(1)
    return torch.where(lines.any(1), last - first + 1, 0).float()


def _widest_gaps(lung: Tensor) -> Tensor:
    """Voxels between the lungs [N, y, x] of axial slices along their rows, at most, in the middle
    half of their depth: [N].

    In a row the gap is the longest run without lung between two voxels of lung.
    """
    place = torch.arange(1, lung.shape[2] + 1)
    last = (lung * place).cummax(2).values  # the last voxel of lung up to here, 0 before the first
    gap = torch.where(lung[:, :, 1:] & (last[:, :, :-1] > 0), place[1:] - last[:, :, :-1] - 1, 0)
    rows = torch.arange(lung.shape[1])
    present = lung.any(2)
    first = torch.where(present, rows, lung.shape[1]).amin(1, keepdim=True)
    final = torch.where(present, rows, -1).amax(1, keepdim=True)
    margin = (final - first + 1) // 4
    middle = (rows >= first + margin) & (rows <= final - margin)
    return torch.where(middle, gap.amax(2), 0).amax(1).float()
