"""``mednerf-kit pose``: one photograph's pose as files, and how often a search finds the pose of
views it knows.
"""

from __future__ import annotations

import json
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
from ...core.errors import UserError, unknown_name
from ...core.resampling import area_resized
from ...data.posed.pictures import read_pictures
from ...data.posed.types import SPLITS, Scene
from ...imaging.cameras import Cameras
from ...imaging.motion import about, apart, exp_se3, square
from ...metrics.image import psnr_from_mse_db
from ...viz import figures, plots, video
from .. import outputs
from ..load import Fit, load_fit, render_views
from .search import PIXELS, PixelName, PoseSearch, Refined, approach, refine, sees_scene

GOOD_DEG, GOOD_SHIFT = 5.0, 0.05  # a success: within both of the true pose
BINS = 4  # of the start angle, in a report
FRAMES, FRAME_COLS = 24, 200  # of a GIF
CONVENTIONS = {
    "pose": "camera to world, columns image right, image up, back, position (OpenGL)",
    "rotation_error_deg": "angle of the rotation between the found and the true pose",
    "shift_error": "distance between the found and the true camera centre, in units of the scene",
    "success": f"rotation error below {GOOD_DEG:g}° and shift error below {GOOD_SHIFT:g} units",
    "start": "true pose turned by an angle even over [0, angle] about a uniformly random axis "
    "through the scene's middle or "
    "through the camera, then shifted by up to shift units along each axis of the world",
}


# One photograph


