"""``mednerf-kit pose``: where a photograph was taken from."""

from __future__ import annotations

from typing import Any

import click

from .base import FILE, FOLDER, SPLITS, Work, chosen, device_option, run_option, seed_option

PIXELS = ["random", "interest", "region"]
SEARCH = ("points", "kernel", "iterations", "rays", "steps", "rate")  # what becomes a PoseSearch
SHARED = {"run", "settings", "out", "seed", "device", "near_first", "blur", "pixels", *SEARCH}
ONE = {"image", "start", "start_view", "gif", "frame"}
MANY = {"starts", "angle", "shift", "turn", "split"}


@click.command(cls=Work)
@run_option
@click.option(
    "--image",
    metavar="PHOTO|SPLIT/STEM",
    help="The photograph: a file, or a view of the run's scene.",
)
@click.option(
    "--start",
    type=FILE,
    help="A pose to start from: JSON (an earlier pose.json) or rows of numbers.",
)
@click.option(
    "--start-view", metavar="SPLIT/STEM", help="Start where this view of the scene was taken."
)
@click.option("--gif", is_flag=True, help="Also pose.gif, the way from start to end.")
@click.option(
    "--frame",
    type=click.Choice(["file", "normalised"]),
    default="file",
    help="Poses are in the world of the scene's files, or in the space it was fitted in.",
)
@click.option(
    "--report",
    is_flag=True,
    help="Success rate over random starts of known views, instead of one photograph.",
)
@click.option(
    "--starts", type=click.IntRange(min=1), default=24, help="Report: how many starts there are."
)
@click.option(
    "--angle",
    type=click.FloatRange(0, 180, min_open=True),
    default=20.0,
    help="Report: starts are turned by up to this, in degrees.",
)
@click.option(
    "--shift",
    type=click.FloatRange(min=0),
    default=0.1,
    help="Report: starts are shifted by up to this along each axis.",
)
@click.option(
    "--turn",
    type=click.Choice(["scene", "camera"]),
    default="scene",
    help="Report: what the starts are turned about.",
)
@click.option("--split", type=click.Choice(SPLITS), default="test", help="Report: whose views.")
@click.option(
    "--pixels",
    type=click.Choice(PIXELS),
    multiple=True,
    show_default="region; report: each",
    help="Compare any pixels, corners, or regions around corners.",
)
@click.option(
    "--points",
    type=click.Choice(["photo", "both"]),
    default="photo",
    help="Corners of the photo, or of the render too.",
)
@click.option(
    "--kernel",
    type=click.IntRange(min=1),
    default=5,
    help="Regions: side of the dilating square, odd.",
)
@click.option(
    "--iterations", type=click.IntRange(min=1), default=3, help="Regions: how often dilated."
)
@click.option("--rays", type=click.IntRange(min=1), default=512, help="Rays per step and start.")
@click.option("--steps", type=click.IntRange(min=1), default=200, help="Steps of the refinement.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    help="Adam's rate at first, radians.",
)
@click.option(
    "--blur",
    type=click.FloatRange(0, 0.49),
    default=0.08,
    help="Widest blur, as a share of the image's width.",
)
@click.option(
    "--approach/--no-approach",
    "near_first",
    default=True,
    help="First align what the start shows, as points in space, with the photo.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    help="Change samplers, and nothing else.",
)
@click.option("--out", type=FOLDER, default="out/pose", help="Where the files go.")
@seed_option
@device_option
@click.pass_context
def pose(context: click.Context, *, report: bool, **options: Any) -> None:
    """Find where a photograph of a fitted scene was taken from (iNeRF).

    With --report: how often that succeeds.
    """
    from ..core.errors import UserError
    from ..engine.run_folder import read_meta

    wanted = "a photograph (leave --report out)" if report else "--report"
    given = chosen(context, options, SHARED | (MANY if report else ONE), wanted)
    if report or options["image"] is not None:
        read_meta(options["run"])

    from ..scene.pose.options import PoseSearch
    from ..scene.pose.photograph import pose_run
    from ..scene.pose.report import report_run

    pixels: list[Any] = list(given.pop("pixels")) or (PIXELS if report else ["region"])
    search = {name: given.pop(name) for name in SEARCH}
    if report:
        found = report_run(**given, pixels=list(dict.fromkeys(pixels)), search=PoseSearch(**search))
        for name, method in found["methods"].items():
            turn, shift = method["median_rotation_error_deg"], method["median_shift_error"]
            click.echo(
                f"{name:10s} {method['successes']:4d} of {method['count']:4d}, median error "
                f"{turn:.2f}° {shift:.3f}"
            )
    else:
        if len(pixels) > 1:
            raise UserError(
                f"got --pixels {len(pixels)} times",
                "wanted one way for one photograph",
                "leave the others out",
            )
        if given["image"] is None:
            raise UserError(
                "got no --image",
                "wanted a photograph, or --report",
                "write for example --image test/r_0",
            )
        found = pose_run(**given, search=PoseSearch(**search, pixels=pixels[0]))
        for name in ("initial", "final"):
            click.echo(
                f"{name:8s}" + "".join(f" {key} {value:.4g}" for key, value in found[name].items())
            )
    click.echo(given["out"])
