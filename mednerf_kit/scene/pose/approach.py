"""Far starts brought near: what a start shows is carried into the photograph."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from ...core.types import Pixels
from ...imaging.cameras import Cameras
from ...imaging.motion import about, exp_se3, square
from ...rays.selectors.base import sample_bilinear
from ..model import Model
from ..views import render_cameras
from .pixels import blurred, sigmas_px
from .search import pivots, posed

SEEN_COLS = 48  # of the small picture seen from a start
POINTS = 512  # of what it shows that are carried into the photograph
TRIES, REACH_DEG = 192, 45.0  # turns of the start that are tried, and how far they go
KEPT = 6  # of them that are followed
STEPS_A_BLUR, FIRST_RATE = 30, 0.02  # steps under each blur, and Adam's rate under the first


def approach(
    model: Model,
    cameras: Cameras,
    photos: Tensor,
    starts: Tensor,
    which: Tensor,
    *,
    rng: Generator,
    blur: float = 0.08,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Poses [P, 3, 4] nearer to the photos than the starts, by direct alignment.

    Arguments are those of :func:`~.search.refine`.

    What is seen from a start, colour and depth, is points in space. A pose is good where the photo
    has their colours at the pixels they project to, under the same blur. That costs one look-up in
    the photo a point and no evaluation of the field, so that many turns of the start can be tried
    and the best of them followed from blur to blur; then once more with what is seen from there.
    Occlusion is left out of account, which leaves an error for :func:`~.search.refine`.
    """
    cameras = model.narrowed(cameras).take(which)
    sigmas = sigmas_px(blur, cameras.cols) or [1.0]
    soft = [blurred(photos.float(), sigma) for sigma in sigmas]
    for tries in (TRIES, 1):
        points, colours, known = seen_points(model, cameras, starts, sigmas, rng, device)
        poses = turned_starts(cameras, starts, tries, rng)
        with torch.no_grad():
            losses = torch.cat(
                [
                    _carried(cameras, soft[0], p, points, colours[0], which)
                    for p in poses.split(16, 1)
                ],
                1,
            )
        best = losses.topk(min(KEPT, tries), largest=False).indices
        poses = poses.gather(1, best[..., None, None].expand(-1, -1, 3, 4))
        ends, loss = _follow(cameras, soft, poses, points, colours, which)
        best = loss.argmin(1)[:, None, None, None].expand(-1, 1, 3, 4)
        starts = torch.where(known[:, None, None], ends.gather(1, best)[:, 0], starts)
    return starts


@torch.no_grad()
def seen_points(
    model: Model,
    cameras: Cameras,
    starts: Tensor,
    sigmas: list[float],
    rng: Generator,
    device: str | torch.device,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Surface points [P, N, 3] seen from the starts, their colours, and which starts see any.

    Points lie within twice the photo's width and height. Colours are [P, N, C] under each blur
    (in pixels of the photo); starts that see any are bool [P].
    """
    cols = min(SEEN_COLS, cameras.cols)
    rows = max(1, round(cameras.rows * cols / cameras.cols))
    wide = replace(cameras.resized(rows, cols), c2w=starts)
    if not cameras.ndc:  # a warped space ends where the picture does
        wide = replace(
            wide,
            rows=2 * rows,
            cols=2 * cols,
            centre_px=wide.centre_px + torch.tensor([cols, rows]) / 2,
        )
    seen = render_cameras(model, wide, device=device, progress=False)
    solid = (seen.opacity > 0.5).flatten(1)
    order = (solid + torch.rand(solid.shape, generator=rng)).argsort(1, descending=True)
    spot = order.gather(1, torch.arange(POINTS) % solid.sum(1, keepdim=True).clamp_min(1))
    yx = torch.stack([spot // wide.cols, spot % wide.cols], -1).float()
    view = torch.arange(len(starts))[:, None].expand(-1, POINTS)
    origin, direction = wide.world_rays(view, yx)
    distance = wide.from_ray(view, yx, seen.median_depth.flatten(1).gather(1, spot).nan_to_num(1.0))
    soft = [blurred(seen.image, sigma * cols / cameras.cols).flatten(1, 2) for sigma in sigmas]
    colours = [s.gather(1, spot[..., None].expand(-1, -1, s.shape[-1])) for s in soft]
    return origin + distance[..., None] * direction, colours, solid.sum(1) >= 16


def turned_starts(cameras: Cameras, starts: Tensor, tries: int, rng: Generator) -> Tensor:
    """The starts [P, 3, 4] and random turns of them, [P, tries, 3, 4].

    Two turns in three are on the spot, one in three about the scene.
    """
    axis = normalize(torch.randn(len(starts), tries, 3, generator=rng), dim=-1)
    # The cube root spreads the turns evenly over the ball of rotation vectors.
    angle = math.radians(REACH_DEG) * torch.rand(len(starts), tries, 1, generator=rng) ** (1 / 3)
    angle[:, 0] = 0.0
    motion = exp_se3(torch.cat([axis * angle, torch.zeros_like(axis)], -1))
    pivot = torch.where(
        (torch.arange(tries) % 3 == 2)[:, None], pivots(cameras, starts)[0][:, None], 0.0
    )
    return (square(starts)[:, None] @ about(motion, pivot))[..., :3, :]


def _follow(
    cameras: Cameras,
    soft: list[Tensor],
    poses: Tensor,
    points: Tensor,
    colours: list[Tensor],
    which: Tensor,
) -> tuple[Tensor, Tensor]:
    """Adam on poses [P, K, 3, 4] from blur to blur: where it ends, and the losses [P, K] there.

    The losses are those under the narrowest blur.
    """
    flat = poses.flatten(0, 1)
    pivot, unit = pivots(cameras, flat)
    twist = torch.zeros(len(flat), 6, requires_grad=True)
    optimiser = torch.optim.Adam([twist], betas=(0.9, 0.9))
    for k, photo in enumerate(soft):
        optimiser.param_groups[0]["lr"] = FIRST_RATE * 0.5**k
        for _ in range(STEPS_A_BLUR):
            loss = _carried(
                cameras,
                photo,
                posed(flat, twist, pivot, unit).view(poses.shape),
                points,
                colours[k],
                which,
            )
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimiser.step()
    with torch.no_grad():
        ends = posed(flat, twist, pivot, unit).view(poses.shape)
        return ends, _carried(cameras, soft[-1], ends, points, colours[-1], which)


def _carried(
    cameras: Cameras, photos: Tensor, poses: Tensor, points: Tensor, colours: Tensor, which: Tensor
) -> Tensor:
    """Mean squared difference [P, K] between points' colours and the photo where they fall.

    Points [P, N, 3] with colours [P, N, C] are seen from poses [P, K, 3, 4]. What falls outside
    the photo meets its border; what lies behind the camera counts fully.
    """
    count, tries, n = *poses.shape[:2], points.shape[1]
    owner = torch.arange(count).repeat_interleave(tries)
    view = torch.arange(len(owner))[:, None].expand(-1, n)
    yx, depth = replace(cameras.take(owner), c2w=poses.flatten(0, 1)).to_pixels(view, points[owner])
    ahead = (depth > 1e-3) & yx.isfinite().all(-1)
    at = Pixels(
        which[owner][:, None].expand(-1, n), torch.where(ahead[..., None], yx, 0.0), torch.ones(())
    )
    error = (sample_bilinear(photos, at) - colours[owner]).square().mean(-1)
    return torch.where(ahead, error, 1.0).mean(-1).view(count, tries)
