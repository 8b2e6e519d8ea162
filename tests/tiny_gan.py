"""Trainings of the published systems, made small."""

from __future__ import annotations

from pathlib import Path

from tiny import SIZE

from mednerf_kit.engine import session

HYPER = [
    "generator={name: hypernerfgan, code_dim: 8, width: 16, depth: 3, skip: 2, octaves: 3, "
    "rank: 2}",
    "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8, policy: none, "
    "dag_weight: 0.0}",
]
GRAF = (
    "generator={name: graf, shape_dim: 4, appearance_dim: 4, width: 16, depth: 3, skip: 2, "
    "octaves: 3, view_octaves: 2}"
)
SELFSUP = "discriminator={name: selfsup, size: 16, width: 4, doublings: 1, heads: 4}"
SMALL = {
    "chest_hypernerfgan": HYPER,
    "knee_hypernerfgan": HYPER,
    "carla": HYPER,
    "chest_mednerf": [GRAF, SELFSUP],
    "knee_mednerf": [GRAF, SELFSUP],
    "chest_graf": [GRAF, "discriminator={name: patchgan, size: 16, width: 4}"],
}
QUICK = [
    "levels=[{name: stratified, n: 6}]",
    "task.batch=2",
    "steps=2",
    "snapshot_steps=2",
    "inversion={name: fine_tuning, samples: 1, candidates: 4, azimuths: 2, code_steps: 2, "
    "tune_steps: 2, patch_px: 16}",
]


def trained(name: str, dataset: Path, outdir: Path, *settings: str, **options) -> Path:
    size = f"dataset={{size: {SIZE}{', pictures: true' if name == 'carla' else ''}}}"
    folder = session.train(
        dataset=str(dataset),
        config=name,
        settings=[*SMALL[name], size, *QUICK, *settings],
        outdir=outdir,
        device="cpu",
        **options,
    )
    assert folder is not None
    return folder
