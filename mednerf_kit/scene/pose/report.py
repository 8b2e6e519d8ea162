"""``mednerf-kit pose`` over many starts: how often a search finds the pose of views it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from ... import DISCLAIMER
from ...core import files
from ...core.errors import UserError
from ...data.posed.types import Scene
from ...imaging.motion import about, apart, exp_se3, square
from ...viz import figures, plots
from .. import outputs
from ..load import Fit, load_fit
from .approach import approach
from .options import CONVENTIONS, GOOD_DEG, GOOD_SHIFT, PIXELS, PixelName, PoseSearch
from .search import refine

BINS = 4  # of the start angle


@dataclass(frozen=True)
class Starts:
    """P starts of views whose pose is known."""

    which: Tensor  # [P] index of the view
    c2w: Tensor  # [P, 3, 4]
    truth: Tensor  # [P, 3, 4]
    angle_deg: Tensor  # [P]


def draw_starts(
    scene: Scene,
    count: int,
    *,
    angle_deg: float,
    shift: float,
    turn: Literal["scene", "camera"],
    rng: Generator,
) -> Starts:
    """Starts of views drawn evenly, as :data:`CONVENTIONS` says."""
    which = torch.randperm(max(count, scene.count), generator=rng)[:count] % scene.count
    truth = scene.cameras.c2w[which]
    angle = angle_deg * (torch.arange(count) + torch.rand(count, generator=rng)) / count
    axis = normalize(torch.randn(count, 3, generator=rng), dim=-1)
    motion = exp_se3(torch.cat([axis * torch.deg2rad(angle)[:, None], torch.zeros(count, 3)], -1))
    middle = torch.zeros(3) if scene.cameras.ndc else scene.box.mean(0)
    pivot = truth[:, :, 3] if turn == "camera" else middle.expand(count, 3)
    c2w = (about(motion, pivot) @ square(truth))[:, :3]
    away = shift * (2 * torch.rand(count, 3, generator=rng) - 1)
    return Starts(
        which, torch.cat([c2w[:, :, :3], c2w[:, :, 3:] + away[..., None]], -1), truth, angle
    )


def report_run(
    *,
    run: str,
    starts: int = 24,
    angle: float = 20.0,
    shift: float = 0.1,
    turn: Literal["scene", "camera"] = "scene",
    split: str = "test",
    pixels: Sequence[PixelName] = PIXELS,
    search: PoseSearch | None = None,
    near_first: bool = True,
    blur: float = 0.08,
    settings: Sequence[str] = (),
    out: Path = Path("out/pose"),
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Success rates over random starts of a split's views, for each choice of ``pixels``.

    All choices have the same starts. Written to ``out`` are ``report.json``, ``starts.csv`` (a row
    a start) and ``success.png`` (success against the start's angle).

    Options:
        run: the fitted scene.
        starts: number of starts.
        angle: largest turn of a start in degrees.
        shift: largest shift along each axis, in units of the scene.
        turn: whether a start is turned about the scene's middle or the camera.
        split: whose views are started from.
        pixels: which ones are compared.
        search: how a pose is refined.
        near_first: the starts approach before rays are compared.
        blur: the widest blur of the approach, or else of the refinement.
    """
    if starts < 1 or not 0 < angle <= 180 or shift < 0:
        raise UserError(
            f"got {starts} starts within {angle:g}° and {shift:g} units",
            "wanted at least one, an angle up to 180°",
            "correct --starts, --angle or --shift",
        )
    fit = load_fit(run, settings=settings, device=device)
    scene = fit.scene(split)
    rng = Generator().manual_seed(seed)
    drawn = draw_starts(scene, starts, angle_deg=angle, shift=shift, turn=turn, rng=rng)
    search = replace(search or PoseSearch(), blur=blur)
    methods = _find_poses(fit, scene, drawn, pixels, search, near_first=near_first, rng=rng)
    if "approach" in methods:  # the blur was that of the approach
        search = replace(search, blur=0.0)
    rows = [
        row for name, poses in methods.items() for row in rows_of(name, poses, drawn, scene.stems)
    ]
    record = {
        "run": str(run),
        "scene": scene.name,
        "split": split,
        "starts": starts,
        "angle_deg": angle,
        "shift": shift,
        "turn": turn,
        "seed": seed,
        "search": asdict(search),
        "methods": {name: success_rates(rows, name, angle) for name in methods},
        "conventions": CONVENTIONS,
    } | ({"note": DISCLAIMER} if scene.quantity == "line_integral" else {})
    files.write_json(out / "report.json", record)
    files.write_text(out / "starts.csv", files.csv_text(rows))
    figures.write_png8(out / "success.png", success_picture(record))
    return record


