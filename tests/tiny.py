"""A set, a recipe and a prior so small that training takes seconds: ellipsoids of water with a
dense ball inside.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from mednerf_kit.data.drr import render_orbit, write_patient
from mednerf_kit.gan.generator import HyperGenerator
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.volume import Volume
from mednerf_kit.prior.load import Prior

SIZE, VIEWS, VOXELS = 32, 8, 24
PATIENTS = ("p0", "p1", "p2", "p3", "q0", "q1")
SPLIT = {"train": ["p0", "p1", "p2", "p3"], "val": [], "test": ["q0", "q1"]}
SETTINGS = [
    "generator={name: hyper, code_dim: 8, width: 16, depth: 2, octaves: 4, rank: 2, "
    "mapping_width: 16}",
    f"dataset={{size: {SIZE}, volume_size: {VOXELS}}}",
    "task={name: prior, objective: hybrid, batch: 4, points: 96, rays: 16, ray_share: 0.3, "
    "gan_start: 0.3, gan_interval: 2, "
    "gan_batch: 2, gan_views: 1, gan_lead: 0, r1_interval: 2}",
    "levels=[{name: stratified, n: 8}]",
    "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8}",
    "steps=10",
    "snapshot_steps=4",
]


def small_geometry(views: int = VIEWS, size: int = SIZE) -> Geometry:
    return DEFAULTS["chest"].resized(size).orbit(views)


def anatomy(number: int) -> Volume:
    """An ellipsoid and a ball, different for every number, in HU."""
    rng = torch.Generator().manual_seed(number)
    a, b, c, bx, by, bz = torch.rand(6, generator=rng).tolist()
    voxels, spacing_mm = 40, 9.0
    line = (torch.arange(voxels) - (voxels - 1) / 2) * spacing_mm
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    body = (x / (90 + 50 * a)) ** 2 + (y / (70 + 40 * b)) ** 2 + (z / (100 + 40 * c)) ** 2 < 1
    ball = (x - 80 * bx + 40) ** 2 + (y - 60 * by + 30) ** 2 + (z - 80 * bz + 40) ** 2 < 35**2
    values = torch.full(body.shape, -1000.0)
    values[body], values[ball] = 0.0, 900.0
    return Volume.centred(values, (spacing_mm,) * 3, "hu")


def make_set(
    root: Path, *, volumes: bool = True, per_view: bool = False, geometry: Geometry | None = None
) -> Path:
    """Six patients in the package's own layout, with their CTs or without, on one scale or each
    view on its own.
    """
    geometry = geometry or small_geometry()
    for number, name in enumerate(PATIENTS):
        volume = anatomy(number)
        write_patient(
            root / name,
            render_orbit(volume, geometry),
            scale=None if per_view else geometry.line_integral_scale,
            record={"identity": f"tiny:{number}"},
            volume=volume if volumes else None,
        )
    (replace(geometry, line_integral_scale=None) if per_view else geometry).save(
        root / "geometry.json"
    )
    (root / "split.json").write_text(json.dumps(SPLIT))
    return root


def random_prior(seed: int = 0, *, patients: int = 12) -> Prior:
    """An untrained generator whose random scenes differ clearly, as if trained on the small
    geometry.
    """
    torch.manual_seed(seed)
    generator = HyperGenerator(
        code_dim=8, width=24, depth=2, octaves=3, rank=3, mapping_width=16, precision="fp32"
    )
    with torch.no_grad():
        generator.bias[-1] -= 0.5
    generator.fit_prior(
        torch.randn(
            patients * 8, generator.latent_dim, generator=torch.Generator().manual_seed(seed)
        )
    )
    codes = torch.randn(
        patients, generator.latent_dim, generator=torch.Generator().manual_seed(seed + 1)
    )
    generator.requires_grad_(False).eval()
    geometry = small_geometry()
    return Prior(
        generator,
        geometry,
        codes,
        {"distance": geometry.distance, "per_view_scale": False},
        Path("tiny.safetensors"),
    )
