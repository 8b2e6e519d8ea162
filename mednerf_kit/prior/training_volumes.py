"""Every training patient's volume in field units, beside the pictures: what is learned from.

Where a patient's CT is at hand it is resampled; elsewhere the orbit is reconstructed once
(:mod:`mednerf_kit.recon.sart`) and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import adaptive_avg_pool3d, avg_pool1d
from tqdm import tqdm

from ..core import files
from ..core.memory import mapped_tensor
from ..core.types import SUPPORT
from ..data.cohort import cache_dir
from ..data.orbits import OrbitSet
from ..imaging.body import find_body
from ..imaging.geometry import Geometry
from ..imaging.variation import Variation, varied
from ..imaging.volume import Volume, files_at_hand
from ..recon.field_volume import FieldVolume, sample_trilinear
from ..recon.opening_angle import agreed_fovs_deg, fov_curve
from ..recon.sart import sart

# What the cache is called, with a number that grows when what is kept changes; the words are of an
# earlier day and stay, so that existing caches are found.
CACHE_FOLDER, RECONSTRUCTION, FOV_CURVE = "lifted", "lift-5", "fov-1"

# of SART over an orbit: more and fuller ones than its own defaults, which leave details out
PASSES, DECAY = 15, 0.95

# soft tissue in units of water: muscle, blood and liver lie within 0.03 of it
SOFT_TISSUE = 1.04
DENSE = 0.4  # of the densest thousandth of a body's voxels: what is above is tissue or bone
MARGIN = 0.3  # of each side of the cube, where rays of some views are missing
BINS = 120
BLOCKS = 16  # along a side of a volume that is compared with others
WHOLE = 0.6  # share of the median slice's body that a slice must hold to be kept


@dataclass(frozen=True)
class TrainingVolumes:
    """P patients as the prior sees them while training; a large cohort's volumes lie in a file."""

    images: Tensor  # [P, V, rows, cols]
    volumes: Tensor  # [P, D, H, W] image value per field unit as in a FieldVolume
    log_gains: Tensor  # [P, V] of the views; zero for sets with one scale
    distance: Tensor  # [P] source to isocentre in field units
    per_view_scale: bool  # every view was stretched to its own maximum

    def to(self, device: str | torch.device) -> TrainingVolumes:
        """The same on a device: every step reads from them."""
        return replace(
            self,
            images=self.images.to(device),
            volumes=self.volumes.to(device),
            log_gains=self.log_gains.to(device),
            distance=self.distance.to(device),
        )

    def with_variants(
        self,
        copies: int,
        geometry: Geometry,
        rng: Generator,
        variation: Variation,
    ) -> TrainingVolumes:
        """The same patients and ``copies`` varied ones of each, which come after all of them.

        ``geometry`` is that of the pictures. A copy's pictures have the gains of its original.
        """
        voxel_mm = 2 * SUPPORT * geometry.half_width_mm / self.volumes.shape[-1]
        patients, total = len(self.volumes), len(self.volumes) * (1 + copies)
        volumes = volumes_of(total, self.volumes.shape[-1])
        images = self.images.new_empty(total, *self.images.shape[1:])
        volumes[:patients], images[:patients] = self.volumes, self.images
        water = [water_in(values, geometry) for values in self.volumes]
        for k in range(patients, total):
            i = k % patients
            own = volumes[i][None].float()
            volumes[k] = varied(own, rng, variation, water=water[i], voxel_mm=voxel_mm)[0]
            seen = FieldVolume.of(volumes[k], geometry).project(geometry, float(self.distance[i]))
            images[k] = (seen * self.log_gains[i].exp()[:, None, None]).clamp_max(1)
        return replace(
            self,
            images=images,
            volumes=volumes,
            log_gains=self.log_gains.repeat(1 + copies, 1),
            distance=self.distance.repeat(1 + copies),
        )

    def values_at(self, ids: Tensor, x: Tensor) -> Tensor:
        """Trilinear values of these patients' volumes at points [B, N, 3]: [B, N].

        A patient is looked up at a time: indexing by all of them copies their volumes first, which
        takes a CPU seven times as long as the look-up.
        """
        found = (
            sample_trilinear(self.volumes[i][None, None], points[None])
            for i, points in zip(ids.tolist(), x, strict=True)
        )
        return torch.cat([values[0] for values in found])


def principal_codes(volumes: Tensor, width: int, size: float) -> Tensor:
    """Scores of volumes [P, D, H, W] on their first principal components: [P, n], n ≤ ``width``.

    Their root mean square is ``size``. Volumes are compared in 16 blocks along a side. Where codes
    start there, patients who are alike are neighbours from the first step on.

    >>> a, b = torch.zeros(16, 16, 16), torch.ones(16, 16, 16)
    >>> principal_codes(torch.stack([a, b, b, a]), 1, 0.3)[:, 0].abs()
    tensor([0.3000, 0.3000, 0.3000, 0.3000])
    """
    blocks = adaptive_avg_pool3d(volumes[:, None].float(), BLOCKS).flatten(1)
    u, s, _ = torch.linalg.svd(blocks - blocks.mean(0), full_matrices=False)
    scores = (u * s)[:, :width]
    return scores * (size / scores.square().mean().sqrt().clamp_min(1e-12))


def water_value(geometry: Geometry) -> float:
    """Water's attenuation per field unit, in image values of a set whose scale is known."""
    scale = geometry.line_integral_scale
    assert scale is not None  # whoever asks has looked
    return Volume.mu_water_per_mm * geometry.half_width_mm / scale


