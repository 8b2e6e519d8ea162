"""A prior that was trained on nothing: small, quick, and with everything a snapshot holds."""

from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from mednerf_kit.engine import snapshots
from mednerf_kit.gan.generator import HyperGenerator
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.invert.posterior import Inversion
from mednerf_kit.prior import load as prior_load
from mednerf_kit.recon.field_volume import bake

NODE = {"name": "hyper", "code_dim": 8, "width": 16, "depth": 2, "octaves": 3}
PATIENTS = 5
GEOMETRY = Geometry(
    source_to_isocentre_mm=1120,
    source_to_detector_mm=1600,
    rows=32,
    cols=32,
    pixel_mm=16,
    line_integral_scale=9,
).orbit(8)
QUICK = partial(Inversion, candidates=8, code_steps=12, pivot_steps=4, rays=96, nodes=16)


def snapshot(folder: Path, *, seed: int = 0, geometry: Geometry = GEOMETRY, **meta) -> Path:
    """Write a snapshot into a run folder; its patients are random codes."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    generator = HyperGenerator(**{k: v for k, v in NODE.items() if k != "name"})
    generator.requires_grad_(False)
    # bolder than a fresh one, so that two codes are two bodies
    for k, weight in enumerate(generator.shared):
        weight *= 1.5 if k else 1.0
    generator.bias[-1] -= 1.5  # line integrals below 1
    codes = torch.randn(PATIENTS, generator.latent_dim, generator=Generator().manual_seed(seed + 1))
    generator.fit_prior(codes)
    tensors = {f"ema.{name}": tensor for name, tensor in generator.state_dict().items()} | {
        "codes": codes
    }
    known = {
        "recipe": {"generator": NODE},
        "dataset": "chest",
        "anatomy": None,
        "geometry": geometry.to_json(),
        "per_view_scale": False,
        "distance": geometry.distance,
        "patients": [f"p{k}" for k in range(PATIENTS)],
        "identities": [],
        "split": "train",
        "seed": seed,
        "notes": ["a set of nobody"],
    }
    return snapshots.save_snapshot(folder, 1, tensors, known | meta)


def orbit_of(
    prior: prior_load.Prior, patient: int, angles_deg: tuple[float, ...], scale: float = 1.0
) -> Tensor:
    """Views [V, 32, 32] of one of its patients."""
    g = prior.generator
    code = g.weights(g.latent(g.whiten(prior.codes[patient : patient + 1])))
    volume = bake(g, code, prior.geometry, size=48)
    return scale * volume.project(prior.geometry.at(angles_deg), prior.distance)[0]
