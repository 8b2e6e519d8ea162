"""One patient of a set of DRRs as a posed scene: tomography from a few views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.types import SUPPORT
from ...imaging.cameras import Cameras
from ...imaging.geometry import DEFAULTS, Geometry
from ..cohort import FIRST_SEED
from ..orbits import FLAT, OrbitSet, find_pictures, load_orbits
from .reading import Reading
from .scene import SCENES
from .splits import chosen_views
from .types import Scene

SKEW = 1e-4  # cosine of the angle that the sides of a camera's picture may enclose
HOLD, OFFSET = 8, 3  # held-out views: every 8th, none of them at 0°, 90°, 180° or 270° of 72 views
MARKS = (
    "transforms.json",
    "transforms_train.json",
    "transforms_test.json",
    "poses_bounds.npy",
    "cameras_sphere.npz",
    "intrinsics.txt",
)


@SCENES.register("orbit")
class OrbitScene:
    """One patient of a set of DRRs, or of the phantom cohorts ``chest`` and ``knee``.

    Sets have the layouts own, folders or flat (data/README.md). Lengths are field units (half the
    field of view at the isocentre); pictures have one channel, the line integral over its scale.
    Every 8th view is held out; with ``views``, that many of the whole turn are the training views
    and all others are the test. Facts: ``geometry``, ``mm_per_unit``, ``line_integral_scale`` (or
    None), ``patient``.

    Options:
        patient: name of the patient; a number names the patient it is the number of (YAML reads 05
            as 5); None takes the first.
        support: half-width of the box.
        fov_deg: opening angle in place of the geometry's, for sets that came without distances.
        input_kind: what the pictures hold: line-integral, transmission or display.
        invert: turn the pictures over first: bone is dark in them.
    """

    recipe = None  # a set of them teaches a prior: the anatomy decides

    def __init__(
        self,
        *,
        patient: str | int | None = None,
        support: float = SUPPORT,
        fov_deg: float | None = None,
        input_kind: Literal["line-integral", "transmission", "display"] = "line-integral",
        invert: bool = False,
    ) -> None:
        self.patient, self.support, self.fov_deg = patient, support, fov_deg
        self.input_kind, self.invert = input_kind, invert

    @staticmethod
    def detect(root: Path) -> bool:
        if str(root) in DEFAULTS:
            return True
        if not root.is_dir() or any((root / mark).exists() for mark in MARKS):
            return False
        return (root / "geometry.json").is_file() or any(
            FLAT.fullmatch(path.name) for path in root.glob("*.png")
        )

    @staticmethod
    def example(folder: Path) -> Path:
        from ..drr import write_patient

        geometry = replace(DEFAULTS["chest"].resized(16).orbit(8), offset_mm=(6.0, -3.0))
        geometry.save(folder / "geometry.json")
        for number, name in enumerate(("anna", "ben")):
            integrals = (
                ball_integrals(geometry, radius=0.5 + 0.1 * number) * geometry.half_width_mm * 0.02
            )
            write_patient(
                folder / name,
                integrals,
                scale=geometry.line_integral_scale,
                record={"identity": f"toy:{number}"},
            )
        return folder

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        if reading.background:
            raise UserError(
                "got a white background for X-rays",
                "wanted black, where nothing attenuates",
                "leave background out",
            )
        orbits = self.read(root)
        geometry, count = orbits.geometry, orbits.geometry.views
        orbits = orbits.resized(max(1, geometry.cols // reading.downscale))
        chosen = self.of_split(count, split, reading.views, root)
        cameras = cameras_of(orbits.geometry, support=self.support)
        facts = {
            "geometry": geometry,
            "mm_per_unit": geometry.half_width_mm,
            "line_integral_scale": geometry.line_integral_scale,
            "patient": orbits.patients[0],
        }
        notes = orbits.notes
        if self.patient is None:
            notes = (
                *notes,
                f"patient '{orbits.patients[0]}' was taken: set patient to choose another",
            )
        box = cameras.box
        assert box is not None
        return Scene(
            f"{root.name}-{orbits.patients[0]}",
            "orbit",
            split,
            tuple(f"xray_{k:03d}" for k in chosen),
            orbits.images[0, chosen, ..., None],
            None,
            None,
            None,
            cameras.take(chosen),
            box,
            0.0,
            "line_integral",
            facts,
            notes,
        )

    def read(self, root: Path) -> OrbitSet:
        """The set with the wanted patient, or its first, alone, under the wanted opening angle."""
        orbits = self._read(root)
        return (
            orbits
            if self.fov_deg is None
            else replace(orbits, geometry=orbits.geometry.with_fov(self.fov_deg))
        )

    def _read(self, root: Path) -> OrbitSet:
        if str(root) not in DEFAULTS:
            names = [self.named(root)] if self.patient is not None else None
            orbits = load_orbits(
                root, split="all", patients=names, input_kind=self.input_kind, invert=self.invert
            )
            return orbits.subset(orbits.patients[:1])
        name = str(self.patient or f"{root}-{FIRST_SEED['test']:05d}")
        number = name.rpartition("-")[2]
        if not name.startswith(f"{root}-") or not number.isdigit():
            raise UserError(
                f"got patient '{name}' of the {root} phantoms",
                f"wanted {root}-NNNNN",
                f"say for example {root}-20000",
            )
        part = max(
            (part for part, first in FIRST_SEED.items() if first <= int(number)),
            key=FIRST_SEED.__getitem__,
        )
        cohort = {
            other: int(number) - first + 1 if other == part else 0
            for other, first in FIRST_SEED.items()
        }
        return load_orbits(str(root), split=part, patients=[name], cohort=cohort)

    def named(self, root: Path) -> str:
        """The patient's name: a number is found among names that are numbers."""
        if isinstance(self.patient, int):
            known = find_pictures(root)[1]
            return next(
                (name for name in known if name.isdigit() and int(name) == self.patient),
                str(self.patient),
            )
        return str(self.patient)

    def of_split(self, count: int, split: str, views: int | None, root: Path) -> list[int]:
        """The views of a split: with ``views`` that many of the whole turn against all others."""
        every = range(count)
        if views is None:
            held = [k for k in every if k % HOLD == min(OFFSET, count - 1)]
        else:
            held = sorted(set(every) - set(chosen_views(every, "train", views, root)))
        of_split = {"all": list(every), "train": sorted(set(every) - set(held))}
        return chosen_views(of_split.get(split, held), split, None, root)


