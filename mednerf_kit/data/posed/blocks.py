"""The embedded scene ``blocks``: solids on a checkered floor, ray-traced in closed form.

Depth and surface are exact.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...core import files
from ...core.errors import RunError, UserError
from ...imaging.cameras import Cameras, box_span, look_at
from ..cohort import cache_dir
from .blender import Blender
from .depth import depth_beside, pixel_grid, save_depth
from .reading import Reading
from .scene import SCENES
from .solids import Ball, Block, Cylinder, Paint, Surface, dot
from .types import Scene

VERSION = 1  # of the scene: a change makes cached pictures anew
ANGLE_X = 0.6911112070083618  # opening angle of nerf_synthetic, radians
DISTANCE = 4.0
TEST_VIEWS, VAL_VIEWS = 25, 10
SUPERSAMPLE = 2  # along each side of a pixel

BOX = torch.tensor([[-1.1, -1.1, -0.7], [1.1, 1.1, 0.6]])
SURFACE = Surface(
    (
        Block(
            (0.0, 0.0, -0.56), (1.0, 1.0, 0.06), Paint((0.82, 0.80, 0.76), (0.35, 0.36, 0.40), 0.25)
        ),
        Block(
            (-0.45, 0.42, -0.255),
            (0.22, 0.22, 0.22),
            Paint((0.80, 0.16, 0.12), (0.92, 0.45, 0.15), 0.11),
            25.0,
        ),
        Block(
            (0.48, 0.45, -0.06),
            (0.14, 0.20, 0.42),
            Paint((0.10, 0.25, 0.70), (0.10, 0.25, 0.70), shine=0.25),
            -35.0,
        ),
        Block(
            (0.02, 0.02, 0.27),
            (0.34, 0.09, 0.05),
            Paint((0.55, 0.36, 0.20), (0.72, 0.52, 0.32), 0.07),
            60.0,
        ),
        Ball((0.42, -0.42, -0.175), 0.30, Paint((0.95, 0.78, 0.10), (0.95, 0.78, 0.10), shine=0.7)),
        Ball((-0.12, -0.68, -0.325), 0.15, Paint((0.92, 0.92, 0.95), (0.20, 0.20, 0.22), 0.1)),
        Cylinder(
            (-0.52, -0.38, -0.145),
            0.20,
            0.33,
            Paint((0.10, 0.55, 0.25), (0.75, 0.88, 0.45), 0.13, shine=0.2),
        ),
        Cylinder(
            (0.02, 0.02, -0.13),
            0.04,
            0.34,
            Paint((0.30, 0.28, 0.32), (0.30, 0.28, 0.32), shine=0.4),
        ),
    )
)
SUN = torch.nn.functional.normalize(torch.tensor([0.45, -0.55, 0.75]), dim=0)


@SCENES.register("blocks")
class Blocks:
    """The embedded scene: solids on a floor with exact depth and surface; nothing to download.

    It is made on first use, in Blender's format, in the cache: training views spread over the upper
    half-space, 10 validation views and 25 test views. Facts: ``surface``, a
    :class:`~.solids.Surface` (signed distance, samples).

    Options:
        size: pixels along a side.
        train_views: number of training views.
    """

    recipe = "tensorf"

    def __init__(self, *, size: int = 200, train_views: int = 100) -> None:
        if size < 4 or train_views < 1:
            raise UserError(
                f"got blocks of {size} pixels and {train_views} views",
                "wanted at least 4 pixels and one view",
                "correct the recipe's scene node",
            )
        self.size, self.train_views = size, train_views

    @staticmethod
    def detect(root: Path) -> bool:
        return str(root) == "blocks"

    @staticmethod
    def example(folder: Path) -> Path:
        make_blocks(folder, size=16, train_views=2)
        return Path("blocks")

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        folder = cache_dir() / "scenes" / f"blocks-{VERSION}-{self.size}px-{self.train_views}views"
        if not folder.is_dir():
            make_blocks(folder, size=self.size, train_views=self.train_views, progress=True)
        scene = Blender().load(folder, split, reading)
        found = depth_beside(folder, split, scene.stems, scene.cameras)
        assert found is not None
        return replace(
            scene,
            name="blocks",
            format="blocks",
            depth=found.depth,
            box=BOX,
            facts={"surface": SURFACE},
            notes=(),
        )


def make_blocks(folder: Path, *, size: int, train_views: int, progress: bool = False) -> None:
    """Render the scene into a folder in Blender's format; the folder is whole or absent."""
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    cameras = {
        "train": train_cameras(train_views, size),
        "val": around(VAL_VIEWS, size, 35.0),
        "test": around(TEST_VIEWS, size, 25.0),
    }
    bar = tqdm(
        total=sum(c.count for c in cameras.values()),
        desc=f"blocks into {folder}",
        disable=None if progress else True,
        file=sys.stderr,
    )
    try:
        for split, some in cameras.items():
            write_split(temporary, split, some, bar)
        bar.close()
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            os.replace(temporary, folder)
    except OSError as error:
        raise RunError(
            f"could not write '{folder}' ({error.strerror or error})",
            "wanted a writable disk with space",
            "free some, or set MEDNERF_KIT_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_split(folder: Path, split: str, cameras: Cameras, bar: tqdm | None = None) -> None:
    """Render a split's views into ``SPLIT/r_N.png``, with transforms and depth beside it."""
    from PIL import Image

    (folder / split).mkdir(parents=True, exist_ok=True)
    frames, depths, stems = [], [], [f"r_{v}" for v in range(cameras.count)]
    for v, stem in enumerate(stems):
        one = cameras.take([v])
        color, alpha = picture(one)
        straight = torch.cat([color / alpha[..., None].clamp_min(1e-6), alpha[..., None]], -1)
        pixels = (255 * straight.clamp(0, 1)).round().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / split / f"{stem}.png")
        depths.append(exact_depth(one))
        matrix = [*cameras.c2w[v].tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"./{split}/{stem}", "transform_matrix": matrix})
        if bar is not None:
            bar.update()
    save_depth(folder / f"depth_{split}.npz", stems, torch.stack(depths))
    files.write_json(
        folder / f"transforms_{split}.json", {"camera_angle_x": ANGLE_X, "frames": frames}
    )


