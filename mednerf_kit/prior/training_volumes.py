"""What the posed terms compare with: every training patient's volume in field units, beside the
pictures.

Where a patient's CT is at hand it is resampled; elsewhere the orbit is reconstructed once
(:mod:`.tomography`) and cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from tqdm import tqdm

from ..core import files
from ..data.cohort import cache_dir
from ..data.orbits import OrbitSet
from ..imaging.geometry import Geometry
from ..imaging.volume import files_at_hand, read_volume
from ..recon.field_volume import HALF_EXTENT
from ..recon.sart import agreed_fovs_deg, fov_curve, lift


@dataclass(frozen=True)
class TrainingVolumes:
    """P patients as the prior sees them while training."""

    images: Tensor  # [P, V, rows, cols]
    volumes: Tensor  # [P, D, H, W] image value per field unit over the cube ±HALF_EXTENT
    log_gains: Tensor  # [P, V] of the views; zero for sets with one scale
    distance: Tensor  # [P] source to isocentre in field units
    per_view_scale: bool  # every view was stretched to its own maximum

    def to(self, device: str | torch.device) -> TrainingVolumes:
        """The same on a device: every step looks them up."""
        images, volumes, log_gains, distance = (
            values.to(device)
            for values in (self.images, self.volumes, self.log_gains, self.distance)
        )
        return TrainingVolumes(images, volumes, log_gains, distance, self.per_view_scale)

    def values_at(self, ids: Tensor, x: Tensor) -> Tensor:
        """Trilinear values of the chosen patients' volumes at points [B, N, 3] -> [B, N]."""
        found = grid_sample(
            self.volumes[ids][:, None], (x / HALF_EXTENT)[:, :, None, None], align_corners=False
        )
        return found[:, 0, :, 0, 0]


def scaled_by_view(orbits: OrbitSet) -> bool:
    """Whether each view was stretched to its own maximum, as in the published sets (reducing
    pictures lowers it a little).
    """
    return orbits.geometry.line_integral_scale is None and bool(
        (orbits.images.amax((-1, -2)) > 0.8).all()
    )


def make_training_volumes(
    orbits: OrbitSet, *, size: int = 64, progress: bool = True
) -> TrainingVolumes:
    """Read or reconstruct every patient's volume; a patient takes 0.1 s with a CT and about 20 s
    without (then cached).
    """
    geometry, per_view = orbits.geometry, scaled_by_view(orbits)
    volumes, gains, distances = [], [], []
    known = geometry.line_integral_scale is not None and files_at_hand()
    unknown = [name for name in orbits.patients if not (known and name in orbits.volumes)]
    fov_deg = dict(zip(unknown, field_angles(orbits, unknown, per_view, progress), strict=True))
    for name, orbit in tqdm(
        list(zip(orbits.patients, orbits.images, strict=True)),
        desc="volumes",
        disable=None if progress else True,
    ):
        if name not in fov_deg:
            volumes.append(known_volume(str(orbits.volumes[name]), geometry, size))
            gains.append(torch.ones(geometry.views))
            distances.append(geometry.distance)
            continue
        opened = geometry.with_fov(fov_deg[name])
        values, gain = reconstructed_volume(orbit, opened, size, per_view, orbits.marks[name][-1])
        volumes.append(values)
        gains.append(gain)
        distances.append(opened.distance)
    return TrainingVolumes(
        orbits.images,
        torch.stack(volumes),
        torch.stack(gains).clamp_min(0.05).log(),
        torch.tensor(distances),
        per_view,
    )


def field_angles(
    orbits: OrbitSet, names: Sequence[str], per_view: bool, progress: bool
) -> list[float]:
    """Opening angle of each named orbit: the set's own, or fitted where pictures were scaled view
    by view and came without.
    """
    if not (per_view and names):
        return [orbits.geometry.fov_deg] * len(names)
    curves = []
    for name in tqdm(names, desc="field of view", disable=None if progress else True):
        path = cached("fov-1", orbits.marks[name][-1], orbits.geometry)
        if path.is_file():
            curves.append(files.load_tensors(path)[0]["curve"])
            continue
        curves.append(fov_curve(orbits.images[orbits.patients.index(name)], orbits.geometry))
        files.save_tensors(path, {"curve": curves[-1]}, {})
    return agreed_fovs_deg(torch.stack(curves), orbits.geometry.fov_deg)


def known_volume(path: str, geometry: Geometry, size: int) -> Tensor:
    """A CT as image value per field unit on the cube ±HALF_EXTENT about the isocentre, [size]³."""
    volume = read_volume(path).aligned().to_mu()
    line_mm = ((torch.arange(size) + 0.5) / size * 2 - 1) * HALF_EXTENT * geometry.half_width_mm
    place = [
        2 * (line_mm - centre) / (n * spacing)
        for centre, n, spacing in zip(
            volume.centre_mm, reversed(volume.shape), volume.spacing_mm, strict=True
        )
    ]
    z, y, x = torch.meshgrid(place[2].float(), place[1].float(), place[0].float(), indexing="ij")
    values = grid_sample(
        volume.values[None, None].float(), torch.stack([x, y, z], -1)[None], align_corners=False
    )[0, 0]
    return values * geometry.half_width_mm / (geometry.line_integral_scale or 1.0)


def reconstructed_volume(
    orbit: Tensor, geometry: Geometry, size: int, per_view: bool, mark: str
) -> tuple[Tensor, Tensor]:
    """Reconstruction and gains [V] of an orbit [V, rows, cols]; kept in the cache by the pictures'
    mark.
    """
    path = cached("lift-4", mark, geometry, size, per_view)
    if path.is_file():
        tensors, _ = files.load_tensors(path)
        return tensors["values"], tensors["gains"]
    found = lift(orbit, geometry, size=size, half_extent=HALF_EXTENT, fit_gains=per_view)
    files.save_tensors(
        path, {"values": found.values, "gains": found.gains}, {"fit_db": found.fit_db}
    )
    return found.values, found.gains


def cached(*facts: object) -> Path:
    """Where what follows from these facts is kept."""
    key = blake2b(" ".join(map(str, facts)).encode(), digest_size=12).hexdigest()
    return cache_dir() / "lifted" / f"{key}.safetensors"
