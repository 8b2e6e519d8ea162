"""``mednerf-kit evaluate``."""

from __future__ import annotations

import json
from typing import Any

import click

from .base import (
    FILE,
    FOLDER,
    SPLITS,
    Numbers,
    Work,
    chosen,
    device_option,
    precision_option,
    run_option,
    samplers_option,
    seed_option,
    set_kind_options,
)

HEADLINES = (
    "psnr_db",
    "psnr_gain_fitted_db",
    "ssim",
    "lpips",
    "psnr_mask_db",
    "ssim_mask",
    "edge_psnr_db",
    "alpha_iou",
    "depth_l1",
    "depth_delta",
    "sharpness",
    "chamfer",
    "watertight",
    "evals_per_ray",
    "train_seconds",
    "wall_seconds",
    "peak_mib",
    "n_patients",
    "n_views",
    "seen",
)
ONLY_SCENES = {"settings", "views", "eight_bit", "lpips_net", "lpips_weights"}
SCENE_OPTIONS = {"run", "dataset", "split", "limit", "out", "device", *ONLY_SCENES}


@click.command(cls=Work)
@run_option
@click.option(
    "--dataset",
    metavar="chest|knee|PATH",
    show_default="the run's",
    help="Phantoms by name, or a folder: DRRs, or where a run's scene lies now.",
)
@click.option(
    "--split", type=click.Choice(SPLITS), default="test", help="Which patients or views to score."
)
@click.option(
    "--input-angles",
    type=float,
    multiple=True,
    default=[270.0],
    metavar="DEG",
    help="View given to the prior, never scored (repeatable).",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    show_default="all",
    help="Score only this many patients (the first) or views (evenly spread).",
)
@click.option(
    "--views",
    type=Numbers(),
    show_default="all",
    help="Scenes: score these views only, such as 0,8,16-19.",
)
@click.option(
    "--seen", is_flag=True, help="Score patients the prior was trained on, and label them so."
)
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Also the coverage of the 90 % interval and the spread–error correlation.",
)
@click.option(
    "--keep-views",
    type=click.IntRange(min=0),
    default=1,
    help="Patients that are kept whole, for `view`: views, truth, spread, volumes.",
)
@click.option(
    "--out", type=FOLDER, show_default="in the run folder", help="Where the tables and plots go."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@set_kind_options
@samplers_option
@click.option(
    "--eight-bit",
    is_flag=True,
    help="Scenes: round renders to 8 bits first, as published tables do.",
)
@click.option(
    "--lpips-net",
    type=click.Choice(["vgg", "alex"]),
    default="vgg",
    help="Scenes: the backbone of LPIPS.",
)
@click.option(
    "--lpips-weights", type=FILE, help="Scenes: a backbone for LPIPS, where none is cached."
)
@seed_option
@device_option
@precision_option
@click.pass_context
def evaluate(context: click.Context, *, as_json: bool, **options: Any) -> None:
    """Score a prior on patients, or a scene on its views.

    A prior is given some views of a patient and all others are compared, beside trivial baselines.
    """
    from ..data.set_folder import check_dataset
    from ..engine.run_folder import is_scene_run
    from ..prior.catalogue import find_prior

    if is_scene_run(options["run"]):
        from ..scene.evaluate import evaluate_run

        scores = evaluate_run(**chosen(context, options, SCENE_OPTIONS, "a prior's run"))
    else:
        find_prior(options["run"])
        check_dataset(options["dataset"])

        from ..invert.evaluate import evaluate

        scores = evaluate(**chosen(context, options, set(options) - ONLY_SCENES, "a scene's run"))
    if as_json:
        click.echo(json.dumps(scores, indent=2, allow_nan=False))
        return
    rows = [(name, scores[name]) for name in HEADLINES if scores.get(name) is not None]
    for baseline, values in scores.get("baselines", {}).items():
        rows += [(f"{baseline} {n}", value) for n, value in values.items() if value is not None]
    rows += _details(scores)
    intervals = scores.get("intervals_95", {})
    for name, value in rows:
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        if interval := intervals.get(name.replace(" ", ".")):
            shown += f"  (95 %: {interval[0]:.3f} to {interval[1]:.3f})"
        click.echo(f"{name:32s} {shown}")
    if scores.get("lpips_note"):
        click.echo(scores["lpips_note"], err=True)


def _details(scores: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a prior's scores say beside the headlines, as names and values."""
    rows = [
        (f"{group} {name}", value)
        for group in ("volume", "uncertainty")
        for name, value in scores.get(group, {}).items()
    ]
    if "given_view" in scores:
        rows.append(("given_view_psnr_db", scores["given_view"]["psnr_db"]))
    kept = scores.get("power_kept", {})
    for of in [key for key in kept if key != "bands_cycles_per_picture"]:
        bands = zip(kept["bands_cycles_per_picture"], kept[of], strict=True)
        rows += [(f"power_kept {of} {band}", value) for band, value in bands]
    return [(name, value) for name, value in rows if value is not None]
