"""What the posed terms compare with: every training patient's volume in field units, beside the
pictures.

Where a patient's CT is at hand it is resampled; elsewhere the orbit is reconstructed once
(:mod:`mednerf_kit.recon.sart`) and cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core import files
from ..data.cohort import cache_dir
from ..data.orbits import OrbitSet
from ..imaging.geometry import Geometry
from ..imaging.volume import files_at_hand
from ..recon.field_volume import FieldVolume, sample_trilinear
from ..recon.opening_angle import agreed_fovs_deg, fov_curve
from ..recon.sart import sart

# What the cache is called, with a number that grows when what is kept changes; the words are of an
# earlier day and stay, so that existing caches are found.
CACHE_FOLDER, RECONSTRUCTION, FOV_CURVE = "lifted", "lift-4", "fov-1"


@dataclass(frozen=True)
class TrainingVolumes:
    """P patients as the prior sees them while training."""

    images: Tensor  # [P, V, rows, cols]
    volumes: Tensor  # [P, D, H, W] image value per field unit as in a FieldVolume
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
        return sample_trilinear(self.volumes[ids][:, None], x)[:, 0]


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
            volumes.append(
                FieldVolume.from_ct(str(orbits.volumes[name]), geometry, size=size).values
            )
            gains.append(torch.ones(geometry.views))
            distances.append(geometry.distance)
            continue
        opened = geometry.with_fov(fov_deg[name])
        values, gain = reconstructed_volume(
            orbit, opened, size, per_view, orbits.fingerprints[name][-1]
        )
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
        path = cached(FOV_CURVE, orbits.fingerprints[name][-1], orbits.geometry)
        if path.is_file():
            curves.append(files.load_tensors(path)[0]["curve"])
            continue
        curves.append(fov_curve(orbits.images[orbits.patients.index(name)], orbits.geometry))
        files.save_tensors(path, {"curve": curves[-1]}, {})
    return agreed_fovs_deg(torch.stack(curves), orbits.geometry.fov_deg)


def reconstructed_volume(
    orbit: Tensor, geometry: Geometry, size: int, per_view: bool, fingerprint: str
) -> tuple[Tensor, Tensor]:
    """Reconstruction and gains [V] of an orbit [V, rows, cols]; kept in the cache by the pictures'
    fingerprint.
    """
    path = cached(RECONSTRUCTION, fingerprint, geometry, size, per_view)
    if path.is_file():
        tensors, _ = files.load_tensors(path)
        return tensors["values"], tensors["gains"]
    found = sart(orbit, geometry, size=size, fit_gains=per_view)
    tensors = {"values": found.volume.values, "gains": found.gains}
    files.save_tensors(path, tensors, {"fit_db": found.fit_db})
    return tensors["values"], tensors["gains"]


def cached(*facts: object) -> Path:
    """Where what follows from these facts is kept."""
    key = blake2b(" ".join(map(str, facts)).encode(), digest_size=12).hexdigest()
    return cache_dir() / CACHE_FOLDER / f"{key}.safetensors"
