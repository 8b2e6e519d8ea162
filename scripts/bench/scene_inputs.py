#!/usr/bin/env python3
"""One scene written in the ways people have theirs, each fitted alike: does the way cost decibels?

    python scripts/bench/scene_inputs.py "$MEDNERF_KIT_DATA/nerf_synthetic/lego" --work DIR

The scene (the embedded ``blocks`` where none is given) is sampled to small pictures and written as
``transforms.json``: far from its origin, in millimetres, in folders, with back-slashes, stored
lying with an EXIF orientation, before a black wall, by a fisheye, and with a passer-by in the
training views whom masks cover. A way whose pictures and rays are read as those of its control is
the same fit and is not run again. What was measured stays in ``DIR/results.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from mednerf_kit.core import files
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.engine.session import train
from mednerf_kit.imaging.cameras import Cameras
from mednerf_kit.imaging.lens_models import MODELS, Lenses
from mednerf_kit.scene.evaluate import evaluate_run

HOLD = 8  # one view in so many is a test view, as the reader has it
SAMPLES = 8  # of the source along each side of a pixel
FAR = (5e6, -5e6, 5e6)
FISHEYE = (-0.05, 0.01)  # k1, k2
RED = (230, 25, 25)
NAMES = "images/{}.png"


@dataclass(frozen=True)
class Small:
    """Small pictures of a scene: RGBA [V, H, W, 4] of straight colours, and their cameras."""

    pictures: Tensor
    cameras: Cameras


def sampled(source: Scene, size: int, k: Sequence[float] = ()) -> Small:
    """The source's views by a pinhole of ``size`` pixels a side, or by a fisheye with k1 and k2.

    Both see the same angle across. Each pixel is the mean of 8² samples of the source.
    """
    wide = source.cameras
    (fx, fy), (cx, cy) = wide.focal_px[0].tolist(), wide.centre_px[0].tolist()
    edge = 0.5 * wide.cols / fx
    if k:
        theta = math.atan(edge)
        edge = theta * (1 + k[0] * theta**2 + k[1] * theta**4)
    shape = (wide.count, 2)
    focal, centre = torch.full(shape, 0.5 * size / edge), torch.full(shape, (size - 1) / 2)
    cameras = replace(wide, focal_px=focal, centre_px=centre, rows=size, cols=size, box=None)
    if k:
        coefficients = torch.zeros(wide.count, 9, dtype=torch.float64)
        coefficients[:, :2] = torch.tensor(k)
        number = [model.name for model in MODELS].index("fisheye")
        cameras = replace(cameras, lenses=Lenses(torch.full((wide.count,), number), coefficients))
    fine = (torch.arange(size * SAMPLES) + 0.5) / SAMPLES - 0.5
    yx = torch.stack(torch.meshgrid(fine, fine, indexing="ij"), -1)
    right, up, ahead = cameras.toward(torch.zeros(yx.shape[:2], dtype=torch.long), yx).unbind(-1)
    x, y = right / ahead * fx + cx, -up / ahead * fy + cy
    grid = torch.stack([(2 * x + 1) / wide.cols - 1, (2 * y + 1) / wide.rows - 1], -1)[None]
    alpha = torch.ones(source.images.shape[:3]) if source.alpha is None else source.alpha.float()
    held = source.images.float() - (1 - alpha[..., None]) * source.background
    planes = torch.cat([held, alpha[..., None]], -1).movedim(-1, 1)
    seen = [grid_sample(one[None], grid, align_corners=False) for one in planes]
    mean = avg_pool2d(torch.cat(seen), SAMPLES).movedim(1, -1)
    straight = mean[..., :3] / mean[..., 3:].clamp_min(1e-6)
    return Small(torch.cat([straight, mean[..., 3:]], -1).clamp(0, 1), cameras)


def bytes_of(picture: Tensor, wall: float | None = None) -> np.ndarray:
    """A picture [H, W, 4] as RGBA, or as RGB before a wall of a grey level."""
    if wall is not None:
        picture = picture[..., :3] * picture[..., 3:] + wall * (1 - picture[..., 3:])
    return (255 * picture).round().byte().numpy()


def write(
    folder: Path,
    small: Small,
    *,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    length: float = 1.0,
    names: str = NAMES,
    separator: str = "/",
    wall: float | None = None,
    portrait: bool = False,
    lying: bool = False,
    passer_by: float = 0.0,
    scattered: bool = False,
) -> None:
    """Write the scene.

    Options:
        shift: of the world.
        length: of one of the source's lengths.
        names: of pictures, with the number of the view in place of ``{}`` and its third of ``{g}``.
        separator: in the file.
        wall: grey level of a wall, instead of transparency.
        portrait: the outer eighths of the columns are cut off.
        lying: pictures are stored as a camera does that was held upright, with their orientation.
        passer_by: share of the columns that one covers, somewhere in each training view.
        scattered: the pixels that the passer-by covers, as many of the object and of what is
            round it, lie anywhere in the view instead of beside each other.
    """
    frames, rng = [], np.random.default_rng(0)
    cameras, cut = small.cameras, small.cameras.cols // 8 if portrait else 0
    for v, picture in enumerate(small.pictures):
        pixels = bytes_of(picture[:, cut : picture.shape[1] - cut], 1.0 if passer_by else wall)
        name = names.format(f"{v:03d}", g="abc"[3 * v // cameras.count])
        pose = cameras.c2w[v].double()
        pose[:, 3] = length * pose[:, 3] + torch.tensor(shift, dtype=torch.float64)
        frame: dict[str, Any] = {"file_path": name.replace("/", separator)}
        frame["transform_matrix"] = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if passer_by:
            high, wide = pixels.shape[:2]
            across = round(passer_by * wide)
            left = int(rng.integers(wide // 8, wide - wide // 8 - across + 1))
            there = np.zeros((high, wide), bool)
            there[high // 8 : high - high // 16, left : left + across] = v % HOLD != 0
            if scattered:
                there = shuffled(there, picture[:, cut : cut + wide, 3].numpy() > 0.5, rng)
            pixels = np.where(there[..., None], np.uint8(RED), pixels)
            frame["mask_path"] = f"masks/{v:03d}.png"
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(255 * (~there).astype(np.uint8)).save(folder / frame["mask_path"])
        exif = Image.Exif()
        if lying:
            pixels, exif[274] = np.rot90(pixels), 6  # 6: to be turned by 90° clockwise
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name, exif=exif)
        frames.append(frame)
    (fx, fy), (cx, cy) = cameras.focal_px[0].tolist(), cameras.centre_px[0].tolist()
    lens: dict[str, Any] = {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5 - cut, "cy": cy + 0.5}
    lens |= {"w": cameras.cols - 2 * cut, "h": cameras.rows}
    if cameras.lenses is not None:
        k1, k2 = cameras.lenses.coefficients[0, :2].tolist()
        lens |= {"camera_model": "OPENCV_FISHEYE", "k1": k1, "k2": k2, "k3": 0.0, "k4": 0.0}
    files.write_json(folder / "transforms.json", {**lens, "frames": frames})


def shuffled(mask: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask [H, W] with its pixels in other places, as many of them ``where`` and elsewhere."""
    mask = mask.copy()
    for part in (where, ~where):
        mask[part] = rng.permutation(mask[part])
    return mask


