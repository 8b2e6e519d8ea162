"""The commands that `faults.py` disturbs, with the smallest sizes that still show every part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzz_corpus import SMALL_FIELD

STEPS, EVERY = 12, 3  # of every training, and between snapshots
PRIOR = (
    "generator={name: hyper, code_dim: 4, width: 8, depth: 2, octaves: 2, rank: 2, "
    "mapping_width: 8, precision: fp32}",
    "dataset={size: 16, volume_size: 12}",
    "task={name: prior, objective: hybrid, batch: 2, points: 32, rays: 4, ray_share: 0.3, "
    "gan_start: 0.0, gan_lead: 1, gan_batch: 2, gan_views: 1, r1_interval: 2}",
    "levels=[{name: stratified, n: 4}]",
    "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 4}",
    "calibration_patients=0",
)
ADVERSARIAL = (
    "generator={name: graf, shape_dim: 2, appearance_dim: 2, width: 8, depth: 2, skip: 1, "
    "octaves: 2, view_octaves: 1, precision: fp32}",
    "discriminator={name: selfsup, size: 16, width: 2, doublings: 1, heads: 4}",
    "dataset={size: 16}",
    "levels=[{name: stratified, n: 4}]",
    "task.batch=2",
    "augment={name: xray}",
)
SCENE = (
    *(f"fields.scene.{option}" for option in SMALL_FIELD),
    "scene={size: 16, train_views: 3}",
    "selector={name: random, n: 32}",
    "levels=[{field: scene, sampler: {name: stratified, n: 8}}]",
)


@dataclass(frozen=True)
class Job:
    """A command whose results lie in a folder: its words, OUT and HOME standing for that folder
    and for the one of the inputs.
    """

    name: str
    words: tuple[str, ...]
    results: tuple[str, ...]  # patterns of the files that come out the same every time
    again: tuple[str, ...] = ()  # words more of the command that goes on
    processes: int = 1

    @property
    def trains(self) -> bool:
        """Whether it leaves snapshots."""
        return self.words[0] == "train"


def trains(name: str, dataset: str, config: str, settings: Sequence[str], n: int = 1) -> Job:
    """A training."""
    counts = (f"steps={STEPS}", f"snapshot_steps={EVERY}")
    options = [part for setting in (*settings, *counts) for part in ("--set", setting)]
    words = ("train", "--dataset", dataset, "--config", config, "--outdir", "OUT")
    last = f"snapshot-{STEPS:06d}.safetensors"
    again = ("--resume", "latest")
    return Job(name, (*words, "--device", "cpu", *options), (last,), again, n)


JOBS = (
    trains("train (prior)", "HOME/chest_set", "chest", PRIOR),
    trains("train (adversarial)", "HOME/chest_set", "chest_mednerf", ADVERSARIAL),
    trains("train (scene)", "blocks", "tensorf", SCENE),
    trains("train (two processes)", "HOME/chest_set", "chest", PRIOR, 2),
    Job(
        "project",
        (
            *("project", "--xray", "HOME/xray.png", "--run", "HOME/prior", "--samples", "1"),
            *("--no-update", "--size", "16", "--device", "cpu", "--precision", "fp32"),
            *("--outdir", "OUT/result"),
        ),
        ("result/*.nii.gz", "result/orbit/*", "result/orbit.mp4", "result/latent.safetensors"),
    ),
    Job(
        "render",
        (
            *("render", "--run", "HOME/prior", "--views", "12", "--volume", "--dicom"),
            *("--device", "cpu", "--out", "OUT/result"),
        ),
        ("result/*.nii.gz", "result/orbit/*", "result/orbit.mp4", "result/*.dcm"),
    ),
    Job(
        "tomography",
        (
            *("tomography", "--dataset", "HOME/chest_set", "--views", "4"),
            *("--method", "sart", "--method", "fdk", "--size", "16"),
            *("--out", "OUT/result"),
        ),
        ("result/*.nii.gz", "result/*.png"),
    ),
    Job(
        "data make",
        (
            *("data", "make", "knee", "--patients", "3", "--size", "16", "--views", "4"),
            *("--out", "OUT/set"),
        ),
        ("set/*.json", "set/*/*"),
    ),
    Job(
        "ablate",
        ("ablate", "HOME/ablation.yaml", "--outdir", "OUT/ablation", "--device", "cpu"),
        (f"ablation/**/snapshot-{STEPS:06d}.safetensors",),
    ),
)
