"""What the posed terms compare with: every training patient's volume in field units, beside the pictures.

Where a patient's CT is at hand it is resampled; elsewhere the orbit is reconstructed once (:mod:`.tomography`) and cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from tqdm import tqdm

from ..core import files
from ..data.cohort import cache_dir
from ..data.orbits import OrbitSet
from ..imaging.geometry import Geometry
from ..imaging.volume import files_at_hand, read_volume
from .tomography import fit_fov_deg, lift

HALF_EXTENT = 1.4  # of the cube that holds a volume, in field units: the support cylinder fits into it


@dataclass(frozen=True)
class Targets:
    """P patients as the prior sees them while training."""

    images: Tensor  # [P, V, rows, cols]
    volumes: Tensor  # [P, D, H, W] image value per field unit over the cube ±HALF_EXTENT
    log_gains: Tensor  # [P, V] of the views; zero for sets with one scale
    distance: Tensor  # [P] source to isocentre in field units
    per_view_scale: bool  # every view was stretched to its own maximum

    def values_at(self, ids: Tensor, x: Tensor) -> Tensor:
        """Trilinear values of the chosen patients' volumes at points [B, N, 3] -> [B, N]."""
        found = grid_sample(self.volumes[ids][:, None], (x / HALF_EXTENT)[:, :, None, None], align_corners=False)
        return found[:, 0, :, 0, 0]


def scaled_by_view(orbits: OrbitSet) -> bool:
    """Whether each view was stretched to its own maximum, as in the published sets (reducing pictures lowers it a little)."""
    return orbits.geometry.line_integral_scale is None and bool((orbits.images.amax((-1, -2)) > 0.8).all())


def make_targets(orbits: OrbitSet, *, size: int = 64, progress: bool = True) -> Targets:
    """Read or reconstruct every patient's volume; a patient takes 0.1 s with a CT and about 5–10 s without (then cached)."""
    geometry, per_view = orbits.geometry, scaled_by_view(orbits)
    volumes, gains, distances = [], [], []
    for name, orbit in tqdm(
        list(zip(orbits.patients, orbits.images, strict=True)), desc="volumes", disable=None if progress else True
    ):
        if name in orbits.volumes and geometry.line_integral_scale is not None and files_at_hand():
            volumes.append(known_volume(str(orbits.volumes[name]), geometry, size))
            gains.append(torch.ones(geometry.views))
            distances.append(geometry.distance)
            continue
        values, gain, fov_deg = lifted_volume(orbit, geometry, size, per_view, orbits.marks[name][-1])
        volumes.append(values)
        gains.append(gain)
        distances.append(geometry.with_fov(fov_deg).distance)
    return Targets(
        orbits.images, torch.stack(volumes), torch.stack(gains).clamp_min(0.05).log(), torch.tensor(distances), per_view
    )


def known_volume(path: str, geometry: Geometry, size: int) -> Tensor:
    """A CT as image value per field unit on the cube ±HALF_EXTENT about the isocentre, [size]³."""
    volume = read_volume(path).aligned().to_mu()
    line_mm = ((torch.arange(size) + 0.5) / size * 2 - 1) * HALF_EXTENT * geometry.half_width_mm
    place = [2 * (line_mm - centre) / (n * spacing) for centre, n, spacing in
             zip(volume.centre_mm, reversed(volume.shape), volume.spacing_mm, strict=True)]  # fmt: skip
    z, y, x = torch.meshgrid(place[2].float(), place[1].float(), place[0].float(), indexing="ij")
    values = grid_sample(volume.values[None, None].float(), torch.stack([x, y, z], -1)[None], align_corners=False)[0, 0]
    return values * geometry.half_width_mm / (geometry.line_integral_scale or 1.0)


def lifted_volume(orbit: Tensor, geometry: Geometry, size: int, per_view: bool, mark: str) -> tuple[Tensor, Tensor, float]:
    """Reconstruction, gains [V] and opening angle of an orbit [V, rows, cols]; kept in the cache by the pictures' mark."""
    key = blake2b(f"lift-3 {mark} {geometry} {size} {per_view}".encode(), digest_size=12).hexdigest()
    path = cache_dir() / "lifted" / f"{key}.safetensors"
    if path.is_file():
        tensors, meta = files.load_tensors(path)
        return tensors["values"], tensors["gains"], meta["fov_deg"]
    fov_deg = fit_fov_deg(orbit, geometry) if per_view else geometry.fov_deg
    found = lift(orbit, geometry.with_fov(fov_deg), size=size, half_extent=HALF_EXTENT, fit_gains=per_view)
    files.save_tensors(path, {"values": found.values, "gains": found.gains}, {"fov_deg": fov_deg, "fit_db": found.fit_db})
    return found.values, found.gains, fov_deg