@dataclass(frozen=True)
class Way:
    """A way of writing the scene, the one it is compared with, and how it is written and read."""

    control: str
    options: Mapping[str, Any]
    fisheye: bool = False
    settings: Sequence[str] = ()


WAYS = {
    "control": Way("control", {}),
    "folders": Way("control", {"names": "images/{g}/{}.png"}),
    "back_slashes": Way("control", {"separator": "\\"}),
    "far_off": Way("control", {"shift": FAR}),
    "millimetres": Way("control", {"length": 1000.0}),
    "black": Way("black", {}, settings=("scene.background=black",)),
    "black_wall": Way("black", {"wall": 0.0}),
    "fisheye": Way("control", {}, fisheye=True),
    "passer_by": Way("control", {"passer_by": 0.125}),
    "passer_by_wide": Way("control", {"passer_by": 0.4}),
    "scattered": Way("control", {"passer_by": 0.125, "scattered": True}),
    # of lego as much is to be seen as the two leave: 82 and 37 % of the object's pixels
    "17_views": Way("control", {}, settings=("scene.views=17",)),
    "8_views": Way("control", {}, settings=("scene.views=8",)),
    "portrait": Way("portrait", {"portrait": True}),
    "exif_lying": Way("portrait", {"portrait": True, "lying": True}),
}


def same_fit(a: Path, b: Path) -> bool:
    """Whether pictures and rays of two scenes are read alike."""
    one, other = load_scene(a), load_scene(b)
    values: Callable[[Scene], list[Tensor]] = lambda scene: [  # noqa: E731
        scene.images,
        scene.cameras.c2w,
        scene.cameras.focal_px,
        scene.cameras.centre_px,
        scene.box,
        torch.tensor([scene.cameras.near, scene.cameras.far, scene.background]),
    ]
    alike = all(
        x.shape == y.shape and torch.equal(x, y)
        for x, y in zip(values(one), values(other), strict=True)
    )
    return alike and one.valid is None and other.valid is None and one.stems == other.stems


def psnr_db(folder: Path, runs: Path, seed: int, steps: int, more: Sequence[str]) -> float:
    """PSNR on the test views after a fit."""
    settings = [f"steps={steps}", f"snapshot_steps={steps}", "scene.downscale=1", *more]
    run = train(
        dataset=str(folder),
        config="tensorf",
        preset="quick",
        settings=settings,
        outdir=runs,
        seed=seed,
        device="cpu",
    )
    return float(evaluate_run(run=str(run), device="cpu")["psnr_db"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", nargs="?", default="blocks")
    parser.add_argument("--work", type=Path, required=True, help="where scenes and runs go")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="of each way")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = load_scene(args.scene, views=args.views)
    kept = args.work / "results.json"
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    pinhole, fisheye = sampled(source, args.size), None
    for name in dict.fromkeys(way for only in args.only for way in (WAYS[only].control, only)):
        way, folder = WAYS[name], args.work / "scenes" / name
        if way.fisheye:
            fisheye = fisheye or sampled(source, args.size, FISHEYE)
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, fisheye if way.fisheye and fisheye else pinhole, **way.options)
        if (
            way.control != name
            and not way.settings
            and same_fit(folder, args.work / "scenes" / way.control)
        ):
            results[name] = "the same pictures and rays"
        for seed in range(args.seeds):
            if isinstance(results.get(name), str):
                break
            found = results.setdefault(name, {})
            if str(seed) not in found:
                runs = args.work / "runs" / name
                found[str(seed)] = psnr_db(folder, runs, seed, args.steps, way.settings)
                files.write_json(kept, results)
        print(row(name, results), flush=True)
    files.write_json(kept, results)


def row(name: str, results: Mapping[str, Any]) -> str:
    """A line of the table: PSNR, and how far from the mean of its control."""
    found, control = results[name], results[WAYS[name].control]
    if isinstance(found, str):
        return f"{name:16s} {found}"
    values = list(found.values())
    mean = statistics.mean(control.values())
    seeds = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    away = "" if found is control else f" {statistics.mean(values) - mean:+.2f}"
    return f"{name:16s} {statistics.mean(values):.2f} dB{seeds}{away}"


if __name__ == "__main__":
    main()