def cameras_of(geometry: Geometry, *, support: float = SUPPORT) -> Cameras:
    """The views of an X-ray set-up as cameras in field units.

    Their rays are those of :meth:`Geometry.view_rays`.

    The box is the support cylinder's in the orbit's plane, and across it all that any ray inside
    the cylinder reaches.
    """
    frames = geometry.frames_of_views()
    source, towards = frames.source / geometry.half_width_mm, frames.towards
    pitch = torch.stack([frames.column, frames.row], -2).norm(dim=-1)
    right, down = frames.column / pitch[:, :1], frames.row / pitch[:, 1:]
    if bool((right * down).sum(-1).abs().gt(SKEW).any()):
        raise UserError(
            "got view frames whose column_mm and row_mm are not at right angles",
            "wanted a rectangular detector for a scene",
            "use `mednerf-kit tomography` with sart",
        )
    # where the perpendicular from the source meets the detector, from its centre, in pixels
    foot = frames.source - frames.source_to_detector_mm[:, None] * towards - frames.detector
    shift = torch.stack([(foot * right).sum(-1), (foot * down).sum(-1)], -1) / pitch
    middle = torch.tensor([(geometry.cols - 1) / 2, (geometry.rows - 1) / 2])
    away = source.norm(dim=-1)
    cameras = Cameras(
        torch.stack([right, -down, towards, source], -1).float(),
        (frames.source_to_detector_mm[:, None] / pitch).float(),
        (middle + shift).float(),
        geometry.rows,
        geometry.cols,
        max(0.0, float(away.min()) - 2 * support),
        float(away.max()) + 2 * support,
    )
    return replace(cameras, box=_support_box(geometry, support))


def _support_box(geometry: Geometry, support: float) -> Tensor:
    """The box [2, 3] of the support cylinder, as high as any ray inside it reaches."""
    across = torch.linspace(-0.5, geometry.cols - 0.5, 9)
    yx = torch.cat(
        [torch.stack([torch.full_like(across, y), across], -1) for y in (-0.5, geometry.rows - 0.5)]
    )
    yx = yx.expand(geometry.views, -1, -1)
    view = torch.arange(geometry.views)[:, None].expand(yx.shape[:-1])
    rays = geometry.view_rays(view, yx, support=support)
    axis = "xyz".index(geometry.axis)
    half = torch.full((3,), support)
    half[axis] = (
        torch.stack(
            [rays.origin[..., axis] + t * rays.direction[..., axis] for t in (rays.near, rays.far)]
        )
        .abs()
        .max()
    )
    return torch.stack([-half, half])


def ball_integrals(geometry: Geometry, *, radius: float) -> Tensor:
    """Chords [V, rows, cols] of a ball about (0.2, −0.1, 0.15), all in field units."""
    yx = geometry.pixel_grid()[None].expand(geometry.views, -1, -1, -1)
    view = torch.arange(geometry.views)[:, None, None].expand(yx.shape[:-1])
    rays = geometry.view_rays(view, yx)
    away = torch.tensor([0.2, -0.1, 0.15]) - rays.origin
    along = (away * rays.direction).sum(-1)
    return 2 * (radius**2 - away.square().sum(-1) + along.square()).clamp_min(0).sqrt()