def train_cameras(views: int, size: int) -> Cameras:
    """Cameras spread evenly over the upper half-space, 3° to 80° high: a golden-angle spiral."""
    height = torch.linspace(math.sin(math.radians(3)), math.sin(math.radians(80)), views + 2)[1:-1]
    # Views in the order of height would make the few evenly chosen ones a spiral stair: a fixed
    # shuffle mixes them.
    height = height[torch.randperm(views, generator=torch.Generator().manual_seed(0))]
    return standing(height.asin(), torch.arange(views) * math.pi * (3 - math.sqrt(5)), size)


def around(views: int, size: int, mean_deg: float) -> Cameras:
    """Cameras on a full turn that rises and sinks twice by 20° about ``mean_deg``."""
    turn = 2 * math.pi * (torch.arange(views) + 0.5) / views
    return standing(torch.deg2rad(mean_deg + 20 * (2 * turn).sin()), turn, size)


def standing(elevation: Tensor, azimuth: Tensor, size: int) -> Cameras:
    """Cameras at angles [V] (radians) that look at the middle of the scene."""
    flat = elevation.cos()
    position = DISTANCE * torch.stack(
        [flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], -1
    )
    poses = look_at(position, torch.tensor([0.0, 0.0, -0.15]), torch.tensor([0.0, 0.0, 1.0]))
    shape = (len(poses), 2)
    focal = 0.5 * size / math.tan(0.5 * ANGLE_X)
    return Cameras(
        poses, torch.full(shape, focal), torch.full(shape, (size - 1) / 2), size, size, 2.0, 6.0
    )


def picture(cameras: Cameras, supersample: int = SUPERSAMPLE) -> tuple[Tensor, Tensor]:
    """What one camera sees: colour times coverage [H, W, 3] and coverage [H, W].

    Each pixel is the mean of supersample² rays.
    """
    rows, cols = cameras.rows, cameras.cols
    origin, direction = dense_rays(cameras.resized(rows * supersample, cols * supersample))
    seen = torch.zeros(len(origin), 4)
    enter, leave = box_span(origin, direction, BOX)
    for some in (leave > enter).nonzero()[:, 0].split(1 << 17):
        seen[some] = shade(origin[some], direction[some])
    fine = seen.view(rows, supersample, cols, supersample, 4).mean((1, 3))
    return fine[..., :3], fine[..., 3]


def exact_depth(cameras: Cameras) -> Tensor:
    """Distance [H, W] of the first surface along each pixel's ray; nan where there is none."""
    t, _, _ = SURFACE.first_hit(*dense_rays(cameras))
    return torch.where(t.isfinite(), t, torch.nan).view(cameras.rows, cameras.cols)


def dense_rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and directions [N, 3] of all pixels of one camera."""
    origin, direction = cameras.world_rays(*pixel_grid(cameras))
    return origin.reshape(-1, 3), direction.reshape(-1, 3)


def shade(origin: Tensor, direction: Tensor) -> Tensor:
    """Colour times coverage, and coverage, [N, 4] of rays [N, 3].

    Light comes from the sky and the sun, with its shadows and Blinn's highlight.
    """
    t, normal, which = SURFACE.first_hit(origin, direction)
    hit = t.isfinite().nonzero()[:, 0]
    out = torch.zeros(len(origin), 4)
    x, normal, which = origin[hit] + t[hit, None] * direction[hit], normal[hit], which[hit]
    color, shine = torch.zeros_like(x), torch.zeros(len(hit))
    for k, solid in enumerate(SURFACE.solids):
        of_it = which == k
        color[of_it], shine[of_it] = solid.paint(x[of_it]), solid.paint.shine
    facing = (normal @ SUN).clamp_min(0)
    lit = torch.zeros(len(hit))
    bright = facing > 0
    lit[bright] = (
        ~SURFACE.blocked(x[bright] + 1e-4 * normal[bright], SUN.expand(int(bright.sum()), 3))
    ).float()
    sky = 0.32 + 0.13 * normal[:, 2]
    half = torch.nn.functional.normalize(SUN - direction[hit], dim=-1)
    gloss = shine * dot(normal, half).clamp_min(0) ** 40
    out[hit, :3] = (color * (sky + 0.6 * lit * facing)[:, None] + (lit * gloss)[:, None]).clamp(
        0, 1
    )
    out[hit, 3] = 1.0
    return out
