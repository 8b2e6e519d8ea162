"""One patient of a sparse-view comparison: what the methods are given and what is kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...data.films.stored import GreyKind
from ...data.posed.orbit import OrbitScene
from ...imaging.geometry import DEFAULTS, Geometry, interpolated_by_angle
from ...imaging.volume import files_at_hand
from ...metrics import image as image_metrics
from ...prior.training_volumes import scaled_by_view
from ...recon.field_volume import FieldVolume
from ...recon.opening_angle import fov_curve, peak
from ...recon.sart import sart
from ...recon.set_checks import set_warnings

# a side of the grid on which gains are found: few unknowns, so that views cannot hide them
GAIN_VOXELS = 40


GAIN_RULE = (
    "Gains of a set that was scaled view by view are found once, from the training views alone, "
    "and taken out of the pictures "
    "that every method gets (a trained scene has fitted its own). A held-out view is predicted "
    "with the gain interpolated "
    "between its two neighbours in angle; psnr_gain_fitted_db uses its least-squares gain "
    "instead. Sets of one scale have gain 1."
)


@dataclass(frozen=True)
class Case:
    """One patient: what the methods are given, and what is kept apart."""

    name: str
    images: Tensor  # [N, rows, cols] training views, freed of their gains
    geometry: Geometry  # at their N angles
    # [N] picture over line integral, about 1 on average; ones where the set has one scale
    gains: Tensor
    held: Tensor  # [H, rows, cols] as stored
    held_geometry: Geometry
    held_stems: tuple[str, ...]
    truth: FieldVolume | None  # [size, size, size] of the CT, where there is one
    size: int
    scaled_by_view: bool
    notes: tuple[str, ...]

    def shown(self, volume: FieldVolume) -> Tensor:
        """A volume from the held-out angles, with the gains expected there: [H, rows, cols]."""
        gains = interpolated_by_angle(
            self.gains, self.geometry.angles_deg, self.held_geometry.angles_deg
        )
        return volume.project(self.held_geometry) * gains[:, None, None]


def read_case(
    dataset: str,
    *,
    patient: str | None,
    views: int,
    fov_deg: float | None,
    fit_fov: bool,
    size: int,
    input_kind: GreyKind = "line-integral",
    invert: bool = False,
) -> Case:
    """One patient's orbit: ``views`` evenly spaced ones to reconstruct from, the rest held out."""
    if size < image_metrics.SSIM_WINDOW_PX:
        raise UserError(
            f"got a size of {size} voxels",
            f"wanted at least {image_metrics.SSIM_WINDOW_PX}",
            "raise --size",
        )
    root = Path(dataset).expanduser()
    reader = OrbitScene(patient=patient, fov_deg=fov_deg, input_kind=input_kind, invert=invert)
    orbits = reader.read(root)
    geometry, count, notes = orbits.geometry, orbits.geometry.views, list(orbits.notes)
    if dataset not in DEFAULTS:
        notes += set_warnings(orbits)
    if (geometry.axis != "z" or geometry.tilt_deg) and not geometry.view_frames:
        raise UserError(
            f"got an orbit about {geometry.axis}, tilted by {geometry.tilt_deg:g}°",
            "wanted one about z without tilt",
            "choose another set",
        )
    if not 1 <= views < count:
        raise UserError(
            f"got {views} of {count} views",
            "wanted at least one, and one left to score with",
            "correct --views",
        )
    given, held = (reader.of_split(count, split, views, root) for split in ("train", "test"))
    pictures = orbits.images[0].float()
    name, by_view = orbits.patients[0], scaled_by_view(orbits)
    if fit_fov:
        fov, _ = peak(fov_curve(pictures[given], geometry.subset(given)))
        geometry = geometry.with_fov(fov)
        notes.append(f"opening angle {fov:.1f}°, fitted to the {views} views")
    given_geometry = geometry.subset(given)
    gains = view_gains(pictures[given], given_geometry) if by_view else torch.ones(views)
    truth = None
    if geometry.line_integral_scale is not None and name in orbits.volumes and files_at_hand():
        truth = FieldVolume.from_ct(str(orbits.volumes[name]), geometry, size=size)
    stems = tuple(f"xray_{k:03d}" for k in held)  # as the scene reader calls them
    return Case(
        name,
        pictures[given] / gains[:, None, None],
        given_geometry,
        gains,
        pictures[held],
        geometry.subset(held),
        stems,
        truth,
        size,
        by_view,
        tuple(notes),
    )


def view_gains(images: Tensor, geometry: Geometry) -> Tensor:
    """Gains [N] of images [N, rows, cols] that were scaled one by one.

    With them one coarse, smooth volume explains all images.
    """
    found = sart(
        images,
        geometry,
        size=GAIN_VOXELS,
        epochs=16,
        subset_views=1,
        relax=1.0,
        decay=0.9,
        smooth=0.01,
        fit_gains=True,
    )
    return found.gains
