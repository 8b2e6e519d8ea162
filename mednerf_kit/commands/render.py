"""``mednerf-kit render`` and ``mednerf-kit sample``: what a prior or a fitted scene looks like."""

from __future__ import annotations

from typing import Any

import click

from ..core.errors import UserError
from .base import (
    FILE,
    FOLDER,
    Numbers,
    Work,
    chosen,
    device_option,
    dicom_option,
    run_option,
    samplers_option,
)

ONLY_SCENES = {"path", "settings", "points", "mesh", "threshold", "transforms", "compare", "frame"}
SCENE_OPTIONS = {"run", "views", "size", "video", "out", "device", *ONLY_SCENES}


@click.command(cls=Work)
@run_option
@click.option(
    "--seed", type=click.IntRange(min=0), show_default="0", help="A random patient of the prior."
)
@click.option(
    "--latent", type=FILE, help="A latent.safetensors that `project` wrote, instead of a seed."
)
@click.option(
    "--show",
    type=click.Choice(["volume", "spread", "share", "null_space"]),
    default="volume",
    help="What of a latent: the volume, its standard deviation, the share that the X-rays "
    "determined, or what no X-ray can tell.",
)
@click.option("--views", type=click.IntRange(min=1), default=72, help="Views on the orbit.")
@click.option(
    "--size", type=click.IntRange(min=16), show_default="the prior's", help="Pixels along a side."
)
@click.option("--video/--no-video", default=True, help="Also orbit.mp4.")
@click.option("--volume/--no-volume", default=False, help="Also volume.nii.gz.")
@dicom_option
@click.option("--out", type=FOLDER, default="out/render", help="Where the files go.")
@click.option(
    "--path",
    type=click.Choice(["orbit", "spiral", "test"]),
    show_default="by the scene",
    help="Scenes: where to look from.",
)
@samplers_option
@click.option("--points", is_flag=True, help="Scenes: also points.ply.")
@click.option("--mesh", is_flag=True, help="Scenes: also mesh.ply, by marching cubes.")
@click.option(
    "--threshold",
    type=float,
    show_default="by the cells",
    help="Scenes: the density at which the mesh lies.",
)
@click.option(
    "--transforms",
    is_flag=True,
    help="Scenes: also nerfstudio's transforms.json with its images in images/.",
)
@click.option(
    "--frame",
    type=click.Choice(["file", "normalised"]),
    default="file",
    help="Scenes: points, mesh and poses in the world of the scene's files, or as it was fitted.",
)
@click.option(
    "--compare",
    metavar="RUN",
    multiple=True,
    help="Scenes: runs beside this one in compare.mp4 and .gif (repeatable).",
)
@device_option
@click.pass_context
def render(context: click.Context, **options: Any) -> None:
    """Write the orbit of one patient of a prior, or videos and surfaces of a fitted scene.

    A patient is baked into voxels once, then projected.
    """
    from ..engine.run_folder import is_scene_run

    if is_scene_run(options["run"]):
        from ..scene.render import render_run

        click.echo(render_run(**chosen(context, options, SCENE_OPTIONS, "a prior's run")))
        return
    from ..core.files import load_meta
    from ..prior.catalogue import find_prior

    find_prior(options["run"])
    if options["latent"] is not None:
        load_meta(options["latent"])

    from ..invert.render import render

    given = chosen(context, options, set(options) - ONLY_SCENES, "a scene's run")
    if given["seed"] is not None and given["latent"] is not None:
        raise UserError(
            "got both --seed and --latent", "wanted one patient", "leave one of them out"
        )
    click.echo(render(**{**given, "seed": given["seed"] or 0}))


@click.command(cls=Work)
@run_option
@click.option(
    "--seeds", type=Numbers(), default="0-15", help="Patients of the grid, such as 0,4-6."
)
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Below 1: closer to the mean patient.",
)
@click.option(
    "--draw",
    metavar="NAME",
    default="plane",
    help="How they are drawn (mednerf-kit list draw); by plane none is a training patient.",
)
@click.option("--interpolate", is_flag=True, help="Also a clip that walks from seed to seed.")
@click.option("--orbit", is_flag=True, help="Also a clip in which all of them turn.")
@click.option(
    "--size", type=click.IntRange(min=16), show_default="the prior's", help="Pixels along a side."
)
@click.option("--out", type=FOLDER, default="out/sample", help="Where the files go.")
@device_option
def sample(**options: Any) -> None:
    """Draw random patients from a prior: one row per seed, frontal and lateral."""
    from ..prior.catalogue import find_prior

    find_prior(options["run"])

    from ..invert.render import sample

    click.echo(sample(**options))