def water_in(values: Tensor, geometry: Geometry) -> float:
    """Water's attenuation in the unit of values [D, H, W], by their soft tissue without a scale."""
    if geometry.line_integral_scale is None:
        return soft_tissue(values) / SOFT_TISSUE
    return water_value(geometry)


def soft_tissue(values: Tensor) -> float:
    """The most frequent of the values [D, H, W] of what is dense, in the middle of a cube.

    A reconstruction without a scale tells by it what is water.
    """
    middle = tuple(slice(int(MARGIN * n), n - int(MARGIN * n)) for n in values.shape)
    inner = values[middle].float()
    top = float(inner.flatten().sort().values[int(0.999 * inner.numel())])
    counts = torch.histc(inner, BINS, DENSE * top, top)
    smooth = avg_pool1d(counts[None], 5, 1, 2)[0]
    return DENSE * top + (int(smooth.argmax()) + 0.5) * (1 - DENSE) * top / BINS


def body_alone(values: Tensor, geometry: Geometry) -> Tensor:
    """A reconstruction [D, H, W] without a scale, in units of water, with air around the body.

    Slices that the cone saw only in part are air as well.
    """
    relative = values.float() * (SOFT_TISSUE / soft_tissue(values))
    spacing = FieldVolume.of(values, geometry).spacing_mm
    volume = Volume.centred(1000 * relative - 1000, spacing, "hu")
    kept = find_body(volume).expanded(volume.shape)
    areas = kept.flatten(1).sum(1).float()
    whole = areas >= WHOLE * areas[areas > 0].median()
    return relative * (kept & whole[:, None, None])


def scaled_by_view(orbits: OrbitSet) -> bool:
    """Whether each view was stretched to its own maximum, as in the published sets.

    Reducing pictures lowers the maximum a little.
    """
    return orbits.geometry.line_integral_scale is None and bool(
        (orbits.images.amax((-1, -2)) > 0.8).all()
    )


def make_training_volumes(
    orbits: OrbitSet, *, size: int = 64, progress: bool = True
) -> TrainingVolumes:
    """Read or reconstruct every patient's volume, ``size`` voxels along a side.

    A patient takes 0.1 s with a CT, and about 20 s without (then it is kept).
    """
    geometry, per_view = orbits.geometry, scaled_by_view(orbits)
    volumes, gains, distances = volumes_of(len(orbits.patients), size), [], []
    ct_helps = geometry.line_integral_scale is not None and files_at_hand()
    unknown = [name for name in orbits.patients if not (ct_helps and name in orbits.volumes)]
    fov_deg = dict(zip(unknown, opening_angles(orbits, unknown, per_view, progress), strict=True))
    for name, orbit, slot in tqdm(
        list(zip(orbits.patients, orbits.images, volumes, strict=True)),
        desc="volumes",
        disable=None if progress else True,
    ):
        if name in fov_deg:
            opened = geometry if geometry.view_frames else geometry.with_fov(fov_deg[name])
            fingerprint = orbits.fingerprints[name][-1]
            values, gain = reconstructed_volume(orbit, opened, size, per_view, fingerprint)
        else:
            opened, gain = geometry, torch.ones(geometry.views)
            values = FieldVolume.from_ct(str(orbits.volumes[name]), geometry, size=size).values
        slot.copy_(values)
        gains.append(gain)
        distances.append(opened.distance)
    return TrainingVolumes(
        orbits.images,
        volumes,
        torch.stack(gains).clamp_min(0.05).log(),
        torch.tensor(distances),
        per_view,
    )


def volumes_of(patients: int, size: int) -> Tensor:
    """Room for the volumes of so many patients, float32 [P, size, size, size]."""
    return mapped_tensor((patients, size, size, size), cache_dir())


def opening_angles(
    orbits: OrbitSet, names: Sequence[str], per_view: bool, progress: bool
) -> list[float]:
    """Opening angle of each named orbit in degrees: the set's own, or a fitted one.

    It is fitted where pictures were scaled view by view and came without.
    """
    if not (per_view and names) or orbits.geometry.view_frames:
        return [orbits.geometry.fov_deg] * len(names)
    curves = []
    for name in tqdm(names, desc="field of view", disable=None if progress else True):
        path = cache_file(FOV_CURVE, orbits.fingerprints[name][-1], orbits.geometry)
        if path.is_file():
            curves.append(files.load_tensors(path)[0]["curve"])
            continue
        curves.append(fov_curve(orbits.images[orbits.patients.index(name)], orbits.geometry))
        files.save_tensors(path, {"curve": curves[-1]}, {})
    return agreed_fovs_deg(torch.stack(curves), orbits.geometry.fov_deg)


def reconstructed_volume(
    orbit: Tensor, geometry: Geometry, size: int, per_view: bool, fingerprint: str
) -> tuple[Tensor, Tensor]:
    """Reconstruction and gains [V] of an orbit [V, rows, cols].

    They are kept in the cache by the pictures' fingerprint.
    """
    facts = (fingerprint, geometry, size, per_view, *geometry.view_frames)
    path = cache_file(RECONSTRUCTION, *facts)
    if path.is_file():
        tensors, _ = files.load_tensors(path)
        return tensors["values"], tensors["gains"]
    found = sart(orbit, geometry, size=size, fit_gains=per_view, epochs=PASSES, decay=DECAY)
    tensors = {"values": found.volume.values, "gains": found.gains}
    files.save_tensors(path, tensors, {"fit_db": found.fit_db})
    return tensors["values"], tensors["gains"]


def cache_file(*facts: object) -> Path:
    """Where what follows from these facts is kept."""
    key = blake2b(" ".join(map(str, facts)).encode(), digest_size=12).hexdigest()
    return cache_dir() / CACHE_FOLDER / f"{key}.safetensors"