def _find_poses(
    fit: Fit,
    scene: Scene,
    drawn: Starts,
    pixels: Sequence[PixelName],
    search: PoseSearch,
    *,
    near_first: bool,
    rng: Generator,
) -> dict[str, Tensor]:
    """The poses [P, 3, 4] at the start, after the approach and with each choice of pixels."""
    used, photo = drawn.which.unique(return_inverse=True)  # the photographs that are needed
    cameras, photos, begin = scene.cameras.take(used), scene.images[used].float(), drawn.c2w
    methods: dict[str, Tensor] = {"start": begin}
    known = (fit.model, cameras, photos)
    if near_first and scene.quantity == "colour":
        begin = approach(*known, begin, photo, rng=rng, blur=search.blur, device=fit.device)
        methods["approach"], search = begin, replace(search, blur=0.0)
    for name in tqdm(pixels, desc="pixels", disable=None):
        own = replace(search, pixels=name)
        methods[name] = refine(*known, begin, photo, own, rng=rng, device=fit.device).c2w
    return methods


def rows_of(name: str, poses: Tensor, drawn: Starts, stems: Sequence[str]) -> list[dict[str, Any]]:
    """What became of each start."""
    turn, shift = apart(poses, drawn.truth)
    start_turn, start_shift = apart(drawn.c2w, drawn.truth)
    return [
        {
            "method": name,
            "stem": stems[int(drawn.which[p])],
            "start_angle_deg": float(start_turn[p]),
            "start_shift": float(start_shift[p]),
            "rotation_error_deg": float(turn[p]),
            "shift_error": float(shift[p]),
            "success": int(turn[p] < GOOD_DEG and shift[p] < GOOD_SHIFT),
        }
        for p in range(len(poses))
    ]


def success_rates(rows: Sequence[Mapping[str, Any]], name: str, angle_deg: float) -> dict[str, Any]:
    """Success of a method over all starts, up to each bin's end, and in each bin of angles."""
    own = [row for row in rows if row["method"] == name]
    ends = [angle_deg * (k + 1) / BINS for k in range(BINS)]
    bins = [
        [r for r in own if low <= r["start_angle_deg"] < high]
        for low, high in zip([0.0, *ends], [*ends[:-1], 361.0], strict=False)
    ]
    up_to = [[r for r in own if r["start_angle_deg"] < high] for high in [*ends[:-1], 361.0]]

    def share(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        good = sum(r["success"] for r in some)
        return {
            "successes": good,
            "count": len(some),
            "success": good / len(some) if some else None,
        }

    return {
        **share(own),
        "median_rotation_error_deg": float(np.median([r["rotation_error_deg"] for r in own])),
        "median_shift_error": float(np.median([r["shift_error"] for r in own])),
        "up_to": [{"angle_deg": end, **share(some)} for end, some in zip(ends, up_to, strict=True)],
        "bins": [
            {"from_deg": end - angle_deg / BINS, "to_deg": end, **share(some)}
            for end, some in zip(ends, bins, strict=True)
        ],
    }


def success_picture(record: Mapping[str, Any]) -> np.ndarray:
    """Success against the start's angle: a curve a method, drawn at the middle of each bin."""
    curves = {}
    for name, found in record["methods"].items():
        filled = [b for b in found["bins"] if b["count"]]
        middles = [0.5 * (b["from_deg"] + b["to_deg"]) for b in filled]
        curves[f"{name} ({found['successes']} of {found['count']})"] = (
            middles,
            [b["success"] for b in filled],
        )
    x_label = (
        f"{record['starts']} starts, turned about the {record['turn']} by, degrees, "
        f"shifted by up to {record['shift']:g} units"
    )
    y_label = f"share within {GOOD_DEG:g}° and {GOOD_SHIFT:g}"
    return outputs.decoded(plots.curve_plot(curves, x_label, y_label))
