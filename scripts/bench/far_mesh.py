#!/usr/bin/env python3
"""Does the mesh of a scene in UTM metres lie at its true place? Read by trimesh.

    pip install trimesh
    python scripts/bench/far_mesh.py --work DIR

A ball of 0.9 m, seen by cameras 4 m away, is written as ``transforms.json`` once about the origin
and once about (400000, 5000000, 300), and each is fitted alike. Positions are rounded to 2⁻²⁰ m, so
that double precision holds them exactly in both places, and the fits begin alike. The second mesh
must then be the first one, moved; and both are compared with the ball itself.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from mednerf_kit.core import files
from mednerf_kit.data.posed import toy
from mednerf_kit.engine.session import train
from mednerf_kit.imaging.cameras import Cameras, look_at
from mednerf_kit.scene.render import render_run

PLACES = {"origin": (0.0, 0.0, 0.0), "utm": (400000.0, 5000000.0, 300.0)}
SAMPLES = 4  # along each side of a pixel
AWAY_M, EXACT_M = 4.0, 2.0**-20


def cameras_about(views: int, size: int) -> Cameras:
    """Cameras on a spiral about the origin, from below its middle to above."""
    k = torch.arange(views, dtype=torch.float64)
    height = 0.9 * (2 * (k + 0.5) / views - 1)
    turn, across = math.pi * (3 - math.sqrt(5)) * k, (1 - height.square()).sqrt()
    position = AWAY_M * torch.stack([across * turn.cos(), across * turn.sin(), height], -1)
    poses = look_at(position.float(), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    poses[:, :, 3] = (poses[:, :, 3] / EXACT_M).round() * EXACT_M
    centre = torch.full((views, 2), (size - 1) / 2)
    return Cameras(poses, torch.full((views, 2), 1.4 * size), centre, size, size, 2.0, 6.0)


def write(folder: Path, cameras: Cameras, place: tuple[float, float, float]) -> None:
    """Write the ball's pictures and poses, the origin moved to a place."""
    fine, frames = cameras.resized(SAMPLES * cameras.rows, SAMPLES * cameras.cols), []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for v, pose in enumerate(cameras.c2w.double()):
        held = avg_pool2d(toy.toy_picture(fine, v).movedim(-1, 0)[None], SAMPLES)[0].movedim(0, -1)
        straight = held[..., :3] / held[..., 3:].clamp_min(1e-6)
        pixels = (255 * torch.cat([straight, held[..., 3:]], -1)).round().byte().numpy()
        name = f"images/{v:03d}.png"
        Image.fromarray(pixels).save(folder / name)
        pose[:, 3] += torch.tensor(place, dtype=torch.float64)
        matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": name, "transform_matrix": matrix})
    (fx, fy), (cx, cy) = cameras.focal_px[0].tolist(), cameras.centre_px[0].tolist()
    lens = {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5}
    box = [[where + side for where in place] for side in (-1.5, 1.5)]
    bounds = {"near": cameras.near, "far": cameras.far, "box": box}
    size = {"w": cameras.cols, "h": cameras.rows}
    files.write_json(folder / "transforms.json", {**lens, **size, **bounds, "frames": frames})


def mesh_of_fit(scene: Path, recipe: str, steps: int) -> np.ndarray:
    """Vertices [N, 3] of a fit's mesh as trimesh reads them."""
    import trimesh

    settings = [f"steps={steps}", f"snapshot_steps={steps}", "scene.downscale=1"]
    run = train(
        dataset=str(scene),
        config=recipe,
        preset="quick",
        settings=settings,
        outdir=scene.parent / "runs",
        device="cpu",
    )
    out = render_run(run=str(run), video=False, mesh=True, out=scene / recipe, device="cpu")
    return np.asarray(trimesh.load(out / "mesh.ply", process=False).vertices)


def ball_through(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and radius of the ball nearest to points [N, 3] near the origin, by least squares."""
    rows = np.column_stack([2 * points, np.ones(len(points))])
    *centre, rest = np.linalg.lstsq(rows, (points**2).sum(1), rcond=None)[0]
    return np.array(centre), math.sqrt(rest + np.dot(centre, centre))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where scenes and runs go")
    parser.add_argument("--recipes", nargs="+", default=["tensorf", "neus"])
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cameras = cameras_about(args.views, args.size)
    for name, place in PLACES.items():
        write(args.work / name, cameras, place)
    for recipe in args.recipes:
        near, far = (mesh_of_fit(args.work / name, recipe, args.steps) for name in PLACES)
        back = far - np.array(PLACES["utm"])  # exact: both are doubles of about the same size
        same = near.shape == back.shape
        apart = np.abs(back - near).max() if same else math.nan
        single = np.abs(far.astype(np.float32) - far).max()
        centre, radius = ball_through(back)
        off = np.linalg.norm(centre - np.array(toy.BALL.centre))
        wider = radius - toy.BALL.radius
        away = np.linalg.norm(back - np.array(toy.BALL.centre), axis=1) - toy.BALL.radius
        print(
            f"{recipe}: {len(far)} vertices, {1000 * apart:.2g} mm from the mesh about the origin "
            f"(single precision: {1000 * single:.0f} mm)"
        )
        print(
            f"    ball: centre {1000 * off:.1f} mm off, radius {1000 * wider:+.1f} mm, "
            f"surface {1000 * np.median(np.abs(away)):.1f} mm off"
        )


if __name__ == "__main__":
    main()
