"""``mednerf-kit pose`` on one photograph: its pose as a file, with pictures of how it was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ... import DISCLAIMER
from ...core import files
from ...core.errors import UserError, unknown_name
from ...core.resampling import area_resized
from ...data.posed.pictures import read_pictures
from ...data.posed.types import SPLITS, Scene
from ...data.posed.world import Frame, own_poses, world_poses, world_scale
from ...imaging.cameras import Cameras
from ...imaging.motion import apart, square
from ...metrics.image import psnr_from_mse_db
from ...viz import colours, figures, video
from .. import outputs
from ..load import Fit, load_fit, render_views
from .approach import approach
from .options import CONVENTIONS, PoseSearch
from .search import Refined, refine, sees_scene

FRAMES, FRAME_COLS = 24, 200  # of a GIF


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
    frame: Frame = "file",
    settings: Sequence[str] = (),
    out: Path = Path("out/pose"),
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Find the pose of one photograph; writes ``pose.json`` and ``pose.png`` to ``out``.

    Options:
        run: the fitted scene.
        image: a file, or SPLIT/STEM of the run's scene, whose true pose is then compared with.
        start: a pose file, in the ``frame`` (:func:`read_pose_file`).
        start_view: SPLIT/STEM of the view to start from, instead.
        search: how the pose is refined.
        near_first: the start approaches before rays are compared.
        blur: the widest blur of the approach, or else of the refinement.
        gif: write ``pose.gif`` too.
        frame: poses and their errors are in the world of the scene's files, or ``normalised`` in
            the space it was fitted in.
    """
    fit = load_fit(run, settings=settings, device=device)
    check_one_start(start, start_view)
    photo, camera, truth = read_photo(fit, image)
    way = fit.scene("train").to_world
    to_world = way if frame == "file" else None
    length = world_scale(to_world)
    begin = _start_pose(fit, start, str(start_view), to_world)
    check_start(fit, camera, begin)
    search = search or PoseSearch()
    first, found = approach_and_refine(
        fit,
        camera,
        photo,
        begin[None],
        torch.zeros(1, dtype=torch.long),
        search,
        near_first=near_first,
        blur=blur,
        rng=Generator().manual_seed(seed),
        keep_every=max(1, search.steps // FRAMES),
    )
    both = seen_from(camera, torch.stack([begin, found.c2w[0]]))
    ends = render_views(fit, both).image.clamp(0, 1)
    errors = [float((end - photo[0]).square().mean()) for end in ends]
    steps: list[int | str] = [*found.step]
    losses, path = found.loss[:, 0].tolist(), found.path[:, 0]
    if first is not None:  # the approach lies before the refinement's own start
        steps, losses = ["start", *steps], [errors[0], *losses]
        path = torch.cat([begin[None], path])
    record = {
        "camera_to_world": square(world_poses(found.c2w[0], to_world)).tolist(),
        "start": square(world_poses(begin, to_world)).tolist(),
        "run": str(run),
        "image": image,
        "approach": near_first,
        "search": asdict(search),
        "initial": pose_scores(errors[0], begin, truth, length),
        "final": pose_scores(errors[1], found.c2w[0], truth, length),
        "history": [
            {"step": step, **pose_scores(loss, pose, truth, length)}
            for step, loss, pose in zip(steps, losses, path, strict=True)
        ],
        "conventions": CONVENTIONS,
        **({} if way is None else {"frame": frame, "to_world": way.tolist()}),
    } | ({"note": DISCLAIMER} if fit.meta["quantity"] == "line_integral" else {})
    files.write_json(out / "pose.json", record)
    write_strip(out / "pose.png", ends, photo[0], record)
    if gif:
        write_convergence(fit, camera, photo[0], path, out / "pose.gif")
    return record


def check_one_start(start: Path | None, start_view: str | None) -> None:
    """Refuse no start, and two."""
    if (start is None) == (start_view is None):
        raise UserError(
            f"got {'no start' if start is None else 'two starts'}",
            "wanted one pose to start from",
            "give --start FILE or --start-view SPLIT/STEM",
        )


def _start_pose(fit: Fit, start: Path | None, start_view: str, to_world: Tensor | None) -> Tensor:
    """The pose [3, 4] of a file, which lies after ``to_world``, or else of a view."""
    if start is None:
        return view_of(fit, start_view)[1].c2w[0]
    return read_pose_file(start, to_world)


def check_start(fit: Fit, camera: Cameras, c2w: Tensor) -> None:
    """Refuse a pose [3, 4] from which no ray meets the scene."""
    box = fit.model.narrowed(camera).box
    if box is not None and not bool(sees_scene(replace(camera, c2w=c2w[None]), box)):
        raise UserError(
            "got a start from which no ray meets the scene",
            "wanted one that looks at it",
            "choose another start, such as --start-view train/STEM",
        )


def approach_and_refine(
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
    """Where the approach of the starts ended [P, 3, 4], or None without one, and what was refined.

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


def pose_scores(
    mse: float, pose: Tensor, truth: Tensor | None, length: float = 1.0
) -> dict[str, float]:
    """Error of a picture, and of its pose where the true one is known.

    The shift is in lengths of which the scene's own is ``length``.
    """
    found = {"mse": mse, "psnr_db": psnr_from_mse_db(mse)}
    if truth is not None:
        turn, shift = apart(pose, truth)
        found |= {"rotation_error_deg": float(turn), "shift_error": length * float(shift)}
    return found


def read_photo(fit: Fit, image: str) -> tuple[Tensor, Cameras, Tensor | None]:
    """A photograph [1, H, W, C] like the scene's pictures, its camera, and its true pose or None.

    The true pose [3, 4] is that of a view of the scene. A file has the size of the scene's
    pictures, or that before the recipe made them smaller.
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


def read_pose_file(path: Path, to_world: Tensor | None = None) -> Tensor:
    """A camera-to-world pose [3, 4] from a file, before ``to_world`` [4, 4].

    The file is JSON (a ``pose.json``, a ``transform_matrix``, rows), or has 12 or 16 numbers.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"got start '{path}', which cannot be read", "wanted a pose file", "check the path"
        ) from None
    try:
        if text.lstrip().startswith(("{", "[")):
            value = json.loads(text)
            if isinstance(value, Mapping):
                value = value.get("camera_to_world", value.get("transform_matrix"))
            pose = torch.tensor(value, dtype=torch.float64).reshape(-1, 4)
        else:
            numbers = [float(word) for word in text.replace(",", " ").split()]
            pose = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 4)
    except (ValueError, TypeError, RuntimeError):
        pose = torch.zeros(0, 4)
    turn = pose[:3, :3]
    whole = pose.shape in ((3, 4), (4, 4)) and bool(pose.isfinite().all())
    if not whole or not torch.allclose(turn @ turn.mT, torch.eye(3).to(turn), atol=1e-2):
        raise UserError(
            f"got start '{path}', which holds no pose",
            "wanted a 3×4 or 4×4 camera-to-world matrix with a rotation",
            "write it as JSON under camera_to_world, or as rows of numbers",
        )
    return own_poses(pose[:3], to_world)


def seen_from(camera: Cameras, poses: Tensor) -> Cameras:
    """The same camera [1] at poses [K, 3, 4]."""
    return replace(camera.take([0] * len(poses)), c2w=poses)


def write_strip(path: Path, ends: Tensor, photo: Tensor, record: Mapping[str, Any]) -> None:
    """Write the render at the start and refined, the photograph and the difference side by side.

    ``ends`` are [2, H, W, C], ``photo`` is [H, W, C].
    """
    tiles = outputs.three_channels(torch.stack([*ends, photo]))
    size = (ends[1] - photo).abs().mean(-1)
    error = torch.from_numpy(figures.coloured(size, (0.0, outputs.ERROR_LIMIT), colours.HEAT)) / 255
    labels = [
        f"start {record['initial']['psnr_db']:.1f} dB",
        f"refined {record['final']['psnr_db']:.1f} dB",
        "photograph",
        f"|difference| 0 to {outputs.ERROR_LIMIT:g}",
    ]
    figures.write_png8(path, figures.strip(torch.cat([tiles, error[None]]), 4, labels))


def write_convergence(fit: Fit, camera: Cameras, photo: Tensor, path: Tensor, out: Path) -> None:
    """Write the render along the path [K, 3, 4], half over the photograph [H, W, C], as a GIF.

    It rests at its end.
    """
    cols = min(FRAME_COLS, camera.cols)
    rows = round(camera.rows * cols / camera.cols)
    seen = render_views(fit, seen_from(camera, path).resized(rows, cols)).image.clamp(0, 1)
    small = area_resized(photo.movedim(-1, 0), rows, cols).movedim(0, -1)
    frames = 0.5 * (outputs.three_channels(seen) + outputs.three_channels(small[None]))
    video.write_gif(out, torch.cat([frames, frames[-1:].expand(8, -1, -1, -1)]), fps=8)