def pose_run(
    *,
    run: str,
    image: str,
    start: Path | None = None,
    start_view: str | None = None,
    search: PoseSearch | None = None,
    near_first: bool = True,
    blur: float = 0.08,
    gif: bool = False,
    settings: Sequence[str] = (),
    out: Path = Path("out/pose"),
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Find the pose of one photograph; writes ``pose.json`` and ``pose.png`` (``pose.gif`` on
    request) to ``out``.

    ``image`` is a file or SPLIT/STEM of the run's scene, whose true pose is then known and compared
    with; the start is a pose file (:func:`read_pose`) or the pose of a view. With ``near_first``
    the start approaches before rays are compared, and ``blur`` is the widest of the approach, else
    of the refinement.
    """
    fit = load_fit(run, settings=settings, device=device)
    if (start is None) == (start_view is None):
        raise UserError(
            f"got {'no start' if start is None else 'two starts'}",
            "wanted one pose to start from",
            "give --start FILE or --start-view SPLIT/STEM",
        )
    photo, camera, truth = read_photo(fit, image)
    begin = read_pose(start) if start is not None else view_of(fit, str(start_view))[1].c2w[0]
    box = fit.model.narrowed(camera).box
    if box is not None and not bool(sees_scene(replace(camera, c2w=begin[None]), box)):
        raise UserError(
            "got a start from which no ray meets the scene",
            "wanted one that looks at it",
            "choose another start, such as --start-view train/STEM",
        )
    search = search or PoseSearch()
    rng = Generator().manual_seed(seed)
    first, found = look(
        fit,
        camera,
        photo,
        begin[None],
        torch.zeros(1, dtype=torch.long),
        search,
        near_first=near_first,
        blur=blur,
        rng=rng,
        keep_every=max(1, search.steps // FRAMES),
    )
    path = torch.cat([begin[None], found.path[:, 0]]) if first is not None else found.path[:, 0]
    ends = render_views(fit, seen_from(camera, torch.stack([begin, found.c2w[0]]))).image.clamp(
        0, 1
    )
    errors = [float((end - photo[0]).square().mean()) for end in ends]
    steps = ["start", *found.step] if first is not None else found.step
    losses = (
        [errors[0], *found.loss[:, 0].tolist()] if first is not None else found.loss[:, 0].tolist()
    )
    record = {
        "camera_to_world": square(found.c2w[0]).tolist(),
        "start": square(begin).tolist(),
        "run": str(run),
        "image": image,
        "approach": near_first,
        "search": asdict(search),
        "initial": scores(errors[0], begin, truth),
        "final": scores(errors[1], found.c2w[0], truth),
        "history": [
            {"step": s, **scores(e, pose, truth)}
            for s, e, pose in zip(steps, losses, path, strict=True)
        ],
        "conventions": CONVENTIONS,
    } | ({"note": DISCLAIMER} if fit.meta["quantity"] == "line_integral" else {})
    files.write_json(out / "pose.json", record)
    write_strip(out / "pose.png", ends, photo[0], record)
    if gif:
        write_convergence(fit, camera, photo[0], path, out / "pose.gif")
    return record


def look(
    fit: Fit,
    cameras: Cameras,
    photos: Tensor,
    starts: Tensor,
    which: Tensor,
    search: PoseSearch,
    *,
    near_first: bool,
    blur: float,
    rng: Generator,
    keep_every: int = 20,
) -> tuple[Tensor | None, Refined]:
    """Approach (if asked) and refine: where the approach ended [P, 3, 4] or None, and what became
    of it.

    Line integrals have no surface that could be carried from view to view, so they are refined from
    where they start.
    """
    first = None
    if near_first and fit.meta["quantity"] == "colour":
        first = approach(
            fit.model, cameras, photos, starts, which, rng=rng, blur=blur, device=fit.device
        )
    rest = replace(search, blur=blur if first is None else 0.0)
    begin = starts if first is None else first
    return first, refine(
        fit.model,
        cameras,
        photos,
        begin,
        which,
        rest,
        rng=rng,
        device=fit.device,
        keep_every=keep_every,
    )


def scores(mse: float, pose: Tensor, truth: Tensor | None) -> dict[str, float]:
    """Error of a picture, and of its pose where the true one is known."""
    found = {"mse": mse, "psnr_db": psnr_from_mse_db(mse)}
    if truth is not None:
        turn, shift = apart(pose, truth)
        found |= {"rotation_error_deg": float(turn), "shift_error": float(shift)}
    return found


def read_photo(fit: Fit, image: str) -> tuple[Tensor, Cameras, Tensor | None]:
    """A photograph [1, H, W, C] as the scene's pictures are, its camera, and the true pose [3, 4]
    of a view of the scene.

    A file has the size of the scene's pictures, or that before the recipe made them smaller.
    """
    path = Path(image).expanduser()
    if not path.is_file():
        scene, camera = view_of(fit, image)
        return scene.images.float(), camera, camera.c2w[0]
    scene = fit.scene("train").take([0])
    camera, channels = scene.cameras, scene.images.shape[-1]
    least = int(fit.meta["recipe"]["scene"].get("downscale", 1))
    for downscale in dict.fromkeys((1, least)):
        read = read_pictures([path], downscale=downscale, background=scene.background)
        if read.size == (camera.rows, camera.cols):
            return read.images.float()[..., :channels], camera, None
    larger = f" or {camera.cols * least}×{camera.rows * least}" if least > 1 else ""
    raise UserError(
        f"got '{path.name}' of {read.full[1]}×{read.full[0]} pixels",
        f"wanted {camera.cols}×{camera.rows}{larger}, as the scene's pictures are",
        "crop and resize it so that its focal length is the scene's too",
    )


def view_of(fit: Fit, name: str) -> tuple[Scene, Cameras]:
    """One view of the run's scene by SPLIT/STEM, and its camera."""
    split, _, stem = name.partition("/")
    if split not in SPLITS or not stem:
        raise UserError(
            f"got view '{name}', which is no file either",
            "wanted SPLIT/STEM, such as test/r_0",
            f"choose a split of {', '.join(SPLITS)}",
        )
    scene = fit.scene(split)
    if stem not in scene.stems:
        raise unknown_name(f"view of the {split} split", stem, scene.stems)
    one = scene.take([scene.stems.index(stem)])
    return one, one.cameras


def read_pose(path: Path) -> Tensor:
    """A camera-to-world pose [3, 4] from a file: JSON (a ``pose.json``, a ``transform_matrix``,
    rows) or 12 or 16 numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"got start '{path}', which cannot be read", "wanted a pose file", "check the path"
        ) from None
    try:
        if text.lstrip().startswith(("{", "[")):
            value = json.loads(text)
            if isinstance(value, Mapping):
                value = value.get("camera_to_world", value.get("transform_matrix"))
            pose = torch.tensor(value, dtype=torch.float32).reshape(-1, 4)
        else:
            pose = torch.tensor([float(word) for word in text.replace(",", " ").split()]).reshape(
                -1, 4
            )
    except (ValueError, TypeError, RuntimeError):
        pose = torch.zeros(0, 4)
    turn = pose[:3, :3]
    whole = pose.shape in ((3, 4), (4, 4)) and bool(pose.isfinite().all())
    if not whole or not torch.allclose(turn @ turn.mT, torch.eye(3), atol=1e-2):
        raise UserError(
            f"got start '{path}', which holds no pose",
            "wanted a 3×4 or 4×4 camera-to-world matrix with a rotation",
            "write it as JSON under camera_to_world, or as rows of numbers",
        )
    return pose[:3]


def seen_from(camera: Cameras, poses: Tensor) -> Cameras:
    """The same camera [1] at poses [K, 3, 4]."""
    return replace(camera.take([0] * len(poses)), c2w=poses)


def write_strip(path: Path, ends: Tensor, photo: Tensor, record: Mapping[str, Any]) -> None:
    """Start, refined, photograph and their difference side by side; ends [2, H, W, C], photo [H, W,
    C].
    """
    tiles = outputs.three_channels(torch.stack([*ends, photo]))
    size = (ends[1] - photo).abs().mean(-1)
    error = torch.from_numpy(figures.coloured(size, (0.0, outputs.ERROR_LIMIT), figures.HEAT)) / 255
    labels = [
        f"start {record['initial']['psnr_db']:.1f} dB",
        f"refined {record['final']['psnr_db']:.1f} dB",
        "photograph",
        f"|difference| 0 to {outputs.ERROR_LIMIT:g}",
    ]
    figures.write_png8(path, figures.strip(torch.cat([tiles, error[None]]), 4, labels))


def write_convergence(fit: Fit, camera: Cameras, photo: Tensor, path: Tensor, out: Path) -> None:
    """The render along the path [K, 3, 4], laid half over the photograph [H, W, C], as a GIF that
    rests at its end.
    """
    cols = min(FRAME_COLS, camera.cols)
    rows = round(camera.rows * cols / camera.cols)
    seen = outputs.three_channels(
        render_views(fit, seen_from(camera, path).resized(rows, cols)).image.clamp(0, 1)
    )
    small = area_resized(photo.movedim(-1, 0), rows, cols).movedim(0, -1)
    frames = 0.5 * (seen + outputs.three_channels(small[None]))
    video.write_gif(out, torch.cat([frames, frames[-1:].expand(8, -1, -1, -1)]), fps=8)


# Many starts


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
    """Success rates over random starts of a split's views, for each choice of ``pixels`` from the
    same starts; writes ``report.json``, ``starts.csv`` (a row a start) and ``success.png`` (success
    against the start's angle) to ``out``."""
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
    used, photo = drawn.which.unique(return_inverse=True)  # only these photographs are looked at
    cameras, photos, begin = scene.cameras.take(used), scene.images[used].float(), drawn.c2w
    search = replace(search or PoseSearch(), blur=blur)
    methods: dict[str, Tensor] = {"start": begin}
    if near_first and scene.quantity == "colour":
        begin = approach(
            fit.model, cameras, photos, begin, photo, rng=rng, blur=blur, device=fit.device
        )
        methods["approach"], search = begin, replace(search, blur=0.0)
    for name in tqdm(pixels, desc="pixels", disable=None):
        found = refine(
            fit.model,
            cameras,
            photos,
            begin,
            photo,
            replace(search, pixels=name),
            rng=rng,
            device=fit.device,
        )
        methods[name] = found.c2w
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
        "methods": {name: summary(rows, name, angle) for name in methods},
        "conventions": CONVENTIONS,
    } | ({"note": DISCLAIMER} if scene.quantity == "line_integral" else {})
    files.write_json(out / "report.json", record)
    files.write_text(out / "starts.csv", files.csv_text(rows))
    figures.write_png8(out / "success.png", success_picture(record))
    return record


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


def summary(rows: Sequence[Mapping[str, Any]], name: str, angle_deg: float) -> dict[str, Any]:
    """Success of a method over all starts, over those up to each bin's end, and in each bin of the
    start's angle.
    """
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
    """Success against the start's angle, a curve a method, with counts in the legend; drawn at the
    middle of each bin.
    """
    curves = {}
    for name, found in record["methods"].items():
        filled = [b for b in found["bins"] if b["count"]]
        middles = [0.5 * (b["from_deg"] + b["to_deg"]) for b in filled]
        curves[f"{name} ({found['successes']} of {found['count']})"] = (
            middles,
            [b["success"] for b in filled],
        )
    label = f"{record['starts']} starts, turned about the {record['turn']} by, degrees, shifted by up to {record['shift']:g} units"
    return outputs.decoded(
        plots.curve_plot(curves, label, f"share within {GOOD_DEG:g}° and {GOOD_SHIFT:g}")
    )
