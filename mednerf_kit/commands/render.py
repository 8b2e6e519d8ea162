"""``mednerf-kit render`` and ``mednerf-kit sample``: pictures of what a prior knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.errors import UserError
from .base import FILE, FOLDER, Numbers, Work, device_option, run_option


@click.command(cls=Work)
@run_option
@click.option("--seed", type=click.IntRange(min=0), show_default="0", help="A random patient of the prior.")
@click.option("--latent", type=FILE, help="The latent.safetensors of a projected X-ray, instead of a seed.")
@click.option("--views", type=click.IntRange(min=1), default=72, help="Views on the orbit.")
@click.option("--size", type=click.IntRange(min=16), show_default="the prior's", help="Pixels along a side.")
@click.option("--video/--no-video", default=True, help="Also orbit.mp4.")
@click.option("--volume/--no-volume", default=False, help="Also volume.nii.gz.")
@click.option("--out", type=FOLDER, default="out/render", help="Where the pictures go.")
@device_option
def render(*, seed: int | None, latent: Path | None, **options: Any) -> None:
    """Write the orbit of one patient of a prior: baked once into voxels, then projected."""
    if seed is not None and latent is not None:
        raise UserError("got both --seed and --latent", "wanted one patient", "leave one of them out")
    from ..train.render import render

    click.echo(render(seed=seed or 0, latent=latent, **options))


@click.command(cls=Work)
@run_option
@click.option("--seeds", type=Numbers(), default="0-15", help="Patients of the grid, such as 0,4-6.")
@click.option("--truncation", type=click.FloatRange(0, 1), default=1.0, help="Below 1: closer to the mean patient.")
@click.option("--interpolate", is_flag=True, help="Also a clip that walks from seed to seed.")
@click.option("--size", type=click.IntRange(min=16), show_default="the prior's", help="Pixels along a side.")
@click.option("--out", type=FOLDER, default="out/sample", help="Where the pictures go.")
@device_option
def sample(**options: Any) -> None:
    """Draw random patients from a prior: one row per seed, frontal and lateral."""
    from ..train.render import sample

    click.echo(sample(**options))
